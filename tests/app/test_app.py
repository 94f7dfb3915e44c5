"""The application as a whole: it starts completely or not at all, and it ends cleanly."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys

import pytest

from isthmus.errors import ConfigError
from mosquitto import free_port, listens
from raw import PUBACK, PUBLISH, Raw, ack_packet, until
from running import Isthmus, back, bridge, out


async def test_a_listener_that_cannot_be_opened_leaves_nothing_open(isthmus):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port, other = taken.getsockname()[1], free_port()
        with pytest.raises(ConfigError, match=str(port)):
            await isthmus(
                {"listeners": [{"bind": f"127.0.0.1:{other}"}, {"bind": f"127.0.0.1:{port}"}]}
            )
    assert not listens(other)


async def test_a_data_folder_that_is_a_file(isthmus, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises((ConfigError, ValueError), match=r"no folder|cannot be used"):
        await isthmus({"broker": {"data": str(file)}})


async def test_the_data_folder_is_for_its_owner_only(isthmus, tmp_path):
    folder = tmp_path / "a" / "data"
    await isthmus({"broker": {"data": str(folder)}} | bridge(1, routes={"o": out()}))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    file = folder / "client-ids.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(json.loads(file.read_text())["cloud"]) == 8


@pytest.mark.parametrize("text", ["{broken", "[]", '{"cloud": "123"}', '{"cloud": "site/#:1"}'])
async def test_client_ids_that_cannot_be_read_stop_the_start(isthmus, tmp_path, text):
    (tmp_path / "client-ids.json").write_text(text)
    with pytest.raises(ConfigError, match=r"client-ids\.json"):
        await isthmus({"broker": {"data": str(tmp_path)}} | bridge(1, routes={"o": out()}))


async def test_several_listeners_are_one_broker(isthmus, certificates):
    import ssl

    tls = {"certificate": str(certificates.server), "key": str(certificates.server)}
    near = await isthmus({
        "listeners": [{"bind": "127.0.0.1:0"}, {"bind": "[::1]:0"}, {"bind": "localhost:0"},
                      {"bind": "127.0.0.1:0", "tls": tls}],
    })  # fmt: skip
    context = ssl.create_default_context(cafile=str(certificates.ca))
    plain = await Raw.client(near.ports[0], "plain")
    secure = await Raw.client(near.ports[3], "secure", tls=context)
    await plain.subscribe("t")
    secure.publish("t", "x")
    assert (await plain.message()).payload == b"x"


async def test_a_stop_waits_for_what_is_on_its_way(isthmus, far):
    near = await isthmus(bridge(far.port, routes={"o": out("o")}))
    there, _ = await far.client()
    raw = await near.client("x")
    raw.publish("o", "x", 1)
    got = await there.expect(PUBLISH)
    stopping = asyncio.create_task(near.app.stop())
    await until(lambda: near.app.broker.sessions["x"].client.link.paused)
    raw.publish("o", "late", 1)  # is not read any more
    there.send(ack_packet(4, got.packet_id))
    assert (await raw.expect(4)).packet_id == 1
    await stopping
    assert near.cloud.state == "stopped"


async def test_a_stop_says_what_was_dropped(isthmus, caplog):
    near = await isthmus(bridge(free_port(), routes={"out": out("out/#")}))
    client = await near.client("here")
    client.publish("out/1", "lost", 0)
    await until(lambda: near.app.connectors["cloud"].drops.counts)
    with caplog.at_level("INFO"):
        await near.app.stop()
    assert "connector cloud: dropped since the start: link_down 1" in caplog.text


async def test_a_stop_says_what_became_dead_letters(isthmus, tmp_path, far, caplog):
    configuration = bridge(far.port, routes={"out": out("out/#")})
    near = await isthmus({**configuration, "broker": {"data": str(tmp_path / "data")}})
    there, _ = await far.client()
    client = await near.client("here", 4)
    for _ in range(3):
        client.publish("out/1", "x", 1)
        got = await there.expect(PUBLISH)
        there.send(ack_packet(PUBACK, got.packet_id, 0x87))
        await client.expect(PUBACK)
    caplog.clear()
    with caplog.at_level("INFO"):
        await near.app.stop()
    text = (
        "connector cloud: put aside as dead letters since the start: refused_0x87 3; 3 are on disk"
    )
    assert text in caplog.text


async def test_a_stop_does_not_wait_for_a_far_side_that_is_down(isthmus):
    near = await isthmus(bridge(free_port(), routes={"o": out("o")}))
    raw = await near.client("x")
    raw.publish("o", "x", 1)
    await raw.nothing()
    async with asyncio.timeout(1):
        await near.app.stop()


async def test_the_demonstration_goes_elsewhere_where_a_port_is_taken():
    from isthmus.app.demo import elsewhere, free_address

    free = f"127.0.0.1:{free_port()}"
    assert free_address(free) == free
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = f"127.0.0.1:{taken.getsockname()[1]}"
        other = free_address(wanted)
        assert other != wanted
        assert other.startswith("127.0.0.1:")
    assert elsewhere(free, free) == ""
    assert elsewhere(wanted, other) == f"{wanted} is taken, so it is {other} here.\n"


async def test_the_demonstration_carries_messages_both_ways(isthmus):
    from isthmus.app.demo import demonstration

    settings = demonstration(*(f"127.0.0.1:{free_port()}" for _ in range(3)))
    far_side, near_side = [await Isthmus.start(one) for one in settings]
    await near_side.connected()
    here, there = await near_side.client("here"), await far_side.client("there")
    await there.subscribe("site-7/sensor/#", qos=1)
    await here.subscribe("control/#", qos=1)
    await here.published("sensor/1/temperature", "37.5", 1)
    assert (await there.message()).topic == "site-7/sensor/1/temperature"
    await there.published("control/valve/1", "open", 1)
    assert (await here.message()).payload == b"open"
    await near_side.app.stop()
    await far_side.app.stop()


async def test_two_isthmuses_bridged_both_ways_do_not_echo(isthmus):
    """Isthmus understands the bridge bit and no local as it uses them."""
    for version in ("3.1", "3.1.1", "5"):
        far = await isthmus()
        near = await isthmus(
            bridge(far.port, routes={"o": out("b/#"), "i": back("b/#")}, version=version)
        )
        await near.connected()
        here, there = await near.client("here"), await far.client("there")
        await here.subscribe("b/#", qos=1)
        await there.subscribe("b/#", qos=1)
        for publisher, other in ((here, there), (there, here)):
            publisher.publish("b/x", "1", 1, packet_id=77)
            assert (await other.message()).payload == b"1"
            kinds = {(await publisher.packet()).kind for _ in range(2)}
            assert kinds == {3, 4}
        await here.published("elsewhere", "", 1)
        assert await here.arrived() == []
        assert await there.arrived() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_end_the_process_with_0(tmp_path, number):
    port = free_port()
    file = tmp_path / "isthmus.yaml"
    file.write_text(f"listeners: [{{bind: '127.0.0.1:{port}'}}]\nhttp: null\n")
    process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [sys.executable, "-m", "isthmus", "run", str(file)], stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )  # fmt: skip
    await until(lambda: listens(port))
    raw = await Raw.client(port, "x")
    process.send_signal(number)
    assert (await raw.packet()).code == 0x8B
    raw.close()
    _, errors = await asyncio.to_thread(process.communicate, timeout=10)
    assert process.returncode == 0, errors
    assert b"Traceback" not in errors
