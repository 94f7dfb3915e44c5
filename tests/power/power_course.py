"""The power test: a load under strace, then the loss of power at many moments of it.

Two processes use one folder, one after the other. The first has a far side that is down, up and
slow, down again, and is killed; the second comes up behind it, sends some, and is stopped. Power is
lost at points of that time, and what is on the disk then is given to a new store.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from power_account import Account, account
from power_disk import Disk, Lost
from power_far import FarBroker
from power_held import Held, look
from power_load import Publisher, Upstream
from power_process import IsthmusProcess
from power_trace import NEVER
from power_watcher import Watcher

from isthmus.store.database import FILE
from raw import CONNECT, parse_hello, until

SLOW_S = 0.05
"""How long the slow far side takes; more than a message may be unacknowledged in memory."""

WINDOW = 20
"""`max_inflight` of the connector."""

ABSENT = ("asleep/#", "in/#", "$share/crew/shared/#")
"""What a client subscribes to that is there no more when the load begins."""

TWICE = (b"two", b"nap")
"""The publishers of QoS 2, whose messages may not arrive twice."""


@dataclass
class Course:
    """What is to be done. `pragmas` are put behind those of the store."""

    cuts: int = 12
    messages: int = 120
    seed: int = 1
    version: int = 4
    restarts: int = 1
    pragmas: tuple[str, ...] = ("wal_autocheckpoint=60",)


@dataclass
class Result:
    """What came of it. `wrong` says for each fault at which line and how power was lost.

    `checked` counts acknowledged messages, and `found` messages on disk, over all cuts;
    `repeated_at_most` is how many of those on disk the far side had. `checkpoints` counts how often
    the log was copied into the file.
    """

    cuts: int = 0
    acknowledged: int = 0
    checked: int = 0
    found: int = 0
    repeated_at_most: int = 0
    restarts: int = 0
    synchronisations: int = 0
    checkpoints: int = 0
    later_changes: Lost = field(default_factory=Lost)
    wrong: list[str] = field(default_factory=list)


class PowerTest:
    """One run, in `folder`."""

    def __init__(self, folder: Path, course: Course, say: Callable[[str], None]) -> None:
        self._folder, self._course, self._say = folder, course, say
        self._dice = random.Random(course.seed)
        self._far = FarBroker()
        self._up = Upstream("up", "in/up", 1, self._dice)
        self.disk = Disk(folder / "data")
        self.account = Account()
        self.result = Result()
        self._last_line = 0

    async def run(self) -> Result:
        """Make the trace, and lose power in it."""
        await self._make_trace()
        result, disk = self.result, self.disk
        result.acknowledged = len(self.account.acknowledged)
        result.synchronisations = len(disk.syncs)
        result.checkpoints = disk.syncs_of[FILE]
        self._say(f"{len(disk.changes)} changes of files, {len(disk.syncs)} synchronisations")
        cuts = sorted(self._moment() for _ in range(self._course.cuts))
        restarts = set(self._dice.sample(range(len(cuts)), self._course.restarts))
        for number, line in enumerate(cuts):
            await self._cut(line, None, restart=False)
            await self._cut(
                line, random.Random(f"{self._course.seed} {line}"), restart=number in restarts
            )
        return result

    # -- the trace -------------------------------------------------------------------------------

    async def _make_trace(self) -> None:
        count, far = self._course.messages, self._far
        await far.up()
        await far.down()
        publishers = [
            Publisher("one", "far/one", 1, self._dice),
            Publisher("two", "far/two", 2, self._dice),
            Publisher("keep", "far/keep", 1, self._dice, retain=True),
            Publisher("doze", "asleep/doze", 1, self._dice),
            Publisher("nap", "asleep/nap", 2, self._dice),
            Publisher("crew", "shared/crew", 1, self._dice),
            self._up,
        ]
        await self._up.start()
        try:
            isthmus = await self._isthmus("first")
            try:
                await self._subscribe(isthmus)
                await self._load(isthmus, publishers, count)
                far.delay_s = SLOW_S
                await far.up()
                await until(lambda: far.session)
                await self._load(isthmus, publishers, count)
                await far.down()
                killed = asyncio.create_task(self._load(isthmus, publishers, 3 * count))
                before = publishers[0].acknowledged
                await until(lambda: publishers[0].acknowledged > before + count)
            finally:
                await isthmus.end(signal.SIGKILL)
            await killed
            self._take(isthmus)
            await far.up()
            isthmus = await self._isthmus("second")
            try:
                await self._load(isthmus, publishers, count // 2)
            finally:
                await isthmus.end()
            self._take(isthmus)
        finally:
            await far.down()
            await self._up.stop()
        assert all(each.acknowledged >= count for each in publishers)

    async def _subscribe(self, isthmus: IsthmusProcess) -> None:
        """Have a session there that waits for messages, and leave."""
        watcher = Watcher(isthmus.port, WINDOW, *ABSENT)
        await watcher.up()
        await until(lambda: watcher.session)
        await watcher.down()

    async def _isthmus(self, name: str) -> IsthmusProcess:
        isthmus = IsthmusProcess(
            self._folder,
            {"far": self._far.port},
            name=name,
            traced=True,
            pragmas=self._course.pragmas,
            max_inflight=WINDOW,
            up_port=self._up.port,
            send_retained=False,  # it repeats messages, on purpose
            version="5" if self._course.version == 5 else "3.1.1",
        )
        await isthmus.start()
        return isthmus

    async def _load(self, isthmus: IsthmusProcess, publishers: list[Publisher], count: int) -> None:
        version = self._course.version
        await asyncio.gather(*(each.run(isthmus.port, version, count) for each in publishers))

    def _take(self, isthmus: IsthmusProcess) -> None:
        calls = isthmus.calls(self._last_line)
        self.disk.feed(calls)
        account(calls, isthmus.port, [self._far.port], self.account, up_port=self._up.port)
        self._last_line = max(call.end for call in calls if call.end < NEVER) + 1

    # -- the loss of power -----------------------------------------------------------------------

    def _moment(self) -> int:
        """A line of the trace: any, or one at which something has just been promised or written."""
        dice = self._dice
        kind = dice.randrange(4)
        if kind == 0:
            return dice.randrange(self.disk.changes[0].end, self._last_line)
        if kind == 1:
            return dice.choice(self.disk.syncs) - dice.randrange(2)
        if kind == 2:
            return dice.choice(self.disk.changes).end
        return dice.choice(list(self.account.acknowledged.values()))

    async def _cut(self, line: int, dice: random.Random | None, *, restart: bool) -> None:
        self.result.cuts += 1
        folder = self._folder / "rebuilt"
        folder.mkdir(mode=0o700)
        try:
            self.result.later_changes.add(self.disk.rebuild(line, folder, dice))
            how = "only what is synchronised" if dice is None else "and some of the rest"
            wrong = self._judge(line, await look(folder))
            if restart:
                self.result.restarts += 1
                wrong += await self._restart(line, folder)
            self.result.wrong += [f"line {line}, {how}: {text}" for text in wrong]
        finally:
            shutil.rmtree(folder)

    def _promised(self, line: int) -> tuple[set[bytes], set[bytes]]:
        """What had been acknowledged by that time, and what far sides had."""
        promised = {payload for payload, at in self.account.acknowledged.items() if at <= line}
        owned = {payload for payload, at in self.account.owned.items() if at <= line}
        return promised, owned

    def _judge(self, line: int, held: Held) -> list[str]:
        """What is wrong with what was found."""
        wrong = list(held.damage)
        promised, owned = self._promised(line)
        found = held.payloads
        self.result.checked += len(promised)
        self.result.found += len(found)
        self.result.repeated_at_most = max(
            self.result.repeated_at_most, len(owned.intersection(found))
        )
        if missing := promised - owned - set(found):
            wrong.append(f"{len(missing)} acknowledged messages lost, such as {_some(missing)}")
        if false := held.owned - owned:
            wrong.append(f"the far side does not have {_some(false)}")
        sent = {payload for payload, each in self.account.sent.items() if each.at <= line}
        if invented := {*found, *held.retained.values()} - sent:
            wrong.append(f"nobody had published {_some(invented)}")
        wrong += [
            f"{topic.decode()} has a message twice, or not in order"
            for topic, listed in held.messages.items()
            if any(one >= two for one, two in pairwise(listed))
        ]
        return wrong + self._judge_retained(promised, held)

    def _judge_retained(self, promised: set[bytes], held: Held) -> list[str]:
        """A topic has the last message that was acknowledged, or a later one."""
        last: dict[bytes, bytes] = {}
        for payload in promised:
            each = self.account.sent[payload]
            if each.retain:
                topic = each.topic.encode()
                last[topic] = max(payload, last.get(topic, b""))
        return [
            f"the retained message of {topic.decode()} is not {_some([payload])}"
            for topic, payload in last.items()
            if held.retained.get(topic, b"") < payload
        ]

    async def _restart(self, line: int, folder: Path) -> list[str]:
        """Start Isthmus on the rebuilt folder: all arrives, QoS 2 once."""
        far = self._far_side(line)
        promised, _ = self._promised(line)
        wanted = promised.union((await look(folder)).payloads)
        await far.up()
        name = f"restart-{self.result.restarts}"
        isthmus = IsthmusProcess(self._folder, {"far": far.port}, data=folder, name=name)
        watcher = Watcher(isthmus.port, WINDOW, *ABSENT)
        watcher.session = any(payload.startswith(b"doze") for payload in promised)
        try:
            await isthmus.start()
            await watcher.up()
            with contextlib.suppress(AssertionError):
                await until(
                    lambda: wanted <= {each for _, each in far.arrived + watcher.arrived}, 20
                )
        finally:
            await watcher.down()
            await isthmus.end()
            await far.down()
        arrived = Counter(payload for _, payload in far.arrived + watcher.arrived)
        wrong = ["the session of the absent client has gone"] * watcher.forgotten
        if missing := wanted - set(arrived):
            wrong.append(f"{len(missing)} messages did not arrive, such as {_some(missing)}")
        if twice := {
            each for each, times in arrived.items() if times > 1 and each.startswith(TWICE)
        }:
            wrong.append(f"{len(twice)} QoS 2 messages arrived twice, such as {_some(twice)}")
        if invented := set(arrived) - set(self.account.sent):
            wrong.append(f"nobody had published {_some(invented)}")
        return wrong

    def _far_side(self, line: int) -> FarBroker:
        """The far side as it was when power was lost here: it has got all that was sent.

        At the same address: another one could be another service.
        """
        far = FarBroker(self._far.port)
        for at, packet in self.account.on_link:
            if at > line:
                break
            if packet.kind == CONNECT:
                far.session = True
                if parse_hello(packet.body).clean:
                    far.held.clear()
            else:
                far.take(packet)
        return far


def _some(payloads: set[bytes] | list[bytes]) -> bytes:
    return min(payloads)[:20]
