"""`isthmus status` and `isthmus top`, with a running process and a real far side."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from reloadable import Reloadable

from isthmus.amounts import duration, size
from isthmus.auth.passwords import create_entry
from isthmus.cli.status_table import is_well, table
from mosquitto import Mosquitto, free_port, listens
from raw import OPEN, Raw, publish_packet, until

PASSWORD = "CANARY-31"


@pytest_asyncio.fixture
async def process(tmp_path: Path) -> AsyncIterator[Reloadable]:
    found = Reloadable(tmp_path)
    yield found
    for raw in OPEN:
        raw.writer.transport.abort()
    OPEN.clear()
    await asyncio.sleep(0)
    found.end()


def configuration(port: int, far: int, **more: Any) -> dict[str, Any]:
    quick = {"min": "20ms", "max": "100ms"}
    cloud = {"url": f"127.0.0.1:{far}", "reconnect": quick, "username": "edge"}
    return {
        "listeners": [{"bind": f"127.0.0.1:{port}"}],
        "connectors": {"cloud": {**cloud, "password": PASSWORD}},
        "routes": {"out": {"from": "local", "topics": ["out/#"], "to": "cloud"}},
        **more,
    }


async def guarded(mosquitto: Any, folder: Path, password: str = PASSWORD) -> Mosquitto:
    """A Mosquitto that lets in user `edge` alone."""
    write_password(folder, password)
    real: Mosquitto = await mosquitto("allow_anonymous false", f"password_file {folder / 'users'}")
    return real


def write_password(folder: Path, password: str) -> None:
    (folder / "users").write_text(create_entry("edge", password.encode(), iterations=101) + "\n")


async def status(process: Reloadable, *arguments: object) -> tuple[int, str]:
    """Exit status and output, in which there is no secret."""
    code, text, errors = await process.command(*arguments, name="status")
    assert PASSWORD not in text + errors
    return code, text + errors


async def said(process: Reloadable, code: int, *needles: str) -> str:
    """Ask until the answer has this exit status and these words."""
    async with asyncio.timeout(15):
        while True:
            found, text = await status(process)
            if found == code and all(needle in text for needle in needles):
                return text


async def test_it_follows_the_far_side(process: Reloadable, mosquitto: Any, tmp_path: Path) -> None:
    real = await guarded(mosquitto, tmp_path)
    await process.start(configuration(free_port(), real.port))
    text = await said(process, 0, "connected")
    lines = text.splitlines()
    assert re.match(r"isthmus \S+, process \d+, node \S+, up ", lines[0])
    assert "0 clients" in lines[1]
    head = next(line for line in lines if line.startswith("CONNECTOR"))
    row = next(line for line in lines if line.startswith("cloud"))
    assert row.split()[:3] == ["cloud", "connected", "1/1"]
    assert row[head.index("ADDRESS") :] == f"mqtt://127.0.0.1:{real.port}"
    assert re.search(r"^out +local +cloud +0 +0$", text, re.MULTILINE)

    real.kill()
    await said(process, 1, "0/1", "cloud: waiting: tcp: ", "refused")
    write_password(tmp_path, "another")
    await real.start()
    await said(process, 1, "cloud: refused: ", "uthori")


async def test_several_processes_are_listed_with_their_files(process: Reloadable) -> None:
    await process.start({"listeners": [{"bind": f"127.0.0.1:{free_port()}"}]})
    other = Reloadable(process.file.parent, "other.yaml")
    first, own = process.process, process.file
    shutil.rmtree(other.runtime)
    other.env, other.runtime = process.env, process.runtime
    port = free_port()
    try:
        await other.start({"listeners": [{"bind": f"127.0.0.1:{port}"}]})
        await until(lambda: listens(port), 15)
        await until(lambda: len(process.sockets) == 2, 15)
        own.unlink()  # else the command would mean this one
        code, text = await status(process)
        assert first is not None
        assert other.process is not None
        assert code == 2
        assert f"{first.pid} ({own})" in text
        assert f"{other.process.pid} ({other.file})" in text
        third = own.with_name("third.yaml")
        third.write_text("")
        text = (await status(process, third))[1]
        assert "is it running (a start takes a moment), and as you? Other processes: " in text
        assert text.endswith("; see --pid\n")
    finally:
        other.end()


async def test_a_look_for_the_process_is_no_failed_request(process: Reloadable) -> None:
    await process.start(
        {"listeners": [{"bind": f"127.0.0.1:{free_port()}"}], "log": {"level": "debug"}}
    )
    assert (await status(process, process.file))[0] == 0
    assert "was not answered" not in process.log


async def test_json_is_the_whole_answer(
    process: Reloadable, mosquitto: Any, tmp_path: Path
) -> None:
    real = await guarded(mosquitto, tmp_path)
    data = {"broker": {"data": str(tmp_path / "data")}}
    await process.start(configuration(free_port(), real.port, **data))
    await said(process, 0, " commit")
    code, text = await status(process, "--json")
    assert code == 0
    found = json.loads(text)
    assert set(found) == {"process", "broker", "connectors", "routes"}
    assert process.process is not None
    assert found["process"]["pid"] == process.process.pid
    assert [one["name"] for one in found["connectors"]] == ["cloud"]
    assert found["routes"] == [
        {"name": "out", "from": "local", "to": "cloud", "messages": 0, "dropped": {}}
    ]
    assert found["broker"]["store"]["failure"] is None


async def test_topics_of_the_broker_itself_are_no_retained_messages(process: Reloadable) -> None:
    port = free_port()
    await process.start({"listeners": [{"bind": f"127.0.0.1:{port}"}]})
    await said(process, 0, " 0 retained,")
    here = await Raw.client(port, "here")
    here.send(publish_packet("kept", "x", retain=True))
    await said(process, 0, " 1 retained,")


async def test_drops_are_named_by_place_and_reason(process: Reloadable) -> None:
    port = free_port()
    await process.start(configuration(port, free_port()))
    here = await Raw.client(port, "here")
    here.send(publish_packet("out/a", "x"), publish_packet("out/a", "y", 1, 1))
    text = await said(process, 1, "dropped at connector cloud: link_down 1")
    row = next(line for line in text.splitlines() if line.startswith("cloud "))
    assert "waiting" in row


async def test_the_process_is_found_in_each_way(
    process: Reloadable, mosquitto: Any, tmp_path: Path
) -> None:
    real = await guarded(mosquitto, tmp_path)
    data = tmp_path / "data"
    configured = configuration(free_port(), real.port, broker={"data": str(data)})
    code, text = await status(process)
    assert (code, "no process" in text) == (2, True)
    await process.start(configured)
    await said(process, 0, "connected")
    assert process.process is not None
    for way in ([process.file], ["--config", process.file], ["--data", data],
                ["--pid", process.process.pid]):  # fmt: skip
        assert (await status(process, *way))[0] == 0, way
    for way in (["--data", tmp_path], ["--pid", 1]):
        code, text = await status(process, *way)
        assert (code, "no process" in text) == (2, True), way
    code, text = await status(process, process.file, "--data", data)
    assert (code, "once" in text) == (2, True)
    process.process.send_signal(signal.SIGSTOP)
    try:
        code, text = await status(process, "--data", data)
        assert (code, "no answer within" in text) == (2, True)
    finally:
        process.process.send_signal(signal.SIGCONT)
    process.process.kill()
    process.process.wait()
    for way in ([process.file], ["--data", data]):
        code, text = await status(process, *way)
        assert code == 2, way
        assert "isthmus: " in text


async def test_top_prints_blocks_with_rates(
    process: Reloadable, mosquitto: Any, tmp_path: Path
) -> None:
    real = await guarded(mosquitto, tmp_path)
    port = free_port()
    await process.start(configuration(port, real.port))
    await said(process, 0, "connected")
    here = await Raw.client(port, "here")
    running = asyncio.ensure_future(process.command("-n", 3, "--interval", 0.5, name="top"))
    number = 0
    while not running.done():
        number += 1
        here.send(publish_packet("out/a", "x", 1, number))
        await asyncio.sleep(0.02)
    code, text, errors = await running
    assert (code, errors) == (0, "")
    blocks = text.strip().split("\n\nisthmus ")
    assert len(blocks) == 3
    assert "\x1b" not in text
    assert "-/s received" in blocks[0]
    rates = [int(rate) for rate in re.findall(r"messages (\d+)/s received", text)]
    assert len(rates) == 2
    assert all(5 <= rate <= 60 for rate in rates)
    head, row = re.findall(r"^(?:CONNECTOR|cloud) .*$", blocks[2], re.MULTILINE)[:2]
    acked = row[: head.index("ACKED") + 5].split()[-1]
    assert acked.endswith("/s")
    assert int(acked[:-2]) >= 5


async def test_top_draws_in_place_and_ends_with_ctrl_c(process: Reloadable) -> None:
    await process.start(configuration(free_port(), free_port()))
    ours, theirs = pty.openpty()
    shown = subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [sys.executable, "-m", "isthmus", "top", "--interval", "0.2", str(process.file)],
        stdin=theirs, stdout=theirs, stderr=theirs,
        env={**process.env, "COLUMNS": "60", "LINES": "20"},
        # What runs the tests may ignore it, as a shell has its jobs in the background do.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        os.close(theirs)
        text = b""
        async with asyncio.timeout(15):
            while text.count(b"\x1b[H") < 3:
                text += await asyncio.to_thread(os.read, ours, 4096)
        block = text.split(b"\x1b[H")[1].decode()
        assert "CONNECTOR" in block
        lines = block.replace("\x1b[K", "").replace("\x1b[J", "").split("\r\n")
        assert all(len(line) <= 60 for line in lines)
        shown.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(shown.wait, 10) == 0
    finally:
        shown.kill()
        shown.wait()
        os.close(ours)


async def test_top_says_that_the_process_has_ended(process: Reloadable) -> None:
    await process.start(configuration(free_port(), free_port()))
    running = asyncio.ensure_future(process.command("--interval", 0.2, name="top"))
    await asyncio.sleep(1.5)
    assert not running.done()
    assert process.process is not None
    process.process.kill()
    code, _, errors = await running
    assert code == 2
    assert errors.startswith("isthmus: ")


def test_the_page_shows_the_table_as_it_is() -> None:
    cloud: dict[str, Any] = {
        "name": "cloud", "state": "connected", "reason": "", "since": "2026-01-31T12:00:00.000Z",
        "address": "mqtt://127.0.0.1:1884", "version": "5", "connections_up": 1,
        "connections_wanted": 1, "connections_on_backup": 0,
        "last_error": "tcp: 127.0.0.1:1884: 127.0.0.1: Connection refused",
        "last_error_at": "2026-01-31T11:59:58.000Z", "round_trip_ms": 0.412, "queued": 0,
        "queued_bytes": 0, "inflight": 4, "oldest_age_s": 0.0, "received": 12, "sent": 90_195,
        "acknowledged": 90_191, "retried": 0, "refused": 0, "subscriptions_refused": 0,
        "dead_letters": 0,
        "dropped": {"link_down": 3},
    }  # fmt: skip
    broker: dict[str, Any] = {
        "clients": 12, "sessions": 14, "subscriptions": 31, "retained": 8, "received": 90_210,
        "sent": 90_207, "dropped": {}, "store": {"failure": None, "commits": 12},
    }  # fmt: skip
    answer: dict[str, Any] = {
        "process": {
            "version": "0.1.0", "pid": 4711, "node": "site-7", "uptime_s": 7504.0,
            "at": "2026-01-31T14:05:00.000Z",
        },
        "broker": broker,
        "connectors": [cloud],
        "routes": [
            {"name": "telemetry", "from": "local", "to": "cloud", "messages": 90_195, "dropped": {}}
        ],
    }  # fmt: skip
    page = (Path(__file__).parents[2] / "docs" / "status.md").read_text()
    assert "\n".join(table(answer)) + "\n" in page
    assert is_well(answer)
    assert not is_well({**answer, "connectors": [{**cloud, "state": "degraded"}]})
    failing = {"failure": "the disk is full", "commits": 12}
    answer["broker"] = {**broker, "store": failing}
    assert not is_well(answer)
    assert "store: FAILS after 12 commits: the disk is full" in list(table(answer))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 s"), (9.94, "9.9 s"), (59, "59 s"), (60, "1 min"), (90, "1 min 30 s"),
     (7500, "2 h 5 min"), (90_000, "1 d 1 h"), (86_400, "1 d")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (3482, "3.4 KiB"), (5 << 20, "5.0 MiB"),
     (3 << 40, "3072.0 GiB")],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
