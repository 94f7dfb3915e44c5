"""QoS 2 from end to end through kill -9: on links that keep their session it stays exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mosquitto import free_port, listens
from raw import (
    CONNACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    Raw,
    ack_packet,
    connect_packet,
    publish_packet,
    until,
    within,
)

LONG = {"clean": False, "session_expiry": 3600}
WINDOW = 15
KILLS = 4


class Process:
    """`isthmus run` that is killed and started again."""

    def __init__(self, folder: Path, **configuration: Any) -> None:
        self.port = free_port()
        self.file = folder / "isthmus.json"
        self.log = folder / "log"
        settings = {
            "node": "edge",
            "listeners": [{"bind": f"127.0.0.1:{self.port}"}],
            "http": None,
            **configuration,
            "broker": {"data": str(folder / "data"), **configuration.get("broker", {})},
        }
        self.file.write_text(json.dumps(settings))
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            process = self._process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [sys.executable, "-m", "isthmus", "run", str(self.file)], stdout=log, stderr=log
            )
        await until(lambda: listens(self.port) or process.poll() is not None, 30)
        assert process.poll() is None, self.log.read_text()

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture
def process(tmp_path):
    made: list[Process] = []

    def make(name: str = "a", **configuration: Any) -> Process:
        folder = tmp_path / name
        folder.mkdir()
        made.append(Process(folder, **configuration))
        return made[-1]

    yield make
    for one in made:
        one.kill()


class Publisher:
    """Sends numbers with QoS 2, and keeps its side of each exchange over any loss of the link."""

    def __init__(self, port: int, version: int) -> None:
        self.port = port
        self.version = version
        self.next = 0
        self.done = 0
        self.sessions_lost = 0
        self.stopping = False
        self.unreceived: dict[int, int] = {}  # packet identifier -> number, no PUBREC yet
        self.unfinished: dict[int, int] = {}  # PUBREL is due, or has no PUBCOMP
        self.free = list(range(1, 2 * WINDOW))

    async def run(self) -> None:
        known = False
        while not self.stopping or self.unreceived or self.unfinished:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                raw = await Raw.open(self.port, self.version)
                try:
                    known = await self._connected(raw, known=known)
                finally:
                    raw.close()
            await asyncio.sleep(0.05)

    async def _connected(self, raw: Raw, *, known: bool) -> bool:
        how = LONG if self.version == 5 else {"clean": False}
        raw.send(connect_packet("publisher", self.version, **how))
        hello = await raw.expect(CONNACK)
        assert hello.code == 0
        self.sessions_lost += known and not hello.session_present
        for packet_id in self.unfinished:
            raw.send(ack_packet(PUBREL, packet_id))
        for packet_id, number in self.unreceived.items():
            raw.send(self._packet(packet_id, number, dup=True))
        try:
            while not self.stopping or self.unreceived or self.unfinished:
                while len(self.unreceived) + len(self.unfinished) < WINDOW and not self.stopping:
                    packet_id = self.free.pop(0)  # the one that was free for longest
                    self.unreceived[packet_id] = self.next
                    raw.send(self._packet(packet_id, self.next, dup=False))
                    self.next += 1
                    if not self.next % 10:
                        await asyncio.sleep(0.03)
                self._answered(raw, await raw.packet())
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        return True

    def _packet(self, packet_id: int, number: int, *, dup: bool) -> bytes:
        topic = f"n/{number % 3}"
        return publish_packet(topic, b"%d" % number, 2, packet_id, dup=dup, version=self.version)

    def _answered(self, raw: Raw, answer: Any) -> None:
        packet_id = answer.packet_id
        if answer.kind == PUBREC and packet_id in self.unreceived:
            assert answer.code < 0x80, answer
            self.unfinished[packet_id] = self.unreceived.pop(packet_id)
            raw.send(ack_packet(PUBREL, packet_id))
        elif answer.kind == PUBREC:
            raw.send(ack_packet(PUBREL, packet_id))
        elif answer.kind == PUBCOMP and packet_id in self.unfinished:
            del self.unfinished[packet_id]
            self.free.append(packet_id)
            self.done += 1


class Reader:
    """A subscriber that does the same."""

    def __init__(self, port: int, client_id: str = "reader", filter_: str = "n/+") -> None:
        self.port = port
        self.client_id = client_id
        self.filter = filter_
        self.numbers: list[int] = []
        self.ready = False
        self._held: set[int] = set()

    async def run(self) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                raw = await Raw.client(self.port, self.client_id, **LONG, keep_alive=0)
                try:
                    if not raw.hello.session_present:
                        assert not self.numbers
                        await raw.subscribe(self.filter, qos=2)
                        self.ready = True
                    await self._read(raw)
                finally:
                    raw.close()
            await asyncio.sleep(0.05)

    async def _read(self, raw: Raw) -> None:
        while True:
            found = await raw._read()
            if found.kind == PUBLISH:
                if found.packet_id not in self._held:
                    self._held.add(found.packet_id)
                    self.numbers.append(int(found.payload))
                raw.send(ack_packet(PUBREC, found.packet_id))
            elif found.kind == PUBREL:
                self._held.discard(found.packet_id)
                raw.send(ack_packet(PUBCOMP, found.packet_id))


async def exactly_once(publisher: Publisher, near: Process, *readers: Reader) -> None:
    """Each number comes to one of `readers`, once, and in order to each of them."""

    def count() -> int:
        return sum(len(reader.numbers) for reader in readers)

    reading = [asyncio.create_task(reader.run()) for reader in readers]
    await until(lambda: all(reader.ready for reader in readers), 20)
    publishing = asyncio.create_task(publisher.run())
    try:
        for _ in range(KILLS):
            enough = count() + 100
            await until(lambda: count() > enough or publishing.done(), 30)  # noqa: B023
            await asyncio.sleep(random.random() * 0.3)
            near.kill()
            await near.start()
        publisher.stopping = True
        await within(publishing, 60)
        await until(lambda: count() >= publisher.next or any(task.done() for task in reading), 30)
        await asyncio.sleep(0.3)
    finally:
        for task in (*reading, publishing):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    assert publisher.sessions_lost == 0
    every = [number for reader in readers for number in reader.numbers]
    assert sorted(every) == list(range(publisher.next))
    for reader in readers:
        for rest in range(3):
            of_topic = [number for number in reader.numbers if number % 3 == rest]
            assert of_topic == sorted(of_topic)


@pytest.mark.parametrize("version", [4, 5])
async def test_through_a_route_to_mosquitto(process, mosquitto, version):
    far = await mosquitto("max_queued_messages 0")
    near = process(
        connectors={
            "cloud": {
                "url": f"127.0.0.1:{far.port}",
                "version": "5" if version == 5 else "3.1.1",
                "reconnect": {"min": "20ms", "max": "100ms"},
            }
        },
        routes={"out": {"from": "local", "to": "cloud", "topics": ["n/#"]}},
    )
    await near.start()
    await exactly_once(Publisher(near.port, version), near, Reader(far.port))
    assert "Traceback" not in near.said()


async def test_from_mosquitto_to_a_client_that_keeps_its_session(process, mosquitto):
    far = await mosquitto("max_queued_messages 0", "max_inflight_messages 100")
    near = process(
        connectors={
            "cloud": {
                "url": f"127.0.0.1:{far.port}",
                "reconnect": {"min": "20ms", "max": "100ms"},
            }
        },
        routes={"in": {"from": "cloud", "to": "local", "topics": ["n/#"], "qos": 2}},
    )
    await near.start()
    await until(lambda: "Sending SUBACK to " in far.log.read_text(), 20)
    await exactly_once(Publisher(far.port, 5), near, Reader(near.port))
    assert "Traceback" not in near.said()


async def test_from_client_to_client(process):
    near = process()
    await near.start()
    await exactly_once(Publisher(near.port, 5), near, Reader(near.port))
    assert "Traceback" not in near.said()


async def test_from_a_client_to_a_share_group(process):
    near = process()
    await near.start()
    readers = [Reader(near.port, name, "$share/g/n/+") for name in ("one", "two")]
    await exactly_once(Publisher(near.port, 5), near, *readers)
    assert all(reader.numbers for reader in readers)
    assert "Traceback" not in near.said()
