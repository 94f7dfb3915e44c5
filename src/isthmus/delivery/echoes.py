"""Messages that a far side sends back: the loop guard where MQTT 3 has no word for it.

MQTT 5 has "no local", and Mosquitto a bit by which a bridge of MQTT 3 gets the same. A far side
that knows neither sends a bridge its own messages back. This memory counts what was sent to one far
side, and cancels as many copies of it that return soon: never more than were sent, so equal
messages of somebody else come through.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.delivery.outlet import LaneOutlet, Outlet

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.delivery.loop_alarm import LoopAlarm
    from isthmus.delivery.receipt import Receipt
    from isthmus.metrics.drops import Drops

REMEMBERED_S = 2.0
"""How long a copy may take to come back."""

REMEMBERED = 100_000
"""Messages that are remembered at most; the oldest are forgotten first."""


class Sent:
    """A message that was sent; `back` once a copy of it has returned."""

    __slots__ = ("back", "expires", "key", "retain")

    def __init__(self, key: int, expires: float, *, retain: bool) -> None:
        self.key = key
        self.expires = expires
        self.retain = retain
        self.back = False


class Echoes:
    """What was sent to one far side a moment ago. `drops` and `alarm` count what came back."""

    def __init__(
        self, drops: Drops, alarm: LoopAlarm, now: Callable[[], float] = clock.monotonic
    ) -> None:
        self._drops = drops
        self._alarm = alarm
        self._now = now
        self._sent: dict[int, deque[Sent]] = {}
        self._order: deque[Sent] = deque()

    def sent(self, topic: bytes, payload: bytes, *, retain: bool) -> None:
        """Remember a message that is sent now; `topic` is the far side's."""
        now = self._now()
        self._forget(now)
        sent = Sent(hash((topic, payload)), now + REMEMBERED_S, retain=retain)
        self._sent.setdefault(sent.key, deque()).append(sent)
        self._order.append(sent)

    def returned(self, topic: bytes, payload: bytes, *, retain: bool) -> bool:
        """Whether a message that came is a copy of one that was sent; it is then crossed out.

        A copy for a subscription has its retain flag cleared (MQTT-3.3.1-9), never set.
        """
        self._forget(self._now())
        same = self._sent.get(hash((topic, payload)), ())
        for sent in same:
            if not sent.back and (sent.retain or not retain):
                sent.back = True
                self._drops.add("echo", topic)
                self._alarm.add(topic)
                return True
        return False

    def _forget(self, now: float) -> None:
        order = self._order
        while order and (order[0].expires <= now or len(order) > REMEMBERED):
            key = order.popleft().key
            same = self._sent[key]
            same.popleft()
            if not same:
                del self._sent[key]


class RememberingOutlet(Outlet):
    """One topic to a far side, whose messages are remembered as they are sent."""

    __slots__ = ("_echoes", "_topic", "outlet")

    def __init__(self, echoes: Echoes, outlet: LaneOutlet) -> None:
        super().__init__(outlet.echo_key, hops=outlet.hops)
        self._echoes = echoes
        self.outlet = outlet
        self._topic = outlet.topic[2:]

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Remember and send one message; see `Outlet.send`."""
        retain = bool(self.outlet.first[flags] & 1)
        self._echoes.sent(self._topic, payload, retain=retain)
        self.outlet.send(flags, properties, payload, receipt)

    def with_flags(self, table: tuple[int, ...]) -> RememberingOutlet:
        """The same for messages whose flags are first mapped by `table`."""
        return RememberingOutlet(self._echoes, self.outlet.with_flags(table))
