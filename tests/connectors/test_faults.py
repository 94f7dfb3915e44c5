"""Faults that heal: what a connector says while they last, and that it needs no help afterwards."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

from isthmus import clock
from raw import Raw, until
from running import bridge, out

DAY_S = 86_400.0
OUT = {"out": out("out/#")}


class Certificate:
    """A file with a certificate and its key, which is made anew in place."""

    def __init__(self, authority: trustme.CA, path: Path, *names: str) -> None:
        self._authority = authority
        self._names = names
        self.path = path

    def write(self, *, expired: bool = False) -> None:
        days = dt.timedelta(days=1)
        end = dt.datetime.now(dt.UTC) + (-days if expired else days)
        made = self._authority.issue_cert(*self._names, common_name="edge", not_after=end)
        fresh = self.path.with_suffix(".new")
        made.private_key_and_cert_chain_pem.write_to_path(str(fresh))
        fresh.replace(self.path)


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    found = trustme.CA()
    found.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return found


async def published(near: Any) -> asyncio.Task[int]:
    """A message that waits for its acknowledgement."""
    here = await near.client("here")
    return asyncio.create_task(here.published("out/x", "kept", 1))


async def test_an_expired_certificate_of_the_far_side_is_renewed_there(
    isthmus: Any, mosquitto: Any, authority: trustme.CA, tmp_path: Path
) -> None:
    server = Certificate(authority, tmp_path / "server.pem", "localhost")
    server.write(expired=True)
    far = await mosquitto(f"certfile {server.path}", f"keyfile {server.path}")
    data = bridge(0, routes=OUT, url=f"mqtts://localhost:{far.port}")
    data["connectors"]["cloud"]["tls"] = {"ca": str(tmp_path / "ca.pem")}
    near = await isthmus(data)
    waiting = await published(near)
    await until(lambda: near.status()["state"] == "waiting")
    assert "certificate has expired" in near.status()["reason"]
    assert near.cloud.figures.read()["last_error"] == near.status()["reason"]
    server.write()
    far.process.send_signal(signal.SIGHUP)
    await near.connected()
    assert await waiting == 0


async def test_an_expired_certificate_of_ours_is_renewed_here(
    isthmus: Any, mosquitto: Any, authority: trustme.CA, tmp_path: Path
) -> None:
    server = Certificate(authority, tmp_path / "server.pem", "localhost")
    ours = Certificate(authority, tmp_path / "ours.pem", "edge")
    server.write()
    ours.write(expired=True)
    far = await mosquitto(
        f"certfile {server.path}",
        f"keyfile {server.path}",
        f"cafile {tmp_path / 'ca.pem'}",
        "require_certificate true",
    )
    data = bridge(0, routes=OUT, url=f"mqtts://localhost:{far.port}")
    tls = {"ca": str(tmp_path / "ca.pem"), "certificate": str(ours.path), "key": str(ours.path)}
    data["connectors"]["cloud"]["tls"] = tls
    near = await isthmus(data)
    waiting = await published(near)
    await until(lambda: near.status()["state"] == "waiting")
    assert "our certificate has expired" in near.status()["reason"]
    ours.write()
    await near.connected()
    assert await waiting == 0


async def test_a_name_service_that_fails_while_the_link_is_down_heals(
    isthmus: Any, mosquitto: Any, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = await mosquitto()
    network = await proxy(far.port)
    real, works = socket.getaddrinfo, True

    def getaddrinfo(host: Any, *args: Any, **how: Any) -> Any:
        if host not in ("far.example", b"far.example"):
            return real(host, *args, **how)
        if not works:
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        return real("127.0.0.1", *args, **how)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    near = await isthmus(bridge(0, routes=OUT, url=f"far.example:{network.port}"))
    await near.connected()
    works = False
    network.reset()
    await until(lambda: near.status()["reason"].startswith("name: far.example: "))
    assert "Temporary failure in name resolution" in near.status()["reason"]
    waiting = await published(near)
    # Nobody else waits for the look-up.
    here = await near.client("another")
    assert await here.published("elsewhere", "p", 1) in (0, 0x10)
    works = True
    await near.connected()
    assert await waiting in (0, 0x10)


async def test_a_link_that_is_gone_in_one_direction_only_is_found(
    isthmus: Any, mosquitto: Any, proxy: Any
) -> None:
    """What we send arrives nowhere, and nothing says so: the far machine has lost its power."""
    far = await mosquitto()
    network = await proxy(far.port)
    near = await isthmus(bridge(network.port, routes=OUT, keepalive="60s", ack_timeout="1s"))
    await near.connected()
    network.silent = True
    waiting = await published(near)
    await until(lambda: near.status()["state"] == "waiting")
    assert "did not acknowledge the oldest message for 1 s" in near.status()["reason"]
    network.silent = False
    network.reset()
    await near.connected()
    assert await waiting in (0, 0x10)


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
async def test_a_clock_that_is_set_ends_nothing(
    isthmus: Any, mosquitto: Any, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """Connections, sessions, messages with an expiry, retained ones, and waits for the next try."""
    far = await mosquitto()
    near = await isthmus(bridge(far.port, routes=OUT, keepalive="1s"))
    await near.connected()
    there = await Raw.client(far.port, "there")
    await there.subscribe("out/#", qos=1)
    away = await near.client("away", session_expiry=600)
    await away.subscribe("in/#", qos=1)
    away.close()
    await until(lambda: near.app.broker.connected == 0)
    here = await near.client("here", keep_alive=1)
    await here.published("in/x", "waits", 1, expiry=600)
    await here.published("kept", "retained", 1, retain=True, expiry=600)
    monkeypatch.setattr(clock, "wall", lambda: time.time() + jump_s)
    end = time.monotonic() + 2.5  # more than twice the keep alive, of both sides
    while time.monotonic() < end:
        assert await here.published("out/x", "p", 1) in (0, 0x10)
        await there.message()
        await asyncio.sleep(0.3)
    assert near.status()["connects"] == 1
    away = await near.client("away", clean=False, session_expiry=600)
    found = await away.message()
    assert (found.payload, found.properties["expiry"] > 590) == (b"waits", True)
    await away.subscribe("kept")
    found = await away.message()
    assert (found.payload, found.properties["expiry"] > 590) == (b"retained", True)
    far.kill()
    await until(lambda: near.status()["state"] == "waiting")
    await far.start()
    await near.connected()
    assert near.status()["connects"] == 2
