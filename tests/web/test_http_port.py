"""The HTTP port on the wire: pages, and peers that send too slowly, too much, or rubbish."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import sys

import pytest
from http_peer import HTTP, Wire, get, metrics

from raw import until

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.both_loops
async def test_the_pages_answer_get_and_head(isthmus) -> None:
    near = await isthmus({"http": HTTP})
    for path, kind in (
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/healthz", "text/plain; charset=utf-8"),
        ("/readyz", "application/json"),
    ):
        page = await get(near.url + path)
        assert (page.status, page.headers["content-type"]) == (200, kind)
        assert int(page.headers["content-length"]) == len(page.body) > 0
        assert "server" not in page.headers
        head = await get(near.url + path, "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["content-length"]) > 0


async def test_other_pages_and_methods_are_refused(isthmus) -> None:
    near = await isthmus({"http": HTTP})
    for path in ("/", "/metrics/", "/../etc/passwd", "/healthz%00", "/%ff"):
        page = await get(near.url + path)
        assert page.status == 404
        assert b"/metrics, /healthz, /readyz" in page.body
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "BREW"):
        page = await get(f"{near.url}/metrics", method, b"x" * 100_000)
        assert (page.status, page.headers["allow"]) == (405, "GET, HEAD")
    assert (await get(f"{near.url}/healthz?x=1")).status == 200


async def test_a_connection_is_used_again_and_requests_may_come_together(isthmus) -> None:
    near = await isthmus({"http": HTTP})
    wire = await Wire.open(near)
    for _ in range(3):
        wire.send(GET)
        assert await wire.answer() == (200, b"ok\n")
    wire.send(3 * GET + GET.replace(b"/healthz", b"/nowhere") + GET[:20])
    found = [(await wire.answer())[0] for _ in range(4)]
    assert found == [200, 200, 200, 404]
    wire.send(GET[20:])
    assert await wire.answer() == (200, b"ok\n")
    wire.close()


@pytest.mark.both_loops
async def test_an_idle_connection_ends(isthmus) -> None:
    near = await isthmus({"http": {**HTTP, "keep_alive": "1s"}})
    wire = await Wire.open(near)
    wire.send(GET)
    assert (await wire.answer())[0] == 200
    assert await wire.rest() == b""
    assert near.app.http.counts.slow == 0


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n", GET[:-1]])
async def test_a_slow_request_ends_its_connection(isthmus, sent: bytes) -> None:
    near = await isthmus({"http": {**HTTP, "request_timeout": "300ms"}})
    wire = await Wire.open(near)
    wire.send(sent)
    for _ in range(10):  # a byte now and then keeps nothing open
        await asyncio.sleep(0.05)
        if wire.writer.is_closing():
            break
        wire.send(b"" if not sent else b"\r" if sent == GET[:-1] else b"x")
    assert b"200" not in await wire.rest()
    await until(lambda: near.app.http.counts.open == 0)
    counts = near.app.http.counts
    assert counts.slow + counts.malformed == 1


async def test_a_slow_request_on_a_kept_connection_ends_it(isthmus) -> None:
    near = await isthmus({"http": {**HTTP, "request_timeout": "300ms"}})
    wire = await Wire.open(near)
    wire.send(GET)
    await wire.answer()
    wire.send(GET[:10])
    assert await wire.rest() == b""
    assert near.app.http.counts.slow == 1


async def test_a_header_that_is_too_long_is_refused(isthmus, caplog) -> None:
    near = await isthmus({"http": {**HTTP, "header_bytes": "2KiB"}})
    wire = await Wire.open(near)
    wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 10_000)
    answer = await wire.rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Traceback" not in answer
    assert near.app.http.counts.malformed == 1
    assert caplog.text.count("\n") < 10


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x10\x0c\x00\x04MQTT\x05\x00\x00\x00\x00\x00\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: \x00\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(range(256)) * 100,
    ],
)
async def test_what_is_no_http_is_closed_without_a_word_too_many(isthmus, caplog, rubbish) -> None:
    near = await isthmus({"http": HTTP})
    wire = await Wire.open(near)
    wire.send(rubbish)
    answer = await wire.rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Traceback" not in answer + caplog.text.encode()
    assert "failed" not in caplog.text
    assert (await get(f"{near.url}/healthz")).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 1000000000\r\n\r\n" + b"x" * 100_000,
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
        b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
    ],
)
async def test_a_body_or_an_upgrade_is_not_taken(isthmus, caplog, body: bytes) -> None:
    near = await isthmus({"http": HTTP})
    for later in (0.0, 0.05):
        wire = await Wire.open(near)
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + body[:40])
        await asyncio.sleep(later)
        wire.send(body[40:])
        assert b"Traceback" not in await wire.rest()
    assert "Traceback" not in caplog.text
    assert "failed" not in caplog.text
    await until(lambda: near.app.http.counts.open == 0)
    assert (await get(f"{near.url}/healthz")).status == 200


async def test_more_connections_than_allowed_are_closed(isthmus) -> None:
    near = await isthmus({"http": {**HTTP, "connections": 20}})
    wires = [await Wire.open(near) for _ in range(60)]
    await until(lambda: near.app.http.counts.crowded == 40)
    raw = await near.client("a")  # MQTT is not disturbed
    await raw.published("t", "x", 1)
    for wire in wires:
        wire.send(GET)
    answered = 0
    for wire in wires:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            answered += (await wire.answer())[0] == 200
        wire.close()
    assert answered == 20
    await until(lambda: near.app.http.counts.open == 0)
    found = await metrics(near)
    assert found["isthmus_http_closed_total", "crowded"] == 40


async def test_a_peer_that_does_not_read_holds_no_memory(isthmus) -> None:
    near = await isthmus({"http": {**HTTP, "request_timeout": "500ms"}})
    wire = await Wire.open(near, limit=1024)
    wire.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    request = GET.replace(b"/healthz", b"/metrics")
    for _ in range(5000):
        wire.send(request)
    await until(lambda: near.app.http.counts.slow == 1)
    sent = sum(near.app.http.counts.answers.values())
    assert sent < 5000
    await until(lambda: near.app.http.counts.open == 0)
    wire.close()


@pytest.mark.both_loops
async def test_a_fault_of_ours_is_in_the_log_and_not_in_the_answer(
    isthmus, monkeypatch, caplog
) -> None:
    near = await isthmus({"http": HTTP})
    await get(f"{near.url}/healthz")

    def fail(*_: object) -> None:
        raise RuntimeError("secret of the house")

    monkeypatch.setattr("isthmus.web.pages.readiness", fail)
    page = await get(f"{near.url}/readyz")
    assert page.status == 500
    assert b"secret" not in page.body
    assert b"Traceback" not in page.body
    assert "secret of the house" in caplog.text
    assert (await get(f"{near.url}/healthz")).body == b"ok\n"


@pytest.mark.both_loops
async def test_https_with_client_certificates(isthmus, certificates) -> None:
    tls = {
        "certificate": str(certificates.server),
        "client_ca": str(certificates.ca),
        "require_client_certificate": True,
    }
    near = await isthmus({"http": {**HTTP, "tls": tls}})
    assert near.url.startswith("https://127.0.0.1:")
    stranger = ssl.create_default_context(cafile=str(certificates.ca))
    known = ssl.create_default_context(cafile=str(certificates.ca))
    known.load_cert_chain(str(certificates.client))
    assert (await get(f"{near.url}/healthz", tls=known)).status == 200
    assert b"isthmus_build_info" in (await get(f"{near.url}/metrics", tls=known)).body
    with pytest.raises(OSError, match=r"certificate required|reset|closed|EOF"):
        await get(f"{near.url}/healthz", tls=stranger)
    plain = await Wire.open(near)
    plain.send(GET)
    assert b"200" not in await plain.rest()


async def test_a_unix_socket(isthmus, tmp_path) -> None:
    path = tmp_path / "http.sock"
    near = await isthmus({"http": {"bind": f"unix:{path}", "mode": "0600"}})
    assert path.stat().st_mode & 0o777 == 0o600
    wire = Wire(*await asyncio.open_unix_connection(str(path)))
    wire.send(GET)
    assert await wire.answer() == (200, b"ok\n")
    wire.close()
    await near.app.stop()
    assert not path.exists()


async def test_answers_that_are_under_way_leave_before_the_end(isthmus) -> None:
    near = await isthmus({"http": HTTP})
    idle, busy = await Wire.open(near), await Wire.open(near)
    for wire in (idle, busy):
        wire.send(GET)
        await wire.answer()
    busy.send(GET)
    await asyncio.sleep(0.05)
    await near.app.stop()
    assert await busy.answer() == (200, b"ok\n")
    assert (await busy.rest(), await idle.rest()) == (b"", b"")


async def test_what_is_heavy_is_loaded_for_the_first_connection_only(tmp_path) -> None:
    """In a process of its own, as this one has loaded everything."""
    program = """
import asyncio, sys
from isthmus.app.app import App
from isthmus.app.settings import Settings
async def main():
    data = {"listeners": [], "http": {"bind": "127.0.0.1:0"}}
    app = App(Settings.model_validate(data))
    await app.start()
    heavy = {"uvicorn", "h11", "prometheus_client"}
    print(heavy & set(sys.modules))
    reader, writer = await asyncio.open_connection(*app.http.address)
    writer.write(b"GET /healthz HTTP/1.0\\r\\n\\r\\n")
    print((await reader.read()).split()[1])
    print(heavy <= set(sys.modules))
    writer.close()
    await app.stop()
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=-1, stderr=-1, cwd=tmp_path
    )
    async with asyncio.timeout(20):
        printed, errors = await process.communicate()
    assert printed.decode().split("\n")[:3] == ["set()", "b'200'", "True"], errors.decode()


async def test_readiness_is_json_that_says_what_is_missing(isthmus, far) -> None:
    near = await isthmus(
        {
            "http": HTTP,
            "connectors": {"cloud": {"url": f"127.0.0.1:{far.port}", "pool": 2}},
        }
    )
    page = await get(f"{near.url}/readyz")
    found = json.loads(page.body)
    where = f"127.0.0.1:{near.port}"
    assert (page.status, found["ready"], found["not_ready"]) == (200, True, [])
    assert (found["listeners"], found["store"]) == ({where: True}, None)
    # Nobody has answered CONNECT: that is no reason to be away.
    assert found["connectors"]["cloud"] == {"state": "connecting", "connections": 0, "wanted": 2}
    near.app.listeners[0].suspend()
    page = await get(f"{near.url}/readyz")
    found = json.loads(page.body)
    assert (page.status, found["ready"]) == (503, False)
    assert found["not_ready"] == [f"listener {where} accepts no connections"]
    assert (await get(f"{near.url}/healthz")).status == 200
    near.app.listeners[0].resume()
    assert (await get(f"{near.url}/readyz")).status == 200
