"""The course of the crash test: a fault per round, chosen at random, and what came of it."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chaos_publisher import WINDOW as PUBLISHER_WINDOW
from chaos_publisher import Publisher
from chaos_subscriber import Account, Back, Subscriber
from chaos_trace import story
from chaos_world import NAMES, OVERTAKING, World

QUIET_S = (0.3, 1.0)
"""How long nothing happens between two faults."""

SLOW_S = 1.0
"""After a longer way back it is said who waited for how long."""

BOOKS_S = 30.0
"""For what the publisher has sent to be acknowledged at the end."""


@dataclass(slots=True)
class Course:
    """What is to be done. At most `window` messages are on their way from each hop."""

    system: str = "isthmus"
    rounds: int = 10
    qos: int = 1
    version: int = 4
    rate: float = 1000.0
    seed: int = 0
    window: int = 100

    @property
    def in_order(self) -> bool:
        """Whether first deliveries are to be in order."""
        return self.system != OVERTAKING

    @property
    def again(self) -> int:
        """How many messages one fault may bring again: the windows of all that send."""
        return PUBLISHER_WINDOW + len(NAMES) * self.window


@dataclass(slots=True)
class Result:
    """What was seen.

    `turned_by` counts for each sender on the way the messages that left it for the first time after
    a younger one of their topic, and `stories` say for examples of what arrived so who turned it,
    and for examples of what did not arrive who sent it.
    `heal_s` are the seconds from the end of a fault to the first message that is sent after it and
    arrives, `new_s` to the first that was not even published before, as what waited goes first. A
    killed process is back when it listens.
    """

    account: Account
    sent: int = 0
    turned_by: dict[str, int] = field(default_factory=dict)
    stories: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    heal_s: list[float] = field(default_factory=list)
    new_s: list[float] = field(default_factory=list)
    heal_by_fault: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self.account),
            "sent": self.sent,
            "turned_by": self.turned_by,
            "stories": self.stories,
            "faults": dict(self.faults),
            "kills": self.kills,
            "heal_median_s": round(statistics.median(self.heal_s), 3) if self.heal_s else 0.0,
            "heal_max_s": round(max(self.heal_s, default=0.0), 3),
            "new_median_s": round(statistics.median(self.new_s), 3) if self.new_s else 0.0,
            "new_max_s": round(max(self.new_s, default=0.0), 3),
            "heal_max_by_fault_s": {k: round(v, 3) for k, v in self.heal_by_fault.items()},
            "duplicates_percent": round(
                100 * self.account.duplicates / max(self.account.arrived, 1), 3
            ),
            "seconds": round(self.seconds, 1),
        }


class Chaos:
    """One course."""

    def __init__(self, folder: Path, course: Course, say: Callable[[str], None]) -> None:
        self.course = course
        self.say = say
        self.random = random.Random(course.seed)
        self.world = World(
            folder, course.system, qos=course.qos, v5=course.version == 5, window=course.window
        )
        self.result = Result(Account())
        self._faults: dict[str, Callable[[], Awaitable[None]]] = {
            "kill a": lambda: self._kill(0),
            "kill b": lambda: self._kill(1),
            "kill with backlog": self._kill_with_backlog,
            "cut": self._cut,
            "reset": self._reset,
            "delay": self._delay,
            "black hole": self._black_hole,
            "truncate": self._truncate,
            "refuse": self._refuse,
        }

    async def run(self) -> Result:
        """Do it; the books are closed at the end."""
        began = time.monotonic()
        course, world = self.course, self.world
        await world.start()
        subscriber = Subscriber(world.judge.port, "chaos/#", qos=course.qos)
        assert await asyncio.to_thread(subscriber.connected.wait, 10)
        publisher = Publisher(
            world.entrance, qos=course.qos, rate=course.rate, version=course.version
        )
        try:
            if await self._back(publisher, subscriber, time.monotonic()) is not None:
                await self._rounds(publisher, subscriber)
            await publisher.stop(BOOKS_S)
            await subscriber.settled([publisher])
            self.result.account = subscriber.judge([publisher])
            self.result.sent = publisher.sent
            for pair in self.result.account.disordered_examples:
                self.result.stories.append(story(*pair, world.traces))
            for number in self.result.account.lost_examples:
                passed = ", ".join(trace.passed(number, began) for trace in world.traces)
                self.result.stories.append(f"{number} did not arrive: sent {passed}")
        finally:
            await publisher.close()
            subscriber.close()
            await world.stop()
        self.result.turned_by = {trace.sender: len(trace.turned) for trace in world.traces}
        self.result.kills = sum(hop.kills for hop in world.hops)
        self.result.seconds = time.monotonic() - began
        return self.result

    async def _rounds(self, publisher: Publisher, subscriber: Subscriber) -> None:
        result = self.result
        for number in range(1, self.course.rounds + 1):
            await asyncio.sleep(self.random.uniform(*QUIET_S))
            fault = self.random.choice(list(self._faults))
            await self._faults[fault]()
            result.faults[fault] += 1
            healed = time.monotonic()
            back = await self._back(publisher, subscriber, healed)
            if back is None:
                self.say(f"round {number}: {fault}: nothing arrives any more")
                return
            result.heal_s.append(back.first_s)
            result.new_s.append(back.new_s)
            longest_s = max(result.heal_by_fault.get(fault, 0.0), back.first_s)
            result.heal_by_fault[fault] = longest_s
            self.say(
                f"round {number}: {fault}: healed after {back.first_s:.2f} s, new ones after "
                f"{back.new_s:.2f} s, {len(publisher.acked):,} acknowledged, "
                f"{len(subscriber.seen):,} arrived, {subscriber.duplicates} again"
            )
            if back.new_s > SLOW_S:
                passed = ", ".join(trace.passed(back.new, healed) for trace in self.world.traces)
                self.say(f"    the first new one was sent {passed}")

    async def _back(
        self, publisher: Publisher, subscriber: Subscriber, healed: float
    ) -> Back | None:
        return await subscriber.back([publisher], self.world.traces[-1], healed)

    # -- faults ----------------------------------------------------------------------------------

    async def _kill(self, number: int) -> None:
        hop = self.world.hops[number]
        hop.kill()
        await hop.start()

    async def _kill_with_backlog(self) -> None:
        """The next one is not there for a while, and then what waits for it is killed."""
        number = self.random.randrange(len(self.world.hops))
        proxy = self.world.proxies[number + 1]
        proxy.refusing = True
        proxy.reset()
        await asyncio.sleep(self.random.uniform(0.2, 1.5))
        await self._kill(number)
        proxy.refusing = False

    async def _cut(self) -> None:
        self.random.choice(self.world.proxies).cut()

    async def _reset(self) -> None:
        self.random.choice(self.world.proxies).reset()

    async def _delay(self) -> None:
        proxy = self.random.choice(self.world.proxies)
        proxy.delay_s = self.random.uniform(0.02, 0.3)
        await asyncio.sleep(1)
        proxy.delay_s = 0.0

    async def _black_hole(self) -> None:
        """What was sent is gone; a network that did that never lets the connection live on."""
        proxy = self.random.choice(self.world.proxies)
        proxy.silent = True
        await asyncio.sleep(self.random.uniform(0.2, 2))
        proxy.reset()
        proxy.silent = False

    async def _truncate(self) -> None:
        """End each connection in the middle of a packet."""
        proxy = self.random.choice(self.world.proxies)
        proxy.limit = self.random.randrange(1, 5000)
        proxy.reset()
        await asyncio.sleep(0.5)
        proxy.limit = None

    async def _refuse(self) -> None:
        """The next one is not there for a while."""
        proxy = self.random.choice(self.world.proxies)
        proxy.refusing = True
        proxy.reset()
        await asyncio.sleep(self.random.uniform(0.2, 1.5))
        proxy.refusing = False
