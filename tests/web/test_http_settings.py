"""The `http` key: what it may be, what it means where it is absent, and what `check` says."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sys
from pathlib import Path

import pytest
from http_peer import HTTP, Wire, get

from isthmus.app.demo import demonstration
from isthmus.app.explanation import explain
from isthmus.app.mosquitto.loading import load
from isthmus.app.settings import Settings
from isthmus.config.loader import parse_text
from isthmus.errors import ConfigError, ListenError
from isthmus.web.settings import DEFAULT_HTTP_BIND
from mosquitto import free_port
from raw import Raw, until

pytestmark = pytest.mark.alone


def words(http: object) -> str:
    settings = Settings.model_validate({"http": http})
    return " ".join(line for line in explain(settings) if "Metrics" in line)


def test_check_names_the_address() -> None:
    assert words({"bind": "127.0.0.1:9100"}) == (
        "Metrics and health are at http://127.0.0.1:9100, for this machine only, "
        "without a password."
    )
    assert words({"bind": "0.0.0.0:9100", "insecure_public": True}) == (
        "Metrics and health are at http://0.0.0.0:9100, without a password."
    )
    assert "http://127.0.0.1:8080" in " ".join(explain(Settings()))
    assert words(None) == ""


@pytest.mark.parametrize("bind", ["0.0.0.0:8080", "*:8080", "[::]:8080", "192.0.2.1:80", "h:80"])
def test_an_address_that_others_reach_needs_a_word(bind: str) -> None:
    with pytest.raises(ConfigError, match=r"http.bind: .*is open to others.*insecure_public"):
        parse_text(Settings, f"http: {{bind: '{bind}'}}")
    http = parse_text(Settings, f"http: {{bind: '{bind}', insecure_public: true}}").http
    assert http is not None
    assert http.bind == bind


def test_client_certificates_are_enough(certificates) -> None:
    tls = f"{{certificate: {certificates.server}, client_ca: {certificates.ca}"
    text = f"http: {{bind: '0.0.0.0:8443', tls: {tls}"
    with pytest.raises(ConfigError, match="is open to others"):
        parse_text(Settings, f"{text}}}}}")
    settings = parse_text(Settings, f"{text}, require_client_certificate: true}}}}")
    said = " ".join(explain(settings))
    assert f"https://0.0.0.0:8443, showing a certificate signed by {certificates.ca}." in said


@pytest.mark.parametrize(
    ("http", "problem"),
    [
        ("{bind: 8080}", "http.bind: needs an address in front of the port, such as 127.0.0.1:"),
        ("{bind: x}", "http.bind: expected address:port"),
        ("{bind: '127.0.0.1:1883'}", r"http.bind: is the same as listeners\[0\].bind"),
        ("{mode: '0600'}", "http.mode: is only for a bind of unix:/path"),
        ("{connections: 0}", "http.connections: must be at least 1"),
        ("{header_bytes: 10}", "http.header_bytes: must be at least 1KiB"),
        ("{request_timeout: 0s}", "http.request_timeout: must be more than 0"),
        ("{tls: {certificate: nowhere.pem}}", "http.tls.certificate: there is no file"),
        ("{port: 1}", "http.port: unknown key"),
        ("8080", "http: must be a mapping"),
    ],
)
def test_what_is_wrong_is_said(http: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_text(Settings, f"http: {http}")


async def test_an_address_that_was_asked_for_has_to_be_free(isthmus) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match=f"http.bind: {bind}: Address already in use"):
            await isthmus({"http": {"bind": bind}})


async def test_the_default_address_need_not_be_free(tmp_path: Path) -> None:
    """A configuration without the key, on a machine where something else listens on 8080."""
    port = free_port()
    file = tmp_path / "isthmus.yaml"
    file.write_text(f"listeners: [{{bind: '127.0.0.1:{port}'}}]\n")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # it is taken already: as well
            stack.enter_context(socket.create_server(("127.0.0.1", 8080)))
        with (tmp_path / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "isthmus", "run", str(file), stderr=log
            )
        said = (tmp_path / "log").read_text
        await until(lambda: "listening on" in said())
        raw = await Raw.client(port, "a")
        await raw.published("t", "x", 1)
        raw.close()
        process.terminate()
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    warnings = [line for line in said().splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert "no metrics over HTTP: 127.0.0.1:8080 is taken" in warnings[0]
    assert "http: null" in warnings[0]


def test_mosquittos_files_have_no_such_port(tmp_path: Path) -> None:
    file = tmp_path / "mosquitto.conf"
    file.write_text("listener 1884 127.0.0.1\nallow_anonymous true\n")
    assert load(file).settings.http is None
    assert load(None, ports=[1884]).settings.http is None


def test_one_broker_of_the_demonstration_has_it() -> None:
    far, near = demonstration()
    assert far.http is None
    assert near.http is not None
    assert near.http.bind == DEFAULT_HTTP_BIND == "127.0.0.1:8080"


async def test_a_process_serves_it(tmp_path: Path) -> None:
    """`isthmus run`, asked as a user asks, and ended while a connection is open."""
    port, http = free_port(), free_port()
    file = tmp_path / "isthmus.yaml"
    file.write_text(
        f"listeners: [{{bind: '127.0.0.1:{port}'}}]\nhttp: {{bind: '127.0.0.1:{http}'}}\n"
    )
    log = (tmp_path / "log").open("wb")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "isthmus", "run", str(file), stderr=log
    )
    log.close()
    said = (tmp_path / "log").read_text
    await until(lambda: "listening on" in said() and "metrics" in said())
    assert f"metrics and health on http://127.0.0.1:{http}" in said()
    assert (await get(f"http://127.0.0.1:{http}/readyz")).status == 200
    assert b"isthmus_build_info" in (await get(f"http://127.0.0.1:{http}/metrics")).body
    wire = Wire(*await asyncio.open_connection("127.0.0.1", http))
    process.terminate()
    async with asyncio.timeout(10):
        assert await process.wait() == 0
    assert await wire.rest() == b""
    assert "Traceback" not in said()
    assert "uvicorn" not in said()


async def test_the_commands_of_the_page_work(isthmus) -> None:
    near = await isthmus({"http": HTTP})
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    urls = re.findall(r"^curl (\S+)$", page, re.MULTILINE)
    assert len(urls) == 2
    for url in urls:
        assert (await get(url.replace("http://127.0.0.1:8080", near.url))).status == 200


# -- reload ----------------------------------------------------------------------------------------


def port_of_every_address() -> int:
    """A port that is free on this machine's other addresses too."""
    with socket.create_server(("0.0.0.0", 0)) as taken:
        return int(taken.getsockname()[1])


async def reload(near, http: object) -> list[str]:
    new = Settings.model_validate({"http": http}).http
    settings = near.app.settings.model_copy(update={"http": new})
    return (await near.app.reload(settings)).changes


async def test_a_reload_opens_moves_changes_and_closes_it(isthmus) -> None:
    first, second = free_port(), port_of_every_address()
    near = await isthmus()
    raw = await near.client("a")
    assert await reload(near, {"bind": f"127.0.0.1:{first}"}) == [
        f"http: listens on http://127.0.0.1:{first}"
    ]
    assert (await get(f"{near.url}/healthz")).status == 200
    assert await reload(near, {"bind": f"127.0.0.1:{second}"}) == [
        f"http: listens on http://127.0.0.1:{second}",
        f"http: http://127.0.0.1:{first} closed",
    ]
    assert (await get(f"http://127.0.0.1:{second}/healthz")).status == 200
    with pytest.raises(OSError, match="refused"):
        await get(f"http://127.0.0.1:{first}/healthz")
    port = near.app.http
    changed = {"bind": f"127.0.0.1:{second}", "header_bytes": "1KiB", "connections": 1}
    assert await reload(near, changed) == ["http: changed (connections, header_bytes)"]
    assert near.app.http is port
    one = await Wire.open(near)
    one.send(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 2000)
    assert (await one.rest()).startswith(b"HTTP/1.1 400")
    one.close()
    wide = {**changed, "bind": f"0.0.0.0:{second}", "insecure_public": True}
    assert len(await reload(near, wide)) == 2  # the same port, on every address
    assert (await get(f"http://127.0.0.1:{second}/healthz")).status == 200
    assert await reload(near, None) == [f"http: http://0.0.0.0:{second} closed"]
    assert near.app.http is None
    with pytest.raises(OSError, match="refused"):
        await get(f"http://127.0.0.1:{second}/healthz")
    await raw.published("t", "x", 1)  # MQTT heard nothing of it


async def test_a_reload_to_an_address_that_is_taken_changes_nothing(isthmus) -> None:
    near = await isthmus({"http": HTTP})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match=r"http\.bind"):
            await reload(near, {"bind": bind})
    assert (await get(f"{near.url}/healthz")).status == 200


async def test_an_address_that_cannot_be_widened_stays_as_it_was(isthmus) -> None:
    port = port_of_every_address()
    near = await isthmus({"http": {"bind": f"127.0.0.1:{port}"}})
    with (
        socket.create_server(("127.0.0.2", port)),
        pytest.raises(ListenError, match=r"http\.bind: 0\.0\.0\.0"),
    ):
        await reload(near, {"bind": f"0.0.0.0:{port}", "insecure_public": True})
    assert near.app.http.settings.bind == f"127.0.0.1:{port}"
    assert (await get(f"{near.url}/healthz")).status == 200
    assert len(await reload(near, {"bind": f"0.0.0.0:{port}", "insecure_public": True})) == 2
    assert (await get(f"http://127.0.0.2:{port}/healthz")).status == 200
