"""The ways to a broker: environment, WebSocket, unix socket, proxy, TLS; and `isthmus test`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from commands import isthmus_command

from mosquitto import free_port


@pytest.fixture
async def everywhere(isthmus, certificates, tmp_path: Path):
    """An Isthmus that is reached in every way, and their addresses."""
    tls = {"certificate": str(certificates.server)}
    path = tmp_path / "broker.sock"
    near = await isthmus(
        {
            "listeners": [
                {"bind": "127.0.0.1:0"},
                {"bind": "127.0.0.1:0", "transport": "websocket"},
                {"bind": "127.0.0.1:0", "transport": "websocket", "tls": tls},
                {"bind": f"unix:{path}"},
            ]
        }
    )
    tcp, ws, wss = (listener.address[1] for listener in near.app.listeners[:3])
    return near, {
        "tcp": f"mqtt://127.0.0.1:{tcp}",
        "ws": f"ws://127.0.0.1:{ws}/mqtt",
        "wss": f"wss://localhost:{wss}",
        "unix": f"unix:{path}",
    }


@pytest.mark.parametrize("way", ["tcp", "ws", "wss", "unix"])
async def test_a_message_goes_every_way(everywhere, start, certificates, way: str) -> None:
    _, urls = everywhere
    how = ("--url", urls[way], *(("--cafile", certificates.ca) if way == "wss" else ()))
    sub = await start("sub", "-d", *how, "a", "-C", "1")
    await sub.said("subscribed to")
    done = await isthmus_command("pub", *how, "a", "x" * 100_000, "-q", "1")
    assert (done.status, done.errors) == (0, "")
    assert len((await sub.end()).out) == 100_001
    tried = await isthmus_command("test", urls[way], *how[2:])
    assert (tried.status, tried.text.splitlines()[0]) == (0, "connector available")


async def test_the_environment_names_a_broker_and_no_other_one_gets_its_password(
    mosquitto, far, start
) -> None:
    broker = await mosquitto()
    env = {
        "ISTHMUS_URL": f"mqtt://127.0.0.1:{broker.port}",
        "ISTHMUS_USERNAME": "ann",
        "ISTHMUS_PASSWORD": "CANARY-11",
    }
    assert (await isthmus_command("pub", "a", "b", "-q", "1", env=env)).status == 0
    assert "u'ann'" in broker.log.read_text()
    await start("pub", "-p", str(far.port), "a", "b", env=env)
    _, hello = await far.client()
    assert (hello.username, hello.password) == (None, None)


async def test_a_proxy_that_refuses_and_its_password(far) -> None:
    async def refuse() -> None:
        peer = await far.accept()
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

    refusing = asyncio.ensure_future(refuse())
    url = f"http://u:CANARY-12@127.0.0.1:{far.port}"
    done = await isthmus_command("pub", "a", "b", "-h", "broker.invalid", "--proxy", url)
    await refusing
    assert done.status == 1
    assert "cannot connect: proxy: " in done.errors
    assert "407" in done.errors
    assert "CANARY" not in done.errors


async def test_tls_options(mosquitto, certificates, tmp_path: Path) -> None:
    far = await mosquitto(f"certfile {certificates.elsewhere}", f"keyfile {certificates.elsewhere}")
    how = ("-p", str(far.port), "--cafile", certificates.ca, "a", "b", "-q", "1")
    named, insecure, wrong, old = await asyncio.gather(
        isthmus_command("pub", *how, "--server-name", "elsewhere.test"),
        isthmus_command("pub", *how, "--insecure", "--tls-version", "tlsv1.2", "--alpn", "mqtt"),
        isthmus_command("pub", *how),
        isthmus_command("pub", "-p", str(far.port), "--insecure", "--tls", "a", "b"),
    )
    assert (named.status, insecure.status) == (0, 0), insecure.errors
    assert (wrong.status, old.status) == (1, 1)
    assert "certificate is for another" in wrong.errors
    assert "authority" in old.errors


async def test_each_address_of_a_connector_is_tried(mosquitto, tmp_path: Path) -> None:
    far, other = await mosquitto(), await mosquitto()
    nobody = free_port()
    path = tmp_path / "isthmus.yaml"
    urls = "connectors: {cloud: {url: [%s], client_id: me}}\n"

    def write(*ports: int) -> None:
        path.write_text(urls % ", ".join(f"'127.0.0.1:{port}'" for port in ports))

    write(far.port, other.port)
    both = await isthmus_command("test", "cloud", path)
    assert (both.status, both.errors) == (0, "")
    first, *lines = both.text.splitlines()
    assert first == "connector available"
    assert [line.split(",")[0] for line in lines] == [
        f"  mqtt://127.0.0.1:{port}" for port in (far.port, other.port)
    ]
    write(nobody, other.port)
    one = await isthmus_command("test", "cloud", path)
    assert one.status == 1
    assert one.text.startswith("connector available at 1 of 2 addresses\n  mqtt://127.0.0.1:")
    assert f"isthmus: cloud at mqtt://127.0.0.1:{nobody} failed\n  step:  TCP\n" in one.errors


async def test_steps_that_fail_behind_tcp(mosquitto, far, tmp_path: Path) -> None:
    broker = await mosquitto()

    async def no_websocket() -> None:
        peer = await far.accept()
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    serving = asyncio.ensure_future(no_websocket())
    ws, unix, proxy = await asyncio.gather(
        isthmus_command("test", f"ws://127.0.0.1:{far.port}/mqtt"),
        isthmus_command("test", f"unix:{tmp_path}/none.sock"),
        isthmus_command(
            "test", f"127.0.0.1:{broker.port}", "--proxy", f"socks5://127.0.0.1:{free_port()}"
        ),
    )
    await serving
    for ended, step in ((ws, "WebSocket"), (unix, "unix socket"), (proxy, "proxy")):
        assert (ended.status, ended.out) == (1, b"")
        assert f"  step:  {step}\n" in ended.errors
