"""Listener options of `mosquitto.conf` on the wire, with Debian's Mosquitto 2.0.11 beside us.

What both do is asked of both. 2.0.11 does not take the mount point off what it delivers, nor put it
into shared filters and UNSUBSCRIBE: later versions do the first, and we do all three.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mosquitto import free_port, listens, program
from raw import CONNACK, DISCONNECT, Raw, connect_packet, until

CONF = """\
sys_interval 1
acl_file {folder}/acl

listener {mounted} 127.0.0.1
allow_anonymous true
mount_point m/
max_qos 1
max_connections 2
{more}
listener {open} 127.0.0.1
max_connections 0
"""

ACL = "topic readwrite m/ok/#\ntopic readwrite own/#\ntopic read $SYS/#\ntopic read m/$SYS/#\n"


@contextlib.asynccontextmanager
async def running(broker: str, folder: Path, more: str = "") -> AsyncIterator[tuple[int, int]]:
    """The ports of the open and the mounted listener of either broker."""
    ports = free_port(), free_port()
    (folder / "acl").write_text(ACL)
    (folder / "acl").chmod(0o600)
    path = folder / "mosquitto.conf"
    path.write_text(CONF.format(folder=folder, open=ports[0], mounted=ports[1], more=more))
    ours = [sys.executable, "-m", "isthmus", "run"]
    theirs = [program("mosquitto"), "-c"]
    if broker == "mosquitto":
        path.write_text("user root\n" + path.read_text())
    process = await asyncio.create_subprocess_exec(
        *(ours if broker == "isthmus" else theirs), str(path), stderr=subprocess.DEVNULL
    )
    try:
        # Only the last one is tried: after a connection without CONNECT 2.0.11 lets one more in.
        await until(lambda: listens(ports[0]) or process.returncode is not None, 15)
        assert process.returncode is None
        yield ports
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("broker", ["isthmus", "mosquitto"])
async def test_what_both_brokers_do_with_listener_options(broker: str, tmp_path: Path) -> None:
    async with running(broker, tmp_path) as (plain_port, port):
        plain = await Raw.client(plain_port, "plain")
        await plain.subscribe("m/ok/#", "own/#", qos=2)
        # The access list speaks of mounted topics, for messages and wills.
        inside = await Raw.client(port, "inside", will=("ok/gone", "", 0, False))
        assert inside.hello.properties["maximum_qos"] == 1
        assert await inside.published("ok/1", "1", 1, response_topic="reply") == 0
        assert await inside.published("own/1", "1", 1) == 0x87
        assert await inside.published("ok/kept", "1", 1, retain=True) == 0
        for topic in ("m/ok/1", "m/ok/kept"):
            found = await plain.message()
            assert found.topic == topic
        assert await inside.subscribe("ok/2", "$SYS/#", qos=2) == [1, 1]
        system = await Raw.client(plain_port, "system")
        assert await system.published("m/ok/2", "2", 2) == 0
        assert (await inside.message()).qos == 1
        # $SYS is not below the mount point.
        await system.subscribe("$SYS/broker/uptime")
        await system.message()
        await asyncio.sleep(1.2)
        await inside.nothing()
        # No third connection; the other listener has no limit with 0.
        await Raw.client(port, "second")
        third = await Raw.open(port)
        third.send(connect_packet("third"))
        assert (await third.closed())[:1] in ((b" ",) if broker == "isthmus" else (b"",))
        # A message above the maximum QoS ends the connection, and that publishes the will.
        await plain.arrived()
        inside.publish("ok/3", "3", 2)
        assert (await inside.expect(DISCONNECT)).code == 0x9B
        assert (await plain.message()).topic == "m/ok/gone"
        refused = await Raw.open(port)
        refused.send(connect_packet("w", will=("ok/w", "", 2, False)))
        assert (await refused.expect(CONNACK)).code == 0x9B


async def test_mount_points_are_taken_off_again(tmp_path: Path) -> None:
    """As Mosquitto does since 2.0.12."""
    more = "accept_protocol_versions 4, 5\n"
    async with running("isthmus", tmp_path, more) as (plain_port, port):
        plain = await Raw.client(plain_port, "plain")
        inside = await Raw.client(port, "inside", 4)
        assert await inside.subscribe("ok/#", "$share/g/ok/1", qos=1) == [1, 1]
        assert await plain.published("m/ok/1", "1", 1) == 0
        assert {(await inside.message()).topic for _ in range(2)} == {"ok/1"}
        await inside.unsubscribe("ok/#", "$share/g/ok/1")
        assert await plain.published("m/ok/1", "1", 1) == 0
        await inside.nothing()
        old = await Raw.open(port, 3)
        old.send(connect_packet("old", 3))
        assert (await old.expect(CONNACK)).code == 1
