"""The nine faults: one bridge, four publishers, and each way in which its link or it itself breaks.

publishers -> proxy -> A -> proxy -> Mosquitto -> subscriber

Each fault lasts for some seconds, in which the publishers go on, and stands for one of a real
network or machine:

- cut: the connection is closed, and new ones are too, until the fault is over.
- stall: what either end sends is gone, as behind a firewall that has lost its memory. Nobody is
  told. Then the old connection is reset.
- no acks: the same for what the far side answers; what A sends arrives.
- acks cut: the connection is reset in the middle of an acknowledgement. New ones are not.
- slow: 20 KiB pass in a second, less than the publishers send.
- SIGSTOP: A stands still.
- kill -9: A is ended and started again.
- cut, backlog, kill -9: a cut, in which A is ended and started again with all that waits in it.
- SIGTERM: A is asked to end, and started again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chaos_publisher import Publisher
from chaos_subscriber import HEAL_LIMIT_S, Subscriber
from chaos_world import World

PUBLISHERS = 4
RATE = 100.0
"""Messages per second of each publisher."""

PAYLOAD_BYTES = 64

SLOW_BYTES_PER_S = 20 * 1024

WINDOW = 10
"""Messages that each publisher, and the bridge, have without an acknowledgement at most."""

RESTART_S = 0.1
"""So long whoever watches over A waits before it starts it again, as systemd does."""

BOOKS_S = 30.0


@dataclass(slots=True)
class NineCourse:
    """What is to be done.

    Each seed shuffles the faults, and varies their length a little. `fault_s` is how long a fault
    lasts, `turn_s` the time from one fault to the next. `window` None leaves to the bridge how many
    messages are on their way.
    """

    system: str = "isthmus"
    seeds: int = 3
    first_seed: int = 1
    qos: int = 1
    version: int = 4
    window: int | None = WINDOW
    fault_s: float = 4.0
    turn_s: float = 7.0


def longest(times_s: list[float]) -> float:
    """The longest of such times; -1.0 if one did not end."""
    return -1.0 if -1.0 in times_s else max(times_s, default=0.0)


@dataclass(slots=True)
class Tally:
    """What came of a fault.

    `acknowledged` and `arrived` from its beginning to the next fault's; `lost` are those of its
    acknowledged ones that never arrived; `disordered` arrived for the first time after a younger
    one of their topic. `back_s` are the seconds from the moment at which nothing is in the way any
    more to the arrival of the first message that A sent after it, `new_s` to that of the first one
    that was not even published before, as what waited goes first. Where A has ended, that moment is
    the one at which it is started again. -1.0: nothing came any more.
    """

    acknowledged: int = 0
    arrived: int = 0
    lost: int = 0
    duplicates: int = 0
    disordered: int = 0
    back_s: list[float] = field(default_factory=list)
    new_s: list[float] = field(default_factory=list)

    @property
    def duplicates_percent(self) -> float:
        return 100 * self.duplicates / max(self.arrived, 1)

    def add(self, other: Tally) -> None:
        self.acknowledged += other.acknowledged
        self.arrived += other.arrived
        self.lost += other.lost
        self.duplicates += other.duplicates
        self.disordered += other.disordered
        self.back_s += other.back_s
        self.new_s += other.new_s


@dataclass(slots=True)
class NineResult:
    """What was seen, of all seeds together."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    invented: int = 0
    refused: int = 0
    seconds: float = 0.0

    @property
    def total(self) -> Tally:
        total = Tally()
        for tally in self.tallies.values():
            total.add(tally)
        return total

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "faults": {
                fault: {**asdict(tally), "duplicates_percent": round(tally.duplicates_percent, 3)}
                for fault, tally in [*self.tallies.items(), ("all", self.total)]
            },
            "invented": self.invented,
            "refused": self.refused,
            "seconds": round(self.seconds, 1),
        }


class NineFaults:
    """One course, seed by seed."""

    def __init__(self, folder: Path, course: NineCourse, say: Callable[[str], None]) -> None:
        self.course = course
        self.say = say
        self._folder = folder
        self.result = NineResult()

    async def run(self) -> NineResult:
        """Do it; the books are closed at the end of each seed."""
        began = time.monotonic()
        for seed in range(self.course.first_seed, self.course.first_seed + self.course.seeds):
            folder = self._folder / f"seed-{seed}"
            folder.mkdir()
            await Seed(folder, self.course, seed, self.result, self.say).run()
        self.result.seconds = time.monotonic() - began
        return self.result


class Seed:
    """All faults once, in the order of a seed."""

    def __init__(
        self,
        folder: Path,
        course: NineCourse,
        seed: int,
        result: NineResult,
        say: Callable[[str], None],
    ) -> None:
        self.course = course
        self.result = result
        self.say = say
        self.seed = seed
        self.random = random.Random(seed)
        self.world = World(
            folder,
            course.system,
            qos=course.qos,
            v5=course.version == 5,
            names=("a",),
            window=course.window,
        )
        self._faults: dict[str, Callable[[], Awaitable[float]]] = {
            "cut": self._cut,
            "stall": self._stall,
            "no acks": self._no_acks,
            "acks cut": self._acks_cut,
            "slow": self._slow,
            "SIGSTOP": self._stop_and_go,
            "kill -9": self._kill,
            "cut, backlog, kill -9": self._cut_and_kill,
            "SIGTERM": self._terminate,
        }

    async def run(self) -> None:
        """Do it, and add what was seen to the result."""
        course, world = self.course, self.world
        await world.start()
        subscriber = Subscriber(world.judge.port, "chaos/#", qos=course.qos)
        assert await asyncio.to_thread(subscriber.connected.wait, 10)
        publishers = [
            Publisher(
                world.entrance,
                qos=course.qos,
                rate=RATE,
                version=course.version,
                place=place,
                of=PUBLISHERS,
                window=WINDOW,
                payload_bytes=PAYLOAD_BYTES,
            )
            for place in range(PUBLISHERS)
        ]
        acked: dict[str, set[int]] = {}
        try:
            link = world.traces[-1]
            assert await subscriber.back(publishers, link, time.monotonic()), "nothing arrives"
            await asyncio.sleep(course.turn_s / 4)
            faults = list(self._faults)
            for fault in faults:
                self.result.tallies.setdefault(fault, Tally())
            self.random.shuffle(faults)
            for number, fault in enumerate(faults, 1):
                before = set().union(*(one.acked for one in publishers))
                tally = await self._turn(fault, number == len(faults), publishers, subscriber)
                acked[fault] = set().union(*(one.acked for one in publishers)) - before
                tally.acknowledged = len(acked[fault])
                self.result.tallies[fault].add(tally)
                self.say(
                    f"seed {self.seed}: {fault}: back after {tally.back_s[0]:.2f} s, "
                    f"new ones after {tally.new_s[0]:.2f} s, "
                    f"{tally.acknowledged:,} acknowledged, {tally.arrived:,} arrived, "
                    f"{tally.duplicates} again"
                )
            account = subscriber.judge(publishers)
            self.result.invented += account.invented
            self.result.refused += account.refused
            for fault, numbers in acked.items():
                self.result.tallies[fault].lost += len(numbers - subscriber.seen.keys())
        finally:
            for one in publishers:
                await one.close()
            subscriber.close()
            await world.stop()

    async def _turn(
        self, fault: str, last: bool, publishers: list[Publisher], subscriber: Subscriber
    ) -> Tally:
        """One fault, and what follows until the next one, or after the `last` until the end."""
        seen = len(subscriber.seen), subscriber.duplicates, subscriber.disordered
        began = time.monotonic()
        healed = await self._faults[fault]()
        back = await subscriber.back(publishers, self.world.traces[-1], healed)
        await asyncio.sleep(max(0.0, began + self.course.turn_s - time.monotonic()))
        if last:
            await asyncio.gather(*(one.stop(BOOKS_S) for one in publishers))
            await subscriber.settled(publishers)
        return Tally(
            arrived=len(subscriber.seen) - seen[0],
            duplicates=subscriber.duplicates - seen[1],
            disordered=subscriber.disordered - seen[2],
            back_s=[-1.0 if back is None else round(back.first_s, 3)],
            new_s=[-1.0 if back is None else round(back.new_s, 3)],
        )

    async def _hold(self) -> None:
        await asyncio.sleep(self.course.fault_s * self.random.uniform(0.9, 1.1))

    # -- faults: each returns the moment from which on nothing is in the way any more -------------

    async def _cut(self) -> float:
        link = self.world.proxies[-1]
        link.refusing = True
        link.cut()
        await self._hold()
        link.refusing = False
        return time.monotonic()

    async def _stall(self) -> float:
        link = self.world.proxies[-1]
        link.silent = True
        await self._hold()
        link.reset()
        link.silent = False
        return time.monotonic()

    async def _no_acks(self) -> float:
        link = self.world.proxies[-1]
        link.mute = True
        await self._hold()
        link.reset()
        link.mute = False
        return time.monotonic()

    async def _acks_cut(self) -> float:
        link = self.world.proxies[-1]
        link.answer_limit = self.random.randrange(1, 40)
        until = time.monotonic() + HEAL_LIMIT_S
        while link.answer_limit is not None and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return time.monotonic()

    async def _slow(self) -> float:
        link = self.world.proxies[-1]
        link.rate = SLOW_BYTES_PER_S
        await self._hold()
        link.rate = None
        return time.monotonic()

    async def _stop_and_go(self) -> float:
        (hop,) = self.world.hops
        hop.freeze()
        await self._hold()
        hop.thaw()
        return time.monotonic()

    async def _kill(self) -> float:
        (hop,) = self.world.hops
        hop.kill()
        await asyncio.sleep(RESTART_S)
        await hop.start()
        return hop.began

    async def _cut_and_kill(self) -> float:
        link, (hop,) = self.world.proxies[-1], self.world.hops
        link.refusing = True
        link.cut()
        await self._hold()
        hop.kill()
        await asyncio.sleep(RESTART_S)
        link.refusing = False
        await hop.start()
        return hop.began

    async def _terminate(self) -> float:
        (hop,) = self.world.hops
        await asyncio.to_thread(hop.stop)
        await hop.start()
        return hop.began
