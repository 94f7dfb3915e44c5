"""What an empty `mosquitto.conf` lets clients do, asked of Debian's Mosquitto 2.0.11 and of us."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mosquitto import free_port, listens, program
from raw import CONNACK, DISCONNECT, Raw, connect_packet, publish_packet, until

BROKERS = ["isthmus", "mosquitto"]


@contextlib.asynccontextmanager
async def running(broker: str, folder: Path, text: str = "", port: int = 0) -> AsyncIterator[int]:
    """The port of either broker with a file that says nothing but `text`.

    `port` is one that the text opens; without one it is an option of the command line.
    """
    path = folder / "mosquitto.conf"
    path.write_text(f"user root\n{text}" if broker == "mosquitto" else text)
    option = [] if port else ["-p", str(port := free_port())]
    ours = [sys.executable, "-m", "isthmus", "run"]
    theirs = [program("mosquitto")]
    process = await asyncio.create_subprocess_exec(
        *(ours if broker == "isthmus" else theirs),
        *("-c", str(path), *option),
        stderr=subprocess.DEVNULL,
    )
    try:
        await until(lambda: listens(port) or process.returncode is not None, 15)
        assert process.returncode is None
        yield port
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("broker", BROKERS)
async def test_a_connect_may_be_as_long_as_mqtt_allows(broker: str, tmp_path: Path) -> None:
    async with running(broker, tmp_path) as port:
        for length in (1025, 65_535):
            await Raw.client(port, "i" * length)
        watcher = await Raw.client(port, "watcher")
        topic = "t" * 60_000
        await watcher.subscribe(topic)
        for version in (4, 5):
            raw = await Raw.client(
                port,
                f"{version}" * 60_000,
                version,
                will=(topic, b"w" * 65_535, 0, False),
                username="u" * 60_000,
                password="p" * 60_000,
            )
            raw.reset()
            assert (await watcher.message()).payload == b"w" * 65_535


@pytest.mark.parametrize("broker", BROKERS)
async def test_many_filters_in_one_packet(broker: str, tmp_path: Path) -> None:
    async with running(broker, tmp_path) as port:
        raw = await Raw.client(port, "x")
        for start in (0, 2500, 5000, 7500, 10_000):
            filters = [f"f/{start + number}" for number in range(2500)]
            assert await raw.subscribe(*filters) == [0] * 2500
        assert len(await raw.unsubscribe(*filters)) == 2500
        raw.publish("f/1", "x")
        assert (await raw.message()).topic == "f/1"


@pytest.mark.parametrize("broker", BROKERS)
async def test_many_places_of_wildcards(broker: str, tmp_path: Path) -> None:
    async with running(broker, tmp_path) as port:
        raw = await Raw.client(port, "x", 4)
        places = itertools.islice(itertools.product("+a", repeat=8), 199)
        assert await raw.subscribe(*("/".join(levels) for levels in places)) == [0] * 199


@pytest.mark.parametrize("broker", BROKERS)
async def test_what_one_listener_says_is_not_said_to_the_clients_of_others(
    broker: str, tmp_path: Path
) -> None:
    plain, other = free_port(), free_port()
    text = (
        "per_listener_settings true\n"
        f"listener {plain} 127.0.0.1\nallow_anonymous true\n"
        f"listener {other} 127.0.0.1\nallow_anonymous true\n"
        "allow_zero_length_clientid false\nauto_id_prefix xx-\nmax_topic_alias 50\n"
    )
    async with running(broker, tmp_path, text, port=other):
        found = await Raw.client(plain)
        assert found.hello.properties["assigned_id"].startswith("auto-")
        assert found.hello.properties["alias_maximum"] == 10
        assert (await Raw.client(other, "x")).hello.properties["alias_maximum"] == 50
        found.send(publish_packet("t", "x", alias=11))
        assert (await found.expect(DISCONNECT)).code == 0x94
        refused = await Raw.open(other, 4)
        refused.send(connect_packet("", 4))
        assert (await refused.expect(CONNACK)).code == 2
        await Raw.client(plain, "", 4)


@pytest.mark.parametrize("broker", BROKERS)
async def test_the_user_name_is_the_client_id_at_one_listener_alone(
    broker: str, tmp_path: Path
) -> None:
    plain, other = free_port(), free_port()
    text = (
        f"allow_anonymous true\nlistener {plain} 127.0.0.1\n"
        f"listener {other} 127.0.0.1\nuse_username_as_clientid true\n"
    )
    async with running(broker, tmp_path, text, port=other):
        await Raw.client(plain, "x", 4)
        refused = await Raw.open(other, 4)
        refused.send(connect_packet("y", 4))
        assert (await refused.expect(CONNACK)).code == (2 if broker == "isthmus" else 5)
