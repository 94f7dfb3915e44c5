"""Legs: the directions of a route, each with its own source, filters and topic map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from isthmus.mqtt.topics import matches, split_shared
from isthmus.routing.topic_map import TopicMap

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from isthmus.routing.settings import RouteSettings


@dataclass(frozen=True, slots=True)
class Selection:
    """The topics that a route names: filters that take, and filters that take out again."""

    included: tuple[bytes, ...]
    excluded: tuple[bytes, ...]

    def exclusion(self, topic: bytes) -> bytes | None:
        """The filter that takes `topic` out, if there is one."""
        return next((filter_ for filter_ in self.excluded if matches(filter_, topic)), None)

    def includes(self, topic: bytes) -> bool:
        """Whether a filter takes `topic`."""
        return any(matches(filter_, topic) for filter_ in self.included)


@dataclass(frozen=True, slots=True)
class Leg:
    """One direction of the route `route`; `name` tells the two of a two-way route apart.

    `subscribed` are the filters to subscribe to at `source`. `selection` is asked about topics as
    they are on the route's side `from`: before the map `topics`, or after it on the way back.
    """

    name: str
    route: str
    settings: RouteSettings
    source: str
    target: str
    subscribed: tuple[bytes, ...]
    selection: Selection
    topics: TopicMap
    back: bool

    @property
    def filters(self) -> tuple[bytes, ...]:
        """The filters that topics are matched with, in order."""
        return tuple(split_shared(filter_)[1] for filter_ in self.subscribed)

    @property
    def images(self) -> tuple[bytes, ...]:
        """Filters that match all topics on which messages are published on `target`."""
        return tuple(dict.fromkeys(self.topics.image(filter_) for filter_ in self.filters))


def legs(routes: Mapping[str, RouteSettings], node: str) -> Iterator[Leg]:
    """The directions of all routes, in order. `node` is the name of this process."""
    for name, settings in routes.items():
        topics = TopicMap.of(settings, node)
        subscribed = settings.filters
        selection = Selection(
            tuple(split_shared(filter_)[1] for filter_ in subscribed),
            tuple(text.encode() for text in settings.excluded),
        )
        source, target = settings.source, settings.to
        if settings.direction != "in":
            yield Leg(
                name, name, settings, source, target, subscribed, selection, topics, back=False
            )
        inverse = topics.inverse() if settings.direction != "out" else None
        if inverse is not None:
            turned = tuple(
                image for filter_ in subscribed if (image := topics.exact_image(filter_))
            )
            # A dot is in no configured name, so this is nobody else's.
            own = name if settings.direction == "in" else f"{name}.back"
            yield Leg(own, name, settings, target, source, turned, selection, inverse, back=True)
