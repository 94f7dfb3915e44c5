"""How fast what an outage has left is sent to one far side, over all connections together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.delivery.topic_set import TopicSet
from isthmus.net.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

BURST_S = 0.1
"""For how long a rate may be saved up: a far side that needs it should not meet bursts."""


class DrainRates:
    """A rate for all messages, and one for those of each route that asks for it.

    Routes share the row on disk, so a message whose route has no more to spend is waited for by
    all that is behind it. One that two routes publish counts for both.
    """

    __slots__ = ("_routes", "_rules", "_whole")

    def __init__(self) -> None:
        self._whole: TokenBucket | None = None
        self._routes: list[tuple[TopicSet, TokenBucket]] = []
        self._rules: Sequence[tuple[Collection[bytes], float]] = ()

    def __bool__(self) -> bool:
        return self._whole is not None or bool(self._routes)

    def limit(self, rate: float | None) -> None:
        """Send no more than `rate` messages per second in all from now on; None: any number."""
        if rate is None:
            self._whole = None
        elif self._whole is None or self._whole.rate != rate:
            self._whole = _bucket(rate)

    def limit_routes(self, rules: Sequence[tuple[Collection[bytes], float]]) -> None:
        """Keep to these rates, each for the topics there that its filters match."""
        if rules != self._rules:
            self._rules = rules
            self._routes = [(TopicSet(filters), _bucket(rate)) for filters, rate in rules]

    def take(self, topic: bytes) -> float:
        """Count a message on `topic` that is sent now: 0.0; or in how many seconds it may be."""
        now = clock.monotonic()
        found = [bucket for topics, bucket in self._routes if topic in topics]
        if self._whole is not None:
            found.append(self._whole)
        wait_s = max((bucket.ready_at(now) - now for bucket in found), default=0.0)
        if wait_s <= 0.0:
            for bucket in found:
                bucket.take(now)
        return wait_s


def _bucket(rate: float) -> TokenBucket:
    return TokenBucket(rate, clock.monotonic(), BURST_S)
