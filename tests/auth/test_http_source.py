"""The web service that is asked about logins: its answers, its failures, its slowness."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from isthmus.auth.authenticator import Authenticator
from isthmus.auth.login import Login
from isthmus.auth.principal import Principal
from isthmus.auth.settings import AuthSettings
from isthmus.auth.sources import load_sources
from isthmus.errors import MQTTError
from mosquitto import free_port


class Service:
    """Answers with `answer`, after `go`."""

    def __init__(self) -> None:
        self.questions: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Any = {"result": "allow"}
        self.status = 200
        self.go = threading.Event()
        self.go.set()
        self.busy = self.most = 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    outer.questions.append(json.loads(body))
                    outer.headers.append(dict(self.headers))
                    outer.busy += 1
                    outer.most = max(outer.most, outer.busy)
                outer.go.wait(5)
                with lock:
                    outer.busy -= 1
                data = outer.answer
                data = data if isinstance(data, bytes) else json.dumps(data).encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 200

            def handle_error(self, *_: Any) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/login?broker=1"

    def auth(self, *, allow_anonymous: bool = False, **how: Any) -> Authenticator:
        data = {"http": {"url": self.url, **how}}
        settings = AuthSettings.model_validate(data)
        return Authenticator(load_sources(settings, allow_anonymous=allow_anonymous))


@pytest.fixture
def service() -> Iterator[Service]:
    found = Service()
    yield found
    found.go.set()
    found.server.shutdown()
    found.server.server_close()


ANNA = Login("c", "anna", b"pw", "10.0.0.7")


async def test_what_is_asked_and_remembered(service: Service) -> None:
    auth = service.auth(headers={"Authorization": "Bearer x"})
    assert auth.at_once(ANNA) is None
    verdict = await auth.authenticate(ANNA)
    assert (verdict.allowed, verdict.username) == (True, "anna")
    assert service.questions == [
        {"client_id": "c", "username": "anna", "password": "pw", "address": "10.0.0.7"}
    ]
    assert service.headers[0]["Authorization"] == "Bearer x"
    assert service.headers[0]["Content-Type"] == "application/json"
    again = auth.at_once(ANNA)
    assert again is not None
    assert again.allowed
    for other in (ANNA._replace(password=b"px"), ANNA._replace(client_id="d")):
        assert auth.at_once(other) is None
    await auth.authenticate(ANNA._replace(password=b"\xff"))
    assert service.questions[-1]["password_base64"] == "/w=="
    auth.close()


async def test_no_is_asked_each_time(service: Service) -> None:
    service.answer = {"result": "deny"}
    auth = service.auth()
    for _ in range(2):
        assert not (await auth.authenticate(ANNA)).allowed
    assert len(service.questions) == 2
    auth.close()


async def test_ignore_leaves_it_to_what_comes_after(service: Service) -> None:
    service.answer = {"result": "ignore"}
    auth = service.auth(allow_anonymous=True)
    assert not (await auth.authenticate(ANNA)).allowed
    assert (await auth.authenticate(Login("c", None, None))).allowed
    auth.close()


async def test_rights_and_end_of_a_login(service: Service) -> None:
    end = time.time() + 100
    service.answer = {"result": "allow", "acl": {"pub": ["a/${username}"]}, "expire_at": end}
    auth = service.auth(cache="0s")
    verdict = await auth.authenticate(ANNA)
    assert verdict.expires_at == end
    who = Principal("anna", "c")
    assert verdict.grants is not None
    assert verdict.grants.may_write(who, b"a/anna")
    assert not verdict.grants.may_write(who, b"a/b")
    service.answer = {"result": "allow", "is_superuser": True}
    verdict = await auth.authenticate(ANNA)
    assert verdict.grants is not None
    assert verdict.grants.may_write(who, b"a/b")
    service.answer = {"result": "allow", "expire_at": time.time() - 1}
    assert not (await auth.authenticate(ANNA)).allowed
    auth.close()


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (500, {"result": "allow"}), (302, {"result": "allow"}), (204, b""), (401, b""),
        (200, b""), (200, b"allow"), (200, ["allow"]), (200, {}), (200, {"result": "yes"}),
        (200, {"result": True}), (200, {"result": "allow", "acl": "#"}),
        (200, {"result": "allow", "is_superuser": "no"}),
        (200, {"result": "allow", "expire_at": "never"}),
        (200, b'{"result": "allow", "x": "' + b"x" * 300_000 + b'"}'), (200, b"[" * 100_000),
    ],
)  # fmt: skip
async def test_what_is_no_answer_lets_nobody_in(service: Service, status: int, answer: Any) -> None:
    service.status, service.answer = status, answer
    auth = service.auth()
    with pytest.raises(MQTTError) as caught:
        await auth.authenticate(ANNA)
    assert caught.value.reason == 0x88
    service.status, service.answer = 200, {"result": "allow"}
    assert (await auth.authenticate(ANNA)).allowed
    auth.close()


async def test_no_service_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    settings = AuthSettings.model_validate({"http": {"url": f"http://127.0.0.1:{free_port()}"}})
    auth = Authenticator(load_sources(settings, allow_anonymous=False))
    for _ in range(3):
        with pytest.raises(MQTTError) as caught:
            await auth.authenticate(ANNA)
        assert caught.value.reason == 0x88
    assert caplog.text.count("Connection refused") == 1
    assert "pw" not in caplog.text
    auth.close()


@pytest.mark.alone
async def test_a_slow_service_stops_nobody_else(service: Service) -> None:
    service.go.clear()
    auth = service.auth(concurrency=3)
    asked = [
        asyncio.create_task(auth.authenticate(ANNA._replace(client_id=str(number % 20))))
        for number in range(60)
    ]
    for _ in range(20):
        began = time.monotonic()
        await asyncio.sleep(0.01)
        assert time.monotonic() - began < 0.5
    assert service.busy == 3
    service.go.set()
    assert all(verdict.allowed for verdict in await asyncio.gather(*asked))
    assert service.most == 3
    assert len(service.questions) == 20  # equal questions are one
    auth.close()


@pytest.mark.alone
async def test_a_service_that_drips_is_cut_off() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            writer.close()

    listening = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    settings = AuthSettings.model_validate(
        {"http": {"url": f"http://127.0.0.1:{port}/", "timeout": "200ms"}}
    )
    auth = Authenticator(load_sources(settings, allow_anonymous=False))
    began = time.monotonic()
    with pytest.raises(MQTTError):
        await auth.authenticate(ANNA)
    assert time.monotonic() - began < 1
    auth.close()
    listening.close()


async def test_https_is_verified(certificates: Any) -> None:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)
    found = Service()
    found.server.socket = context.wrap_socket(found.server.socket, server_side=True)
    url = found.url.replace("http:", "https:")
    for ca, allowed in ((certificates.ca, True), (certificates.stranger_ca, False)):
        settings = AuthSettings.model_validate({"http": {"url": url, "tls": {"ca": str(ca)}}})
        auth = Authenticator(load_sources(settings, allow_anonymous=False))
        if allowed:
            assert (await auth.authenticate(ANNA)).allowed
        else:
            with pytest.raises(MQTTError, match="gave no answer"):
                await auth.authenticate(ANNA)
        auth.close()
    assert len(found.questions) == 1
    found.server.shutdown()
    found.server.server_close()


async def test_so_many_logins_wait_and_no_more(service: Service) -> None:
    data = {"http": {"url": service.url, "concurrency": 2}, "waiting_logins": 3}
    settings = AuthSettings.model_validate(data)
    auth = Authenticator(load_sources(settings, allow_anonymous=False))
    service.go.clear()
    logins = [
        asyncio.create_task(auth.authenticate(Login("c", f"user {n}", b"pw", "10.0.0.7")))
        for n in range(9)
    ]
    await asyncio.sleep(0.1)
    refused = [task.exception() for task in logins if task.done()]
    assert [getattr(error, "reason", None) for error in refused] == [0x89] * 4
    service.go.set()
    await asyncio.gather(*logins, return_exceptions=True)
    auth.close()
