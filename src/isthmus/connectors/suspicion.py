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
"""A connection has to live so long before the message is sent, and as much longer at each further
trial: one that ends at a certain age anyway ends in a pause then."""

LONGEST_PAUSE_S = 10.0

SOON_S = 1.0
"""It has to end within so long after that."""

TRIALS = 3
"""So many in a row, and the message is to blame."""

DOUBLINGS = 6
"""Where nothing was acknowledged since the last message was blamed, it takes twice as many for the
next one, and so on, so often at most: it may be the far side that is to blame."""

CLOSES_LINK = "closes_link"
"""Why such a message is a dead letter, or dropped."""

REFUSED = 0x83
"""What its publisher is told, where it still waits for an answer."""

SHOWN_BYTES = 100


class Suspicion:
    """What the ends of one member's connections say about the oldest message that was in flight.

    `paused` says that the next connection has to begin without messages, and then with one alone.
    """

    __slots__ = (
        "_acknowledged", "_blamed", "_blamed_at", "_lane", "_lived", "_message", "_row",
        "_sent_before", "_timer", "_trials", "_wheel",
    )  # fmt: skip

    def __init__(self, lane: Lane, wheel: Wheel) -> None:
        self._lane = lane
        self._wheel = wheel
        self._message: tuple[bytes, bytes] | None = None
        self._row = self._trials = self._acknowledged = 0
        # Blamed in a row, and what had been acknowledged at the last one.
        self._blamed = self._blamed_at = 0
        # Of this connection: how many messages had left before the one alone, None while none is
        # to leave; and whether it has lived on since.
        self._sent_before: int | None = None
        self._lived = False
        self._timer: Timer | None = None

    @property
    def paused(self) -> bool:
        """See the class."""
        return self._row > ROW

    def first_room(self, lane: Lane, receive_maximum: int) -> int:
        """A connection is open: the receive maximum that `lane` is to begin with.

        Where that is less than `receive_maximum`, the lane gets this when the connection has shown
        that it lives.
        """
        self._stop_timer()
        self._lane = lane
        self._acknowledged = lane.acknowledged
        self._sent_before, self._lived = None, False
        if self._row < ROW:
            return receive_maximum
        if self.paused:
            pause_s = min(PAUSE_S * (self._trials + 1), LONGEST_PAUSE_S)
            self._after(pause_s, partial(self._send_one, receive_maximum))
            return 0
        self._after(SOON_S, partial(lane.allow, receive_maximum))
        return 1

    def ended(self, *, closed: bool) -> None:
        """A connection has ended; put the message aside that is to blame.

        `closed` says that the far side just closed it, without a word.
        """
        self._stop_timer()
        lane, message = self._lane, self._lane.oldest_inflight
        went_on = message is None or not closed or self._went_on
        if went_on or message != self._message:
            self._message, self._row, self._trials = message, 0, 0
        if went_on or message is None:
            return
        if not self.paused:
            self._row += 1
        elif self._lived:  # it did not mind the message
            self._trials = 0
        elif not self._sent_one:  # it closes without the message too
            self._row = self._trials = 0
        else:
            self._trials += 1
            if lane.acknowledged != self._blamed_at:
                self._blamed = 0
            if self._trials == TRIALS << min(self._blamed, DOUBLINGS):
                self._blame(*message)

    def forget(self) -> None:
        """What was seen is about another connection, or another service, than the next one."""
        self._stop_timer()
        self._message, self._row, self._trials = None, 0, 0

    @property
    def _went_on(self) -> bool:
        """Whether something was acknowledged on this connection."""
        return self._lane.acknowledged != self._acknowledged

    @property
    def _sent_one(self) -> bool:
        """Whether the message has left alone."""
        sent = self._lane.sent + self._lane.resent
        return self._sent_before is not None and sent != self._sent_before

    def _blame(self, topic: bytes, payload: bytes) -> None:
        lane = self._lane
        log.warning(
            "%s%s: the far side closes the connection whenever it gets a message of %d bytes on "
            "%r: it is not sent any more",
            lane.drops.place,
            f" ({lane.name})" if lane.name else "",
            len(payload),
            topic[:SHOWN_BYTES].decode(errors="backslashreplace"),
        )
        lane.condemn(CLOSES_LINK, REFUSED)
        self._blamed, self._blamed_at = self._blamed + 1, lane.acknowledged
        self.forget()

    def _send_one(self, receive_maximum: int) -> None:
        lane = self._lane
        if lane.window.releasing:  # an exchange of QoS 2 goes on, and may be what it does not like
            lane.allow(receive_maximum)
            return
        self._sent_before = lane.sent + lane.resent
        lane.allow(1)
        self._look_soon(receive_maximum)

    def _look_soon(self, receive_maximum: int) -> None:
        left = self._sent_one
        self._after(SOON_S, partial(self._look, receive_maximum, left=left))

    def _look(self, receive_maximum: int, *, left: bool) -> None:
        """Go on, when the message has left for SOON_S and nothing has happened.

        `left`: it had left SOON_S ago, as far as the lane knows. A limit of the rate may hold it
        back, and a slow peer too.
        """
        lane = self._lane
        waits = lane.queued + lane.inflight > 0 and (
            not left or (lane.link is not None and lane.link.blocked)
        )
        if waits and not self._went_on:
            self._look_soon(receive_maximum)
            return
        self._lived = True
        lane.allow(receive_maximum)

    def _after(self, delay_s: float, step: Callable[[], None]) -> None:
        self._timer = self._wheel.at(clock.monotonic() + delay_s, step)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
