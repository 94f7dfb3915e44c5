"""Rings: routes that could send a message round, as far as one configuration shows it.

Routes are followed from filter to filter: what comes out of one may be taken by the next. A far
service that several connectors lead to is one place, since what one publishes there another is
sent. What is already prevented is no ring: a connector is not sent its own messages back, and what
came from it never goes back to it. What happens at far services among themselves is not seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.mqtt.topics import covers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from isthmus.routing.leg import Leg

MOST_STEPS = 20_000
"""After so many steps the search ends: with thousands of routes it must not take minutes."""

MOST_RINGS = 20


def common(a: bytes, b: bytes) -> bytes | None:
    """A filter for the topics that both filters match, or None if there are none."""
    if (a[:1] == b"$" and b[:1] in (b"+", b"#")) or (b[:1] == b"$" and a[:1] in (b"+", b"#")):
        return None
    ours, theirs = a.split(b"/"), b.split(b"/")
    found: list[bytes] = []
    for mine, other in zip(ours, theirs, strict=False):
        if mine == b"#":
            return b"/".join([*found, *theirs[len(found) :]])
        if other == b"#":
            return b"/".join([*found, *ours[len(found) :]])
        if mine != other and b"+" not in (mine, other):
            return None
        found.append(other if mine == b"+" else mine)
    rest = ours[len(found) :] or theirs[len(found) :]
    # `a/#` matches `a` too.
    return b"/".join(found) if rest in ([], [b"#"]) else None


def rings(legs: Iterable[Leg], place: Callable[[str], object], local: str) -> Iterator[list[Leg]]:
    """Yield each ring as its routes in order, up to `MOST_RINGS`.

    `place` says where an endpoint leads: equal answers are one broker. `local` is the name of the
    broker of this process.
    """
    search = _Search(list(legs), place, local)
    for number in range(len(search.legs)):
        yield from search.from_(number)


def echoes(legs: Iterable[Leg], local: str) -> Iterator[tuple[Leg, Leg]]:
    """Yield pairs of routes to and from one connector that the same topics can pass.

    Only the far side can keep such messages from coming back.
    """
    found = list(legs)
    by_source: dict[str, list[Leg]] = {}
    for leg in found:
        by_source.setdefault(leg.source, []).append(leg)
    for out in found:
        if out.target != local:
            for back in by_source.get(out.target, ()):
                if any(_taken(back, image) for image in out.images):
                    yield out, back


class _Search:
    """Depth first, from the first route of each ring."""

    def __init__(self, legs: list[Leg], place: Callable[[str], object], local: str) -> None:
        self.legs = legs
        self._place = place
        self._local = local
        self._steps = MOST_STEPS
        self._seen: set[tuple[int, ...]] = set()
        self._by_source: dict[object, list[int]] = {}
        for number, leg in enumerate(legs):
            self._by_source.setdefault(place(leg.source), []).append(number)

    def from_(self, first: int) -> Iterator[list[Leg]]:
        """Every ring with this route and later ones."""
        leg = self.legs[first]
        # The ways so far, each with the filter of what comes out of it.
        ways: list[tuple[tuple[int, ...], bytes]]
        ways = [((first,), image) for image in leg.images]
        while ways and self._steps > 0 and len(self._seen) < MOST_RINGS:
            way, out = ways.pop()
            last = self.legs[way[-1]]
            for number in self._by_source.get(self._place(last.target), ()):
                self._steps -= 1
                leg = self.legs[number]
                if number < first or (last.target == leg.source != self._local):
                    continue  # a connector is not sent what it published itself
                taken = _taken(leg, out)
                if number == first and taken:
                    ring = [self.legs[index] for index in way]
                    if way not in self._seen and self._is_open(ring):
                        self._seen.add(way)
                        yield ring
                elif number not in way:
                    ways += [((*way, number), leg.topics.image(both)) for both in taken]

    def _is_open(self, ring: list[Leg]) -> bool:
        """Whether no message would go back to the connector that it came from."""
        starts = [at for at, leg in enumerate(ring) if leg.source != self._local]
        for at in starts:
            entry = ring[at].source
            for leg in ring[at:] + ring[:at]:
                if leg.target != self._local:
                    if leg.target == entry:
                        return False
                    break
        return True


def _taken(leg: Leg, filter_: bytes) -> list[bytes]:
    """What of the topics of `filter_` the route takes, but for what is excluded completely."""
    both = [found for own in leg.filters if (found := common(filter_, own)) is not None]
    if leg.back:
        return both
    return [
        found
        for found in both
        if not any(covers(exclusion, found) for exclusion in leg.selection.excluded)
    ]
