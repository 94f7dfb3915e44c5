"""Topics of a far side, by the filters of the routes that lead there.

What waits on disk does not say by which route it came. What a route asks for concerning what is
sent therefore goes by the topics on which it publishes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.mqtt.topics import matches

if TYPE_CHECKING:
    from collections.abc import Iterable

LEVEL = b"x/"
"""A level in front of topics and filters, with which wildcards match what begins with `$`, too.

A subscription does not get that by a wildcard in front (MQTT-4.7.2-1), but a route that takes a
prefix off leads there.
"""


class TopicSet:
    """The topics that match one of `filters`."""

    __slots__ = ("_filters",)

    def __init__(self, filters: Iterable[bytes]) -> None:
        self._filters = tuple(LEVEL + filter_ for filter_ in filters)

    def __contains__(self, topic: bytes) -> bool:
        return any(matches(filter_, LEVEL + topic) for filter_ in self._filters)
