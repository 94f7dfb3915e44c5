"""A message is acknowledged when fdatasync has returned, or the far side has it: seen by strace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from power_account import account
from power_far import FarBroker
from power_process import IsthmusProcess
from power_promise import Promise
from power_trace import calls
from power_watcher import Watcher

from isthmus.store.writer import MARK_S
from mosquitto import free_port
from raw import FarSide, Raw, grant, until

COUNT = 20


def payload(kind: str, number: int) -> bytes:
    return f"message-{kind}-{number:03d}-unique".encode()


def payloads(kind: str) -> list[bytes]:
    return [payload(kind, number) for number in range(COUNT)]


class Seen:
    """A trace, and what the packets in it say."""

    def __init__(self, isthmus: IsthmusProcess, far_port: int, up_port: int) -> None:
        found = isthmus.calls()
        self.account = account(found, isthmus.port, [far_port], up_port=up_port)
        self.promise = Promise(found, isthmus.data, self.account)

    def too_early(self, kind: str) -> list[bytes]:
        return self.promise.too_early(payloads(kind))

    def on_disk(self, kind: str) -> int:
        return sum(self.promise.on_disk(each) is not None for each in payloads(kind))


@pytest_asyncio.fixture
async def seen(tmp_path: Path) -> AsyncIterator[Seen]:
    """Twenty messages of each kind, each sent when the one before it was acknowledged."""
    far, upstream = FarBroker(), FarSide()
    await far.up()
    await upstream.start()
    ports = {"down": free_port(), "up": far.port}
    # However busy this machine is, the far side that is up counts as quick.
    isthmus = IsthmusProcess(tmp_path, ports, traced=True, spill_after="5s", up_port=upstream.port)
    try:
        await isthmus.start()
        watcher = Watcher(isthmus.port, 10, "asleep/#", "in/#")
        await watcher.up()
        await until(lambda: watcher.session)
        await watcher.down()
        publisher = await Raw.client(isthmus.port, "publisher")
        for kind, topic, qos, retain in (
            ("one", "down/a", 1, False),
            ("two", "down/a", 2, False),
            ("keep", "nowhere/a", 1, True),
            ("absent-one", "asleep/a", 1, False),
            ("absent-two", "asleep/a", 2, False),
        ):
            for number in range(COUNT):
                how = {"retain": retain}
                assert await publisher.published(topic, payload(kind, number), qos, **how) in (
                    0,
                    16,
                )
        bridge, _ = await upstream.client()
        await grant(bridge)
        for kind, qos in (("in-one", 1), ("in-two", 2)):
            for number in range(COUNT):
                assert await bridge.published("in/a", payload(kind, number), qos) == 0
        await until(lambda: far.session)
        await asyncio.sleep(2 * MARK_S)  # until it is noted how much of the log is synchronised
        for number in range(COUNT):
            assert await publisher.published("up/a", payload("through", number)) == 0
        publisher.close()
        await isthmus.end()
        yield Seen(isthmus, far.port, upstream.port)
    finally:
        await isthmus.end()
        await upstream.stop()
        await far.down()


async def test_an_acknowledgement_leaves_when_the_message_is_safe(seen):
    assert COUNT == 20
    # The far side is down, or a client is absent: the disk has to have it, whether a client or
    # another broker published it.
    for kind in ("one", "two", "keep", "absent-one", "absent-two", "in-one", "in-two"):
        assert seen.on_disk(kind) == COUNT
        assert seen.too_early(kind) == []
    # The far side is up, and quick: it has it, and the disk is left alone.
    assert seen.too_early("through") == []
    assert all(each in seen.account.owned for each in payloads("through"))
    times = [seen.account.sent[each].at for each in payloads("through")]
    last = max(seen.account.acknowledged[each] for each in payloads("through"))
    assert seen.promise.written(min(times), last) == []


FOLDER = Path("/data")


def hexed(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


def trace(*steps: str) -> list[str]:
    """A trace of QoS 1 message `m1`, by hand; the writer is thread 2."""
    wal = f"7<{hexed(b'/data/isthmus.db-wal')}>"
    other = f"8<{hexed(b'/data/isthmus.db')}>"
    near = "9<TCP:[127.0.0.1:1883->127.0.0.1:4000]>"
    far = "6<TCP:[127.0.0.1:5000->127.0.0.1:1884]>"
    publish = hexed(b"\x32\x07\0\1a\0\x05m1")
    lines = {
        "connect": f'1 recvfrom({near}, "{hexed(CONNECT_4)}", 65536, 0, NULL, NULL) = 14',
        "publish": f'1 recvfrom({near}, "{publish}", 65536, 0, NULL, NULL) = 9',
        "write": f'2 pwrite64({wal}, "{hexed(b"..m1..")}", 6, 32) = 6',
        "write begins": f'2 pwrite64({wal}, "{hexed(b"..m1..")}", 6, 32 <unfinished ...>',
        "write ends": "2 <... pwrite64 resumed>) = 6",
        "sync": f"2 fdatasync({wal}) = 0",
        "sync begins": f"2 fdatasync({wal} <unfinished ...>",
        "sync ends": "2 <... fdatasync resumed>) = 0",
        "sync fails": f"2 fdatasync({wal}) = -1 EIO (Input/output error)",
        "other sync": f"2 fdatasync({other}) = 0",
        "puback": f'1 sendto({near}, "{hexed(b"@" + bytes([2, 0, 5]))}", 4, 0, NULL, 0) = 4',
        "forward": f'1 sendto({far}, "{publish}", 9, 0, NULL, 0) = 9',
        "far puback": f'1 recvfrom({far}, "{hexed(b"@" + bytes([2, 0, 5]))}", 65536, 0) = 4',
    }
    return [lines[step] for step in ("connect", "publish", *steps)]


CONNECT_4 = b"\x10\x0c\0\4MQTT\4\2\0\x3c\0\0"


def judged(*steps: str) -> bool:
    """Whether the acknowledgement in a trace came when it should."""
    found = list(calls(trace(*steps)))
    said = account(found, 1883, [1884])
    assert list(said.acknowledged) == [b"m1"]
    return not Promise(found, FOLDER, said).too_early([b"m1"])


def test_an_early_acknowledgement_is_seen():
    assert judged("write", "sync", "puback")
    assert judged("write begins", "write ends", "sync begins", "sync ends", "puback")
    assert judged("forward", "far puback", "puback")
    assert not judged("puback", "write", "sync")
    assert not judged("write", "puback", "sync")
    assert not judged("write", "sync begins", "puback", "sync ends")
    assert not judged("write begins", "sync", "write ends", "puback")  # it covers no part of it
    assert not judged("sync", "write", "puback")
    assert not judged("write", "sync fails", "puback")
    assert not judged("write", "other sync", "puback")
    assert not judged("write", "puback")
    assert not judged("forward", "puback", "far puback")
    assert not judged("sync", "puback")
