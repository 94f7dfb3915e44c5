"""What a connector is subscribed to at its far service.

Several routes may ask for overlapping filters. The far service is asked for a cover: filters of
which none includes another, so that it has no reason to send a message twice. Which route gets a
message is decided here, by matching its topic. Filters that overlap without one including the other
(`a/+` and `+/b`) stay apart; a service that sends a copy for each then delivers a message of `a/b`
twice.
"""

from __future__ import annotations

from isthmus.mqtt.topic_tree import TopicTree
from isthmus.mqtt.topics import covers

FILTERS_PER_PACKET = 100
"""Filters per SUBSCRIBE: enough to subscribe thousands in a few round trips, and a small packet."""


class Subscriptions:
    """Filters that subscribers asked for, and what the far service answered.

    `answers` maps each filter of the cover to the code of its SUBACK: the granted QoS, or 0x80 and
    above for a refusal. A filter without an answer yet is missing.
    """

    __slots__ = ("_asked", "_cover", "answers")

    def __init__(self) -> None:
        self._asked: dict[bytes, dict[object, int]] = {}
        self._cover: dict[bytes, int] | None = None
        self.answers: dict[bytes, int] = {}

    def add(self, filter_: bytes, subscriber: object, qos: int) -> None:
        """`subscriber` wants `filter_` with at most `qos`."""
        self._asked.setdefault(filter_, {})[subscriber] = qos
        self._cover = None

    def remove(self, filter_: bytes, subscriber: object) -> None:
        """`subscriber` no longer wants `filter_`."""
        subscribers = self._asked.get(filter_)
        if subscribers is not None:
            subscribers.pop(subscriber, None)
            self._cover = None
            if not subscribers:
                del self._asked[filter_]

    def cover(self) -> dict[bytes, int]:
        """The filters to subscribe to and the QoS of each, in the order they were asked."""
        if self._cover is None:
            self._cover = self._make_cover()
        return self._cover

    def _make_cover(self) -> dict[bytes, int]:
        asked = self._asked
        tree: TopicTree[bytes] = TopicTree()
        place = {}
        for index, filter_ in enumerate(asked):
            tree.add(filter_, None, filter_)
            place[filter_] = index

        def covering(filter_: bytes) -> list[bytes]:
            """The other filters that include `filter_`; of two that are equal, the earlier."""
            # A filter that includes another one matches its text as if that were a topic.
            return [
                other
                for other in tree.match(filter_)
                if other != filter_
                and covers(other, filter_)
                and (place[other] < place[filter_] or not covers(filter_, other))
            ]

        wider = {filter_: covering(filter_) for filter_ in asked}
        found = {filter_: 0 for filter_, others in wider.items() if not others}
        for filter_, others in wider.items():
            by = filter_ if not others else next(other for other in others if other in found)
            found[by] = max(found[by], *asked[filter_].values())
        return found

    def missing(self) -> dict[bytes, int]:
        """What of the cover the far service has not granted yet."""
        return {
            filter_: qos
            for filter_, qos in self.cover().items()
            if self.answers.get(filter_, 0x80) >= 0x80
        }

    @property
    def refused(self) -> dict[bytes, int]:
        """Filters that the far service refused, with their codes."""
        return {filter_: code for filter_, code in self.answers.items() if code >= 0x80}
