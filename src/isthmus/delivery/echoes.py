"""Messages that a far side sends back: the loop guard where MQTT 3 has no word for it.

MQTT 5 has "no local", and Mosquitto a bit by which a bridge of MQTT 3 gets the same. A far side
that knows neither sends a bridge its own messages back. This memory counts what was sent to one far
side, and cancels as many copies of it that return soon: never more than were sent, so equal
messages of somebody else come through.

The lanes say what is sent, in the moment in which a connection gets it: what waits for long is
remembered no sooner. What is remembered goes by the topics of the routes that ask for it: see
`isthmus.delivery.topic_set`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.delivery.topic_set import TopicSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from isthmus.delivery.loop_alarm import LoopAlarm
    from isthmus.metrics.drops import Drops

REMEMBERED_S = 2.0
"""How long a copy may take to come back."""

REMEMBERED = 100_000
"""Messages that are remembered at most; the oldest are forgotten first."""

REMEMBERED_TOPICS = 10_000
"""Topics of which it is known whether a route asks for them."""

REMEMBERED_BYTES = 256
"""Of longer topics that is found out each time: they are rare, and would fill memory."""


class Echoes:
    """What was sent to one far side a moment ago, and did not come back yet.

    `filters` match the topics there that are remembered. `drops` and `alarm` count what came back.
    """

    def __init__(
        self,
        drops: Drops,
        alarm: LoopAlarm,
        filters: Iterable[bytes],
        now: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._drops = drops
        self._alarm = alarm
        self._now = now
        self._topics = TopicSet(filters)
        self._wanted: dict[bytes, bool] = {}
        # All in the order of sending, by number, with what equal ones share and when they are
        # forgotten; and the numbers of those that are equal.
        self._sent: OrderedDict[int, tuple[int, float]] = OrderedDict()
        self._equal: dict[int, deque[int]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._sent)

    def limit(self, filters: Iterable[bytes]) -> None:
        """Remember what is sent on these topics from now on."""
        self._topics = TopicSet(filters)
        self._wanted.clear()

    def wants(self, topic: bytes) -> bool:
        """Whether what is sent on this topic is remembered."""
        wanted = self._wanted.get(topic)
        if wanted is None:
            wanted = topic in self._topics
            if len(topic) <= REMEMBERED_BYTES:
                if len(self._wanted) >= REMEMBERED_TOPICS:
                    self._wanted.clear()
                self._wanted[topic] = wanted
        return wanted

    def sent(self, topic: bytes, payload: bytes, *, retain: bool) -> None:
        """Remember a message that is sent now; `topic` is the far side's."""
        if not self.wants(topic):
            return
        now = self._now()
        self._forget(now)
        key = hash((topic, payload, retain))
        self._count += 1
        self._sent[self._count] = (key, now + REMEMBERED_S)
        self._equal.setdefault(key, deque()).append(self._count)

    def returned(self, topic: bytes, payload: bytes, *, retain: bool) -> bool:
        """Whether a message that came is a copy of one that was sent; it is then crossed out.

        A copy for a subscription has its retain flag cleared (MQTT-3.3.1-9), never set.
        """
        self._forget(self._now())
        for was_retained in (retain, True):
            key = hash((topic, payload, was_retained))
            if key in self._equal:
                del self._sent[self._first(key)]
                self._drops.add("echo", topic)
                self._alarm.add(topic)
                return True
        return False

    def _first(self, key: int) -> int:
        """Take the number of the oldest of equal messages out."""
        equal = self._equal[key]
        number = equal.popleft()
        if not equal:
            del self._equal[key]
        return number

    def _forget(self, now: float) -> None:
        sent = self._sent
        while sent:
            number = next(iter(sent))
            key, expires = sent[number]
            if expires > now and len(sent) <= REMEMBERED:
                break
            del sent[number]
            self._first(key)
