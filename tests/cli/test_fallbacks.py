"""A bridge whose process has no uvloop, no epoll, or neither, as on other platforms."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mosquitto import free_port
from raw import Raw, until

BRIDGE = """
listeners: [{bind: "127.0.0.1:%d"}]
connectors: {cloud: {url: "127.0.0.1:%d"}}
routes:
  out: {from: local, topics: ["sensor/#"], to: cloud}
  in: {from: cloud, topics: ["control/#"], to: local}
http: null
"""

# Python runs a module of this name before everything else.
HIDES_FIRST = "sitecustomize.py"
NO_UVLOOP = "import sys; sys.modules['uvloop'] = None\n"
NO_EPOLL = (
    "import select; del select.epoll\n"
    "from isthmus.net import poller; poller.default_poller = poller.LoopPoller\n"
)

# What is hidden, whether uvloop is loaded, and how many epoll sets there are then: the loop's own,
# which Python makes without `select.epoll` no more and libuv does, and that of the reactor.
KINDS = {
    "all is there": ("", True, 2),
    "no uvloop": (NO_UVLOOP, False, 2),
    "no epoll": (NO_EPOLL, True, 1),
    "neither": (NO_UVLOOP + NO_EPOLL, False, 0),
}


def epolls(pid: int) -> int:
    return sum("eventpoll" in str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir())


def has_uvloop(pid: int) -> bool:
    return "uvloop" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_goes_over_a_route_and_another_comes_back(
    mosquitto, start, tmp_path: Path, kind: str
) -> None:
    hides, with_uvloop, epoll_sets = KINDS[kind]
    (tmp_path / HIDES_FIRST).write_text(hides)
    far, port = await mosquitto(), free_port()
    path = tmp_path / "isthmus.yaml"
    path.write_text(BRIDGE % (port, far.port))
    where = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    process = await start("run", path, env={"PYTHONPATH": where})
    await process.said("connector cloud, connection 1")
    pid = process.process.pid
    assert has_uvloop(pid) is with_uvloop
    assert epolls(pid) == epoll_sets

    here, there = await Raw.client(port, "here"), await Raw.client(far.port, "there")
    await here.subscribe("control/#", qos=1)
    await there.subscribe("sensor/#", qos=1)
    await until(lambda: "control/#" in far.log.read_text())
    assert await here.published("sensor/1", "out", 1) == 0
    assert ((found := await there.message()).topic, found.payload) == ("sensor/1", b"out")
    assert await there.published("control/1", "back", 1) == 0
    assert ((found := await here.message()).topic, found.payload) == ("control/1", b"back")

    ended = await process.end(signal.SIGTERM)
    assert ended.status == 0, ended.errors
    assert "Traceback" not in ended.errors
