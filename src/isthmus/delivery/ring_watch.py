"""A message that goes round in a ring of brokers, where nothing on it says where it has been.

Over MQTT 5 the hops say it, as long as every connection of the ring speaks MQTT 5: one of MQTT 3,
as bridges of Mosquitto open it by default, drops them. What comes without is watched, over every
version. A message that goes round comes again and again, as fast as the brokers can. One look per
read is enough to see that, and costs next to nothing: whether the last message of the read is the
one that is watched for. If it comes often enough it is watched on, else another takes its place.

A publisher may send equal messages as fast for as long, so nothing is dropped for it: it is said
once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from isthmus.delivery.hops import MARK

if TYPE_CHECKING:
    from isthmus.mqtt.codec import Event

log = logging.getLogger("isthmus.delivery")

SAME_PER_S = 50
LASTING_S = 10
"""A message that comes so often in each of so many seconds probably goes round."""


class RingWatch:
    """Looks for a message that goes round, among what comes over all connections of a connector."""

    __slots__ = ("_name", "_payload", "_said", "_same", "_seconds", "_topic", "_until")

    def __init__(self, name: str) -> None:
        self._name = name
        self._said = False
        self._topic = b""
        self._payload = b""
        self._same = 0  # in this second
        self._seconds = 0  # that were as busy before it
        self._until = 0.0

    def look(self, events: list[Event], now: float) -> None:
        """Look at one read, which decoded to `events`, at the monotonic time `now`."""
        if not events:
            return
        event = events[-1]
        if type(event) is not tuple:
            event = events[0]
            if type(event) is not tuple:
                return
        last = event  # what has a type in the .pxd is taken apart faster
        _, topic, _, properties, payload = last
        # One with hops is stopped where it has been before.
        if now >= self._until:
            if MARK not in properties:
                self._next_second(topic, payload, now)
        elif topic == self._topic and payload == self._payload and MARK not in properties:
            self._same += 1

    def _next_second(self, topic: bytes, payload: bytes, now: float) -> None:
        if self._same < SAME_PER_S or now >= self._until + 1:
            self._topic, self._payload = topic, payload
            self._seconds = 0
        else:
            self._seconds += 1
            if self._seconds >= LASTING_S and not self._said:
                self._say()
        self._same = 0
        self._until = now + 1

    def _say(self) -> None:
        self._said = True
        log.warning(
            "connector %s: one and the same message came more than %d times a second for %d s, on "
            "%r; if nobody publishes that, brokers are bridged in a ring, and a connection of it "
            "speaks MQTT 3, which has no guard: use MQTT 5 on all connections of the ring, those "
            "between other brokers too, or leave its topics out of a route",
            self._name,
            SAME_PER_S,
            LASTING_S,
            self._topic[:100].decode(errors="replace"),
        )
