"""PROXY headers of HAProxy, HTTP CONNECT through Tinyproxy, SOCKS5 through MicroSocks."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mosquitto import free_port, listens, program
from raw import OPEN, Raw, connect_packet, until, within
from running import back, bridge, out

Started = Callable[..., Awaitable[Path]]


@pytest_asyncio.fixture
async def started(tmp_path: Path) -> AsyncIterator[Started]:
    """Start a program that listens on a port; where its output goes."""
    running: list[subprocess.Popen[bytes]] = []

    async def start(port: int, name: str, *arguments: object) -> Path:
        path = tmp_path / f"{name}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [program(name), *map(str, arguments)], stdout=log, stderr=log
            )
        running.append(process)
        await until(lambda: listens(port) or process.poll() is not None)
        assert process.poll() is None, path.read_text()
        return path

    yield start
    for process in running:
        process.terminate()
        process.wait()


# -- in front of a listener ------------------------------------------------------------------------

HAPROXY = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen front
    bind 127.0.0.1:{port}
    bind [::1]:{port}
    server isthmus 127.0.0.1:{near} {options} check inter 100ms
"""


@pytest.mark.parametrize(
    ("taken", "options"),
    [
        ("v1", "send-proxy"),
        ("v2", "send-proxy-v2"),
        (True, "send-proxy"),
        (True, "send-proxy-v2 proxy-v2-options crc32c,unique-id"),
    ],
)
async def test_haproxy_says_who_the_client_is(
    isthmus: Any, started: Started, tmp_path: Path, taken: object, options: str
) -> None:
    near = await isthmus(
        {
            "listeners": [{"bind": "127.0.0.1:0", "proxy_protocol": taken}],
            "auth": {"allow_anonymous": True, "insecure_public_anonymous": True},
        }
    )
    port = free_port()
    file = tmp_path / "haproxy.cfg"
    file.write_text(HAPROXY.format(port=port, near=near.port, options=options))
    await started(port, "haproxy", "-db", "-f", file)
    listener = near.app.listeners[0]
    # Health checks of HAProxy have a header too, one that names nobody.
    await until(lambda: listener.statistics().accepted >= 3)
    for host, own in (("127.0.0.1", "127.0.0.5"), ("127.0.0.1", "127.0.0.6"), ("::1", "::1")):
        raw = Raw(*await within(asyncio.open_connection(host, port, local_addr=(own, 0))), 5)
        OPEN.append(raw)
        raw.send(connect_packet(own.replace(":", "-")))
        await raw.packet()
        session = near.app.broker.sessions[own.replace(":", "-")]
        mine = raw.writer.get_extra_info("sockname")[:2]
        assert session.client.link.peername[:2] == mine
        assert mine[0] == own
        await raw.subscribe("t")
        raw.publish("t", b"x" * 100_000)
        assert (await raw.message()).payload == b"x" * 100_000
    assert listener.statistics().handshakes_failed == 0


async def test_haproxy_without_a_header_is_closed(
    isthmus: Any, started: Started, tmp_path: Path
) -> None:
    near = await isthmus(
        {
            "listeners": [{"bind": "127.0.0.1:0", "proxy_protocol": True}],
            "auth": {"allow_anonymous": True, "insecure_public_anonymous": True},
        }
    )
    port = free_port()
    file = tmp_path / "haproxy.cfg"
    text = HAPROXY.format(port=port, near=near.port, options="").replace("check inter 100ms", "")
    file.write_text(text)
    await started(port, "haproxy", "-db", "-f", file)
    raw = await Raw.open(port)
    raw.send(connect_packet("x"))
    assert await raw.closed() == b""
    assert "x" not in near.app.broker.sessions


# -- between a connector and its far side ----------------------------------------------------------


async def through_tinyproxy(started: Started, folder: Path, port: int, user: str) -> Path:
    login = f"BasicAuth {user.replace(':', ' ')}\n" if user else ""
    (folder / "tinyproxy.conf").write_text(
        f"Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nLogLevel Connect\n{login}"
    )
    return await started(port, "tinyproxy", "-d", "-c", folder / "tinyproxy.conf")


async def through_microsocks(started: Started, folder: Path, port: int, user: str) -> Path:
    del folder
    name, _, password = user.partition(":")
    login = ("-u", name, "-P", password) if user else ()
    return await started(port, "microsocks", "-i", "127.0.0.1", "-p", port, *login)


KINDS = {"http": through_tinyproxy, "socks5": through_microsocks}


@pytest.mark.parametrize("scheme", KINDS)
@pytest.mark.parametrize("user", ["", "ann:secret"])
@pytest.mark.parametrize("secure", [False, True])
async def test_a_far_mosquitto_through_a_proxy(
    isthmus: Any,
    mosquitto: Any,
    started: Started,
    certificates: Any,
    tmp_path: Path,
    scheme: str,
    user: str,
    secure: bool,
) -> None:
    pem = certificates
    tls = [f"certfile {pem.server}", f"keyfile {pem.server}"] if secure else []
    far = await mosquitto(*tls)
    port = free_port()
    log = await KINDS[scheme](started, tmp_path, port, user)
    login = f"{user}@" if user else ""
    near = await isthmus(
        bridge(
            far.port,
            routes={"out": out("o/#"), "in": back("i/#")},
            # The name is looked up by the proxy, and is in the certificate.
            url=f"{'mqtts' if secure else 'mqtt'}://localhost:{far.port}",
            proxy=f"{scheme}://{login}127.0.0.1:{port}",
            **({"tls": {"ca": str(pem.ca)}} if secure else {}),
        )
    )
    await near.connected()
    assert f"localhost:{far.port}" in log.read_text()
    context = ssl.create_default_context(cafile=str(pem.ca)) if secure else None
    there = await Raw.client(far.port, "there", tls=context)
    here = await near.client("here")
    await there.subscribe("o/#", qos=1)
    await here.subscribe("i/#", qos=1)
    for number in range(20):
        await here.published(f"o/{number}", b"x" * 20_000, 1)
        assert (await there.message()).topic == f"o/{number}"
    await there.published("i/1", b"y" * 100_000, 1)
    assert (await here.message()).payload == b"y" * 100_000


@pytest.mark.parametrize("scheme", KINDS)
@pytest.mark.parametrize("user", ["", "ann:CANARY"])
async def test_a_proxy_that_wants_another_password(
    isthmus: Any,
    mosquitto: Any,
    started: Started,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    scheme: str,
    user: str,
) -> None:
    far = await mosquitto()
    port = free_port()
    await KINDS[scheme](started, tmp_path, port, "ann:secret")
    login = f"{user}@" if user else ""
    near = await isthmus(
        bridge(far.port, routes={"out": out()}, proxy=f"{scheme}://{login}127.0.0.1:{port}")
    )
    await until(lambda: near.status()["reason"])
    assert near.status()["reason"].startswith("proxy: ")
    assert "user name and password in 'proxy'" in caplog.text
    assert "CANARY" not in caplog.text
