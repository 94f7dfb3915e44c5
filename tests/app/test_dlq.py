"""`isthmus dlq`: with a running process, and on the data folder where none runs."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from reloadable import Reloadable

from isthmus.store.database import FILE
from isthmus.store.wal import read_mark
from mosquitto import free_port
from raw import OPEN, PUBACK, PUBLISH, FarSide, Raw, ack_packet, until


@pytest_asyncio.fixture
async def process(tmp_path: Path) -> AsyncIterator[Reloadable]:
    found = Reloadable(tmp_path)
    OPEN.clear()
    yield found
    for raw in OPEN:
        raw.writer.transport.abort()
    OPEN.clear()
    await asyncio.sleep(0)
    found.end()


def configuration(port: int, far: int, data: Path) -> dict[str, Any]:
    return {
        "listeners": [{"bind": f"127.0.0.1:{port}"}],
        "http": None,
        "broker": {"data": str(data)},
        "connectors": {
            "cloud": {
                "url": f"127.0.0.1:{far}",
                "client_id": "edge-1",
                "reconnect": {"min": "20ms", "max": "100ms"},
            }
        },
        "routes": {"out": {"from": "local", "topics": ["out/#"], "to": "cloud"}},
    }


async def dlq(process: Reloadable, *arguments: object, code: int = 0) -> str:
    found, text, errors = await process.command(*arguments, name="dlq")
    assert found == code, text + errors
    return text + errors


async def refuse_three(process: Reloadable, far: FarSide, data: Path) -> tuple[Raw, Raw]:
    port = free_port()
    await process.start(configuration(port, far.port, data))
    there, _ = await far.client()
    here = await Raw.client(port, "here", 4)
    for number, payload in enumerate((b"plain", b"\xff\xfe", b"last")):
        here.publish(f"out/{number}", payload, 1)
        got = await there.expect(PUBLISH)
        there.send(ack_packet(PUBACK, got.packet_id, 0x87))
        await here.expect(PUBACK)
    return there, here


async def test_with_a_running_process(process: Reloadable, far: FarSide, tmp_path: Path) -> None:
    data = tmp_path / "data"
    there, _ = await refuse_three(process, far, data)
    lines = (await dlq(process, "list", "--data", data)).splitlines()
    assert [line.split()[:2] for line in lines] == [["cloud", "1"], ["cloud", "2"], ["cloud", "3"]]
    assert all(" refused_0x87 out/" in line for line in lines)
    found = [json.loads(line) for line in (await dlq(process, "list", "--json")).splitlines()]
    assert found[2] | {"at": ""} == {
        "connector": "cloud", "number": 3, "at": "", "reason": "refused_0x87",
        "connection": "edge-1", "topic": "out/2", "size": 4,
    }  # fmt: skip
    shown = json.loads(await dlq(process, "show", "cloud", 2))
    assert base64.b64decode(shown["payload"]) == b"\xff\xfe"
    assert (shown["payload_encoding"], shown["topic"], shown["qos"]) == ("base64", "out/1", 1)
    replayed = asyncio.ensure_future(dlq(process, "replay", "cloud", 1, "-c", process.file))
    got = await there.expect(PUBLISH)
    assert (got.topic, got.payload) == ("out/0", b"plain")
    there.send(ack_packet(PUBACK, got.packet_id))
    assert await replayed == "1 message(s) published again\n"
    assert await dlq(process, "drop", "cloud", 3) == "1 message(s) deleted\n"
    assert "there is no dead letter number 3" in await dlq(process, "show", "cloud", 3, code=1)
    replayed = asyncio.ensure_future(dlq(process, "replay", "cloud", "--all", code=1))
    got = await there.expect(PUBLISH)
    there.send(ack_packet(PUBACK, got.packet_id, 0x97 + 2))
    assert "0 message(s) published again" in await replayed
    assert await dlq(process, "drop", "cloud", "--all") == "1 message(s) deleted\n"
    assert await dlq(process, "list") == "isthmus: no dead letters\n"
    assert (await process.command("list", "--json", name="dlq"))[1] == ""
    assert "of a connector 'nobody'" in await dlq(process, "list", "nobody", code=1)
    assert "by its number, or all of them" in await dlq(process, "drop", "cloud", code=2)


async def test_a_replay_into_a_full_queue_is_not_called_published(
    process: Reloadable, tmp_path: Path
) -> None:
    port = free_port()
    found = configuration(port, free_port(), tmp_path / "data")
    found["routes"]["out"]["queue"] = {"max_messages": 1, "when_full": "dead_letter"}
    await process.start(found)
    here = await Raw.client(port, "here", 4)
    for payload in (b"queued", b"put aside"):
        here.publish("out/a", payload, 1)
        await here.expect(PUBACK)
    text = await dlq(process, "replay", "cloud", 1, code=1)
    assert "0 message(s) published again" in text
    assert "isthmus: cloud 1 stays, as number 2: the queue is full" in text
    (line,) = (await dlq(process, "list", "cloud")).splitlines()
    assert line.split()[:2] == ["cloud", "2"]


async def test_after_a_kill_looking_at_them_is_no_loss(
    process: Reloadable, far: FarSide, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    await refuse_three(process, far, data)
    await until(lambda: read_mark(data / FILE) is not None)
    assert process.process is not None
    process.process.kill()
    process.process.wait()
    assert len((await dlq(process, "list", "-c", process.file)).splitlines()) == 3
    assert (await process.command("check", data, name="store"))[0] == 0
    await process.start(process.file.read_text())
    assert "lost" not in process.log


async def test_another_process_is_not_meant_where_there_is_a_configuration(
    process: Reloadable, far: FarSide, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / process.file.name).write_text(
        json.dumps(configuration(free_port(), far.port, folder / "data"))
    )
    await refuse_three(process, far, tmp_path / "data")
    here, process.file = process.file, folder / process.file.name
    text = await dlq(process, "drop", "cloud", "--all", code=2)
    assert "there is no process of isthmus.yaml" in text
    assert f"{process.process and process.process.pid} ({here})" in text
    process.file = here
    assert len((await dlq(process, "list")).splitlines()) == 3


async def test_where_no_process_runs(process: Reloadable, far: FarSide, tmp_path: Path) -> None:
    data = tmp_path / "data"
    await refuse_three(process, far, data)
    assert process.process is not None
    process.process.kill()  # the control socket stays behind
    process.process.wait()
    lines = (await dlq(process, "list", "--data", data)).splitlines()
    assert len(lines) == 3
    shown = json.loads(await dlq(process, "show", "cloud", 1, "--config", process.file))
    assert (shown["payload"], shown["reason"]) == ("plain", "refused_0x87")
    text = await dlq(process, "replay", "cloud", 1, "--data", data, code=2)
    assert "Isthmus has to run" in text
    assert await dlq(process, "drop", "cloud", 2, "--data", data) == "1 message(s) deleted\n"
    assert "no dead letter number 2" in await dlq(
        process, "show", "cloud", 2, "--data", data, code=1
    )
    assert len((await dlq(process, "list", "--data", data)).splitlines()) == 2
    exported = await process.command("export", data, name="store")
    assert [json.loads(line)["reason"] for line in exported[1].splitlines()] == ["refused_0x87"] * 2
    assert await dlq(process, "drop", "cloud", "--all", "--data", data) == "2 message(s) deleted\n"
    assert await dlq(process, "list", "--data", data) == "isthmus: no dead letters\n"
    assert (await process.command("check", data, name="store"))[0] == 0


@pytest.mark.parametrize("command", [("list",), ("show", "cloud", 1), ("replay", "cloud", "--all")])
async def test_a_folder_that_is_not_there_is_called_so(
    process: Reloadable, tmp_path: Path, command: tuple[object, ...]
) -> None:
    """What is missing is the folder, or the store in it; that no process runs says nothing."""
    what_to_do = "the data folder is what 'broker.data' names in the configuration"
    (tmp_path / "empty").mkdir()
    for name, missing in (
        ("nodata", f"there is no folder {tmp_path / 'nodata'}"),
        ("empty", f"there is no store in {tmp_path / 'empty'}: isthmus.db is not there"),
    ):
        text = await dlq(process, *command, "--data", f"./{name}", code=2)
        assert text == f"isthmus: {missing}; {what_to_do}\n"
    process.write({"broker": {"data": "./gone"}})
    text = await dlq(process, *command, "--config", process.file, code=2)
    assert "there is no process of" in text
    assert f"there is no folder {tmp_path / 'gone'}; {what_to_do}" in text
    text = (await process.command("check", "./nodata", name="store"))[2]
    assert text == f"isthmus: there is no folder {tmp_path / 'nodata'}; {what_to_do}\n"
    text = (await process.command("--data", "./nodata", name="status"))[2]
    assert text == f"isthmus: there is no folder {tmp_path / 'nodata'}; {what_to_do}\n"


async def test_status_has_their_number(process: Reloadable, far: FarSide, tmp_path: Path) -> None:
    await refuse_three(process, far, tmp_path / "data")
    await until(lambda: process.socket is not None)
    _, text, _ = await process.command(name="status")
    assert "cloud: 3 dead letter(s) (isthmus dlq list cloud)" in text
    answer = json.loads((await process.command("--json", name="status"))[1])
    cloud = answer["connectors"][0]
    assert (cloud["dead_letters"], cloud["dropped"]) == (3, {})
    assert cloud["dead_letter_bytes"] > 30
