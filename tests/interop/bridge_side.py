"""One side of a bridge as its clients see it: one that publishes, one that sees everything."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

from bridge_lines import Seen

from raw import PUBLISH, Raw, until

RETAIN_AS_PUBLISHED = 0x08


class Side:
    """A broker on `port`. `seen` counts what its subscriber got; `$` topics are not looked at."""

    def __init__(self, port: int, name: str) -> None:
        self.port = port
        self.name = name
        self.seen: Counter[Seen] = Counter()
        self.order: list[Seen] = []
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, port: int, name: str, filter_: str = "#") -> Side:
        side = cls(port, name)
        side.publisher = await Raw.client(port, f"{name}-publisher")
        side.subscriber = await Raw.client(port, f"{name}-subscriber")
        await side.subscriber.subscribe(filter_, qos=2, options=RETAIN_AS_PUBLISHED)
        side._task = asyncio.create_task(side._collect())
        return side

    publisher: Raw
    subscriber: Raw

    async def _collect(self) -> None:
        while True:
            # As long as it takes: what is missing is said by those who wait for it.
            try:
                found = await self.subscriber.message()
            except TimeoutError:
                continue
            seen = Seen(found.topic, found.payload.decode(), found.qos, found.retain)
            self.seen[seen] += 1
            self.order.append(seen)

    async def publish(self, topic: str, payload: str, qos: int, *, retain: bool = False) -> None:
        assert await self.publisher.published(topic, payload, qos, retain=retain) in (0, 0x10)

    async def got(self, payload: str, seconds: float = 8.0) -> None:
        """Wait for a message with this payload."""
        await until(lambda: any(seen.payload == payload for seen in self.order), seconds)

    async def has(self, expected: Counter[Seen], seconds: float = 8.0) -> None:
        """Wait for all of these; more may come."""
        with contextlib.suppress(AssertionError):
            await until(lambda: self.seen >= expected, seconds)
        missing = expected - self.seen
        assert not missing, f"missing on the {self.name} side: {missing}"

    async def retained(self, count: int) -> dict[str, str]:
        """What a new subscriber finds retained, once it has `count` messages; more may be there."""
        reader = await Raw.client(self.port, f"{self.name}-reader")
        await reader.subscribe("#")
        found: dict[str, str] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(8):
                enough = False
                while not enough:  # one more look when all have come
                    enough = len(found) >= count
                    for one in await reader.arrived():
                        if one.kind == PUBLISH and one.retain:
                            found[one.topic] = one.payload.decode()
        return found

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


async def fence(near: Side, far: Side, topic: str, mark: str) -> None:
    """Wait until all that was sent before, and every copy of it, has come and gone.

    Three times across: what came over, what of it would come back, and what of that. `topic` must
    go both ways unchanged, with QoS 2, as those messages take the most steps.
    """
    for step, (sender, receiver) in enumerate(((near, far), (far, near), (near, far))):
        await sender.publish(topic, f"{mark}-{step}", 2)
        await receiver.got(f"{mark}-{step}")
