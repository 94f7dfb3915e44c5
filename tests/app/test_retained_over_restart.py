"""Retained changes that a far side missed reach it, though the process ended in between."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from reloadable import Reloadable

from mosquitto import free_port, listens
from raw import OPEN, PUBACK, PUBLISH, FarSide, Raw, ack_packet, until
from running import bridge, out


@pytest_asyncio.fixture
async def process(tmp_path: Path) -> AsyncIterator[Reloadable]:
    found = Reloadable(tmp_path)
    yield found
    for raw in OPEN:
        raw.writer.transport.abort()
    OPEN.clear()
    found.end()


async def start(process: Reloadable, port: int, configuration: dict[str, Any]) -> None:
    listeners = [{"bind": f"127.0.0.1:{port}"}]
    await process.start({"listeners": listeners, **configuration})
    await until(lambda: listens(port), 15)


def end(process: Reloadable, how: signal.Signals) -> None:
    assert process.process is not None
    process.process.send_signal(how)
    process.process.wait(60)


@pytest.mark.parametrize("durability", ["disk", "memory"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_changes_and_deletions_with_qos_0(
    process: Reloadable, far: FarSide, tmp_path: Path, how: signal.Signals, durability: str
) -> None:
    routes = {"out": out("out/#", durability=durability)}
    data = {"broker": {"data": str(tmp_path / "data")}}
    cloud = {"client_id": "me", "connect_timeout": "60s"}  # one attempt lasts for the whole outage
    configuration = {**bridge(far.port, routes=routes, **cloud), **data}
    port = free_port()
    await start(process, port, configuration)
    there, _ = await far.client()
    here = await Raw.client(port, "here")
    for name in ("gone", "changed", "same"):
        here.publish(f"out/{name}", "1", 0, retain=True)
        await there.expect(PUBLISH)
    there.close()
    await far.accept()  # the next attempt: it knows that the link is down
    here.publish("out/gone", "", 0, retain=True)
    here.publish("out/changed", "2", 0, retain=True)
    here.publish("elsewhere", "x", 1, retain=True)
    await here.expect(PUBACK)  # it is on disk, and what came before
    end(process, how)

    await start(process, port, configuration)
    there, _ = await far.client(session_present=True)
    # What the far side has not acknowledged is not forgotten by another end.
    missed = {}
    while len(missed) < 2:
        one = await there.expect(PUBLISH)
        assert one.retain
        missed[one.topic] = one.payload
    assert missed == {"out/gone": b"", "out/changed": b"2"}
    end(process, signal.SIGKILL)

    await start(process, port, configuration)
    there, _ = await far.client(session_present=True)
    here = await Raw.client(port, "here")
    here.publish("out/last", "1", 1)
    assert {"out/gone", "out/last"} <= await acknowledged(there, "out/last")
    await here.expect(PUBACK)
    here.publish("elsewhere", "y", 1, retain=True)
    await here.expect(PUBACK)  # so is on disk that nothing is missed any more
    end(process, how)

    await start(process, port, configuration)
    there, _ = await far.client(session_present=True)
    here = await Raw.client(port, "here")
    here.publish("out/plain", "1", 0)
    assert (await there.expect(PUBLISH)).topic == "out/plain"


async def acknowledged(there: Raw, last: str) -> set[str]:
    """Acknowledge what comes until the topic `last`; the topics."""
    topics = set()
    while last not in topics:
        one = await there.expect(PUBLISH)
        topics.add(one.topic)
        if one.qos:
            there.send(ack_packet(PUBACK, one.packet_id))
    return topics
