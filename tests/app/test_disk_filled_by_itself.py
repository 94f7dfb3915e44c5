"""A disk that the outbox itself has filled, or somebody else has: it heals, with nobody's help.

Isthmus is a process of its own on a small disk, so that it can be killed there.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from isthmus.store import reserve
from mosquitto import free_port
from raw import CONNACK, PUBACK, PUBLISH, FarSide, Raw, ack_packet, until

DISK_BYTES = 12 << 20
MESSAGES = 900
PAYLOAD_BYTES = 20_000

CONFIGURATION = """
listeners: [{{bind: "127.0.0.1:{near}"}}]
broker: {{data: {data}}}
http: null
node: edge
connectors:
  cloud:
    url: 127.0.0.1:{far}
    client_id: edge-1
    reconnect: {{min: 20ms, max: 100ms}}
routes:
  out: {{from: local, topics: ["out/#"], to: cloud, queue: {{when_full: {when_full}}}}}
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    assert not subprocess.run(mount, check=False).returncode, "only root may mount a small disk"
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Take all the room there is."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        while free := shutil.disk_usage(folder).free:
            file.write(bytes(min(free, 1 << 20)))
    return filler


class Edge:
    """Isthmus on the disk, whose far side is `far`."""

    def __init__(self, folder: Path, disk: Path, far: FarSide, when_full: str) -> None:
        self.port = free_port()
        self.path = folder / "isthmus.yaml"
        self.path.write_text(
            CONFIGURATION.format(near=self.port, far=far.port, data=disk, when_full=when_full)
        )
        self.log = folder / "log"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "isthmus", "run", str(self.path), stderr=log
            )
        while True:
            assert self.process.returncode is None, self.log.read_text()
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            await asyncio.sleep(0.02)

    async def end(self, *, kill: bool) -> None:
        if self.process is None:
            return
        process, self.process = self.process, None
        if process.returncode is None:
            process.kill() if kill else process.terminate()
        status = await process.wait()
        assert kill or status == 0, self.log.read_text()


class Publisher:
    """Publishes numbers, and knows which were acknowledged."""

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self.taken: set[int] = set()
        self.refused: set[int] = set()
        self._numbers: dict[int, int] = {}
        self._reader = asyncio.create_task(self._read())

    def publish(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            payload = f"{number:06}".ljust(PAYLOAD_BYTES, "x")
            self._numbers[self._raw.publish("out/a", payload, 1)] = number

    async def _read(self) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                got = await self._raw._read()
                if got.kind == PUBACK:
                    into = self.refused if (got.code or 0) >= 0x80 else self.taken
                    into.add(self._numbers[got.packet_id])

    async def quiet(self) -> int:
        """How many are answered when for a while nothing more is."""
        while True:
            count = len(self.taken) + len(self.refused)
            await asyncio.sleep(1)
            if count == len(self.taken) + len(self.refused):
                return count

    def stop(self) -> None:
        self._reader.cancel()
        self._raw.close()


class Taker:
    """The far side, which takes everything. `got` are the numbers, in order."""

    def __init__(self, far: FarSide) -> None:
        self.got: list[int] = []
        self._task = asyncio.create_task(self._take(far))

    async def _take(self, far: FarSide) -> None:
        while True:
            there = await far._accepted.get()
            there.send(bytes((CONNACK << 4, 3, 0, 0, 0)))
            with contextlib.suppress(EOFError, ConnectionError):
                while True:
                    got = await there._read()
                    if got.kind == PUBLISH:
                        self.got.append(int(got.payload[:6]))
                        there.send(ack_packet(PUBACK, got.packet_id))

    def stop(self) -> None:
        self._task.cancel()


@pytest.fixture
async def far() -> AsyncIterator[FarSide]:
    """A far side, at whose door nobody opens yet."""
    found = FarSide()
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
async def edge(request: Any, tmp_path: Path, disk: Path, far: FarSide) -> AsyncIterator[Edge]:
    found = Edge(tmp_path, disk, far, getattr(request, "param", "block"))
    yield found
    await found.end(kill=True)


def in_order(numbers: list[int]) -> list[int]:
    """Each once, as it came first."""
    return list(dict.fromkeys(numbers))


@pytest.mark.parametrize("edge", ["block", "reject"], indirect=True)
async def test_a_disk_full_of_the_outbox_is_healed_by_the_far_side(
    edge: Edge, far: FarSide
) -> None:
    await edge.start()
    here = Publisher(await Raw.client(edge.port, "here"))
    here.publish(0, MESSAGES)
    held = MESSAGES - await here.quiet()
    assert 0 < held < MESSAGES
    assert "the disk is full" in edge.log.read_text()
    there = Taker(far)
    await until(lambda: len(here.taken) + len(here.refused) == MESSAGES, 20)
    await until(lambda: here.taken <= set(there.got), 20)
    assert in_order(there.got) == sorted(here.taken)
    # From then on all is as ever.
    here.publish(MESSAGES, 100)
    await until(lambda: len(here.taken) + len(here.refused) == MESSAGES + 100, 20)
    await until(lambda: MESSAGES + 99 in there.got, 20)
    assert set(range(MESSAGES, MESSAGES + 100)) <= here.taken
    await edge.end(kill=False)
    here.stop()
    there.stop()


async def test_killed_with_a_full_disk_it_starts_and_drains(edge: Edge, far: FarSide) -> None:
    await edge.start()
    here = Publisher(await Raw.client(edge.port, "here"))
    here.publish(0, MESSAGES)
    assert await here.quiet() < MESSAGES
    await edge.end(kill=True)
    here.stop()
    await edge.start()
    again = Publisher(await Raw.client(edge.port, "again"))
    again.publish(MESSAGES, 100)
    assert await again.quiet() < 100
    await edge.end(kill=True)
    again.stop()
    await edge.start()
    last = Publisher(await Raw.client(edge.port, "last"))
    last.publish(2 * MESSAGES, 200)
    there = Taker(far)
    await until(lambda: len(last.taken) == 200, 20)
    wanted = here.taken | again.taken | last.taken
    await until(lambda: wanted <= set(there.got), 20)
    assert in_order(there.got) == sorted(set(there.got))
    await edge.end(kill=False)
    last.stop()
    there.stop()


@pytest.mark.parametrize("with_reserve", [True, False])
async def test_on_a_disk_that_others_have_filled_it_starts_serves_and_heals(
    edge: Edge, disk: Path, far: FarSide, *, with_reserve: bool
) -> None:
    await edge.start()
    here = Publisher(await Raw.client(edge.port, "here"))
    here.publish(0, 200)
    assert await here.quiet() == 200
    await edge.end(kill=True)
    here.stop()
    if not with_reserve:
        (disk / reserve.FILE).unlink()
    filler = fill(disk)
    await edge.start()
    again = Publisher(await Raw.client(edge.port, "again"))
    again.publish(MESSAGES, 100)
    other = await Raw.client(edge.port, "other")
    await other.published("local/a", "1", 1)
    other.close()
    there = Taker(far)
    await until(lambda: here.taken <= set(there.got), 20)
    filler.unlink()
    await until(lambda: len(again.taken) == 100, 20)
    await until(lambda: again.taken <= set(there.got), 20)
    assert in_order(there.got) == sorted(here.taken | again.taken)
    await until(lambda: (disk / reserve.FILE).exists(), 20)
    await edge.end(kill=False)
    again.stop()
    there.stop()
