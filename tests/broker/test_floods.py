"""Strangers in numbers: wrong logins, reconnecting clients, those who speak something else."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from isthmus.auth.passwords import create_entry
from isthmus.auth.scram_file import create_scram_entry, create_secret
from raw import (
    AUTH,
    CONNACK,
    DISCONNECT,
    Raw,
    connect_packet,
    packet,
    properties,
    publish_packet,
    until,
)

pytestmark = pytest.mark.alone


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "isthmus.broker")

    def lines() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    return lines


def slow_users(tmp_path, *names: str, iterations: int = 30_000) -> dict[str, object]:
    """Users whose passwords take a hundredth to a fortieth of a second to check."""
    path = tmp_path / "users"
    entries = [create_entry(name, b"pw", iterations=iterations) for name in names]
    path.write_text("\n".join([*entries, ""]))
    return {"auth": {"password_file": str(path)}}


# -- logins --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_logins_that_were_given_up_do_not_delay_a_good_one(isthmus, tmp_path, end):
    near = await isthmus(slow_users(tmp_path, "anna"))
    for number in range(300):
        raw = await Raw.open(near.port)
        raw.send(connect_packet("x", username="anna", password=str(number)))
        await raw.writer.drain()
        getattr(raw, end)()
    begin = time.monotonic()
    await near.client("good", username="anna", password="pw")
    assert time.monotonic() - begin < 1.5
    await until(lambda: not near.app.broker.unnamed)


async def test_who_sends_all_at_once_and_closes_is_served(isthmus, tmp_path):
    """MQTT-3.1.4-5 allows a client to send more before it has its CONNACK."""
    near = await isthmus(slow_users(tmp_path, "anna", "bert"))
    listening = await near.client("l", username="anna", password="pw")
    await listening.subscribe("t")
    raw = await Raw.open(near.port)
    login = connect_packet("x", username="bert", password="pw")
    raw.send(login, publish_packet("t", "1"), packet(0xE0))
    raw.close()
    assert (await listening.message()).payload == b"1"


@pytest.mark.parametrize(("version", "code"), [(4, 3), (5, 0x89)])
async def test_a_login_that_finds_no_place_is_told_that_the_server_is_busy(
    isthmus, tmp_path, version, code
):
    near = await isthmus(slow_users(tmp_path, "anna"))
    (passwords,) = near.app.broker.access.authenticator._sources.chain
    passwords.checks.queue.maximum = 2
    flood = [await Raw.open(near.port, version) for _ in range(10)]
    for number, raw in enumerate(flood):
        raw.send(connect_packet("x", version, username="anna", password=str(number)))
    codes = [(await raw.expect(CONNACK)).code for raw in flood]
    # Two are checked and two wait; a check may end before the last CONNECT is there.
    assert 1 <= codes.count(code) <= 6
    assert near.app.broker.refusals[0x89] == codes.count(code)


async def test_a_login_that_waits_too_long_is_closed(isthmus, tmp_path, log):
    # So slow that a fast machine, too, checks few of them in the time.
    configuration = slow_users(tmp_path, "anna", iterations=300_000)
    limits = {"limits": {"connect_timeout": "200ms"}}
    near = await isthmus({**configuration, "broker": limits})
    flood = [await Raw.open(near.port) for _ in range(60)]
    for number, raw in enumerate(flood):
        raw.send(connect_packet("x", username="anna", password=str(number)))
    await asyncio.gather(*(raw.closed() for raw in flood))
    assert near.app.broker.refusals[0x8D] > 10
    assert sum("the login took too long" in line for line in log()) == 1


# -- the log -------------------------------------------------------------------------------------


async def test_a_loop_of_take_overs_is_one_line(isthmus, log):
    near = await isthmus()
    for _ in range(50):
        raw = await near.client("same")
    await raw.nothing()
    assert near.app.broker.refusals == {0x8E: 49}
    (line,) = [line for line in log() if "closed" in line]
    assert line.startswith("client 'same' closed: another client connected with this id (0x8E ")


async def test_wrong_logins_are_a_line_per_address_and_counted(isthmus, tmp_path, log):
    path = tmp_path / "users"
    path.write_text(create_entry("anna", b"pw", iterations=101) + "\n")
    near = await isthmus({"auth": {"password_file": str(path)}})
    for _ in range(20):
        raw = await Raw.open(near.port)
        port = raw.writer.get_extra_info("sockname")[1]
        raw.send(connect_packet("x", username="anna", password="no"))
        await raw.closed()
        if _ == 0:
            first = (
                f"client 127.0.0.1:{port} closed: user name or password is wrong (0x86): "
                "user 'anna', client id 'x'"
            )
    assert near.app.broker.refusals == {0x86: 20}
    (line,) = [line for line in log() if "closed" in line]
    assert line == first


async def test_names_of_a_refused_login_are_logged_on_one_line_and_short(isthmus, tmp_path, log):
    path = tmp_path / "users"
    path.write_text(create_entry("anna", b"pw", iterations=101) + "\n")
    near = await isthmus({"auth": {"password_file": str(path)}})
    raw = await Raw.open(near.port)
    raw.send(connect_packet("i" * 100, username="a'b\"\u202e" + "u" * 1000, password="no"))
    await raw.closed()
    (line,) = [line for line in log() if "closed" in line]
    who = line.partition(" (0x86): ")[2]
    assert who == (
        "user 'a\\'b\"\\u202e" + "u" * 59 + f"' and 941 more characters, client id "
        f"'{'i' * 64}' and 36 more characters"
    )


async def test_a_refused_scram_login_is_logged_with_its_user(isthmus, tmp_path, log):
    path = tmp_path / "scram"
    secret, anna = create_secret(), create_scram_entry("anna", "pw", iterations=4096)
    path.write_text(f"{secret}\n{anna}\n")
    near = await isthmus({"auth": {"scram": str(path)}})
    raw = await Raw.open(near.port)
    method = {"auth_method": "SCRAM-SHA-256", "auth_data": b"n,,n=anna,r=abc"}
    raw.send(connect_packet("x", **method))
    await raw.expect(AUTH)
    wrong = {**method, "auth_data": b"c=biws,r=abc,p=AAAA"}
    raw.send(packet(0xF0, b"\x18" + properties(**wrong)))
    assert (await raw.expect(CONNACK)).code == 0x87
    await raw.closed()
    (line,) = [line for line in log() if "closed" in line]
    assert line.endswith("user 'anna', client id 'x'")
    assert "authentication failed (0x87 not authorized): " in line


async def test_addresses_of_ipv6_are_in_brackets(isthmus, log):
    near = await isthmus({"listeners": [{"bind": "[::1]:0"}]})
    reader, writer = await asyncio.open_connection("::1", near.port)
    port = writer.get_extra_info("sockname")[1]
    writer.write(b"\0\0\0\0")
    await reader.read()
    writer.close()
    assert any(f"client [::1]:{port} closed" in line for line in log())


async def test_connections_beyond_the_limit_are_counted_and_logged_once(isthmus, log):
    near = await isthmus({"broker": {"limits": {"connections": 1}}})
    await near.client("only")
    for _ in range(5):
        await (await Raw.open(near.port)).closed()
    assert near.app.broker.refusals == {0x97: 5}
    (line,) = [line for line in log() if "refused" in line]
    assert "too many connections; see broker.limits.connections" in line


async def test_a_client_that_sends_no_connect_is_counted_and_logged(isthmus, log):
    near = await isthmus({"broker": {"limits": {"connect_timeout": "100ms"}}})
    assert await (await Raw.open(near.port)).closed() == b""
    assert near.app.broker.refusals == {0x8D: 1}
    assert any("no CONNECT in time" in line for line in log())


# -- other protocols -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "hint"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "this looks like TLS"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "this looks like HTTP"),
        (b"POST /mqtt HTTP/1.1\r\n\r\n", "this looks like HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "this looks like HTTP"),
    ],
)
async def test_who_does_not_speak_mqtt_gets_a_hint_in_the_log(isthmus, log, first, hint):
    near = await isthmus({"broker": {"limits": {"connect_timeout": "500ms"}}})
    raw = await Raw.open(near.port)
    raw.send(first)
    await raw.closed()
    assert any(hint in line for line in log())


async def test_a_client_that_spoke_mqtt_gets_no_hint(isthmus, log):
    near = await isthmus()
    raw = await near.client("x")
    raw.send(b"\x16\x03\x01\x02")
    await raw.expect(DISCONNECT)
    assert not any("looks like" in line for line in log())


@pytest.mark.parametrize("topic", ["yes", "no"])
async def test_acknowledgements_that_nobody_reads_stay_within_their_limit(isthmus, tmp_path, topic):
    """Those of messages that were refused too, although they say why."""
    (tmp_path / "acl").write_text("topic readwrite yes\n")
    limit = 64 << 10
    near = await isthmus(
        {
            "auth": {"acl_file": str(tmp_path / "acl")},
            "broker": {"limits": {"unsent_bytes": limit}},
        }
    )
    raw = await near.client("flood")
    raw.writer.transport.pause_reading()
    link = near.app.broker.sessions["flood"].client.link
    messages = publish_packet(topic, "", 1, 1) * 8000
    peak = 0
    async with asyncio.timeout(30):
        while not link.paused:
            if raw.writer.transport.get_write_buffer_size() < len(messages):
                raw.writer.write(messages)
            await asyncio.sleep(0)
            peak = max(peak, sum(map(len, link.out)))
    # One read is answered whole before the limit is looked at.
    assert limit / 64 < peak < 5 * limit
