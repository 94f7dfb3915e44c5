"""A message that makes the far side close the connection, each time it is sent.

A far side with MQTT 3 that does not want a message, as one that is too large, can only close. Sent
first on the next connection, such a message would keep all others from ever arriving. So where
connections end with the same message unacknowledged, it is sent alone; where that ends too, the
next ones begin with a pause, to see that they live without it. Only a message that ends three such
connections in a row is to blame, and nothing else that was in flight beside it.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from isthmus import clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.delivery.lane import Lane
    from isthmus.net.timers import Timer, Wheel

log = logging.getLogger("isthmus.connectors")

ROW = 2
"""After so many connections in a row that brought nothing forward, messages are sent alone.

That alone costs no time, where it was the network: the pause comes only after one connection more.
"""

PAUSE_S = 2.0
"""A connection has to live so long before the message is sent."""

SOON_S = 1.0
"""It has to end within so long after that."""

TRIALS = 3
"""So many in a row, and the message is to blame."""

CLOSES_LINK = "closes_link"
"""Why such a message is a dead letter, or dropped."""

REFUSED = 0x83
"""What its publisher is told, where it still waits for an answer."""

SHOWN_BYTES = 100


class Suspicion:
    """What the ends of one member's connections say about the oldest message in its `lane`.

    `paused` says that the next connection has to begin without messages, and then with one alone.
    """

    __slots__ = (
        "_acknowledged", "_lane", "_message", "_row", "_sent_at", "_timer", "_trials", "_wheel",
    )  # fmt: skip

    def __init__(self, lane: Lane, wheel: Wheel) -> None:
        self._lane = lane
        self._wheel = wheel
        self._message: tuple[bytes, bytes] | None = None
        self._row = self._trials = self._acknowledged = 0
        self._sent_at: float | None = None
        self._timer: Timer | None = None

    @property
    def paused(self) -> bool:
        """See the class."""
        return self._row > ROW

    def attaching(self, receive_maximum: int) -> int:
        """A connection is open; returns the receive maximum that the lane is to begin with.

        Where that is less, the lane gets `receive_maximum` when the connection has shown that it
        lives.
        """
        self._acknowledged = self._lane.acknowledged
        self._sent_at = None
        if self._row < ROW:
            return receive_maximum
        if self.paused:
            self._after(PAUSE_S, partial(self._send_one, receive_maximum))
            return 0
        self._after(SOON_S, partial(self._lane.allow, receive_maximum))
        return 1

    def ended(self, *, closed: bool) -> None:
        """A connection has ended; put the message aside that is to blame.

        `closed` says that the far side just closed it, without a word.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lane, message = self._lane, self._lane.oldest
        went_on = message is None or not closed or lane.acknowledged != self._acknowledged
        if went_on or message != self._message:
            self._message, self._row, self._trials = message, 0, 0
        if went_on or message is None:
            return
        if not self.paused:
            self._row += 1
        elif self._sent_at is None:  # it closes without the message too
            self._row = self._trials = 0
        elif clock.monotonic() - self._sent_at > SOON_S:
            self._trials = 0
        else:
            self._trials += 1
            if self._trials == TRIALS:
                self._blame(*message)

    def _blame(self, topic: bytes, payload: bytes) -> None:
        log.warning(
            "%s (%s): the far side closes the connection whenever it gets a message of %d bytes on "
            "%r: it is not sent any more",
            self._lane.drops.place,
            self._lane.name,
            len(payload),
            topic[:SHOWN_BYTES].decode(errors="backslashreplace"),
        )
        self._lane.condemn(CLOSES_LINK, REFUSED)
        self._message, self._row, self._trials = None, 0, 0

    def _send_one(self, receive_maximum: int) -> None:
        self._sent_at = clock.monotonic()
        self._lane.allow(1)
        self._after(SOON_S, partial(self._lane.allow, receive_maximum))

    def _after(self, delay_s: float, step: Callable[[], None]) -> None:
        self._timer = self._wheel.at(clock.monotonic() + delay_s, step)
