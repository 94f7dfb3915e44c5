"""The transports from end to end, with clients and brokers that others wrote."""

from __future__ import annotations

import asyncio
import json
import queue
import tempfile
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from mosquitto import command, free_port, listens
from raw import Raw, until
from running import QUICK, back, bridge, out

SCRIPT = Path(__file__).parents[1] / "broker" / "mqttjs_client.mjs"


def listener(pem: Any, *, secure: bool, **how: Any) -> dict[str, Any]:
    tls = {"certificate": str(pem.server), "key": str(pem.server)} if secure else None
    return {"bind": "127.0.0.1:0", "tls": tls, **how}


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("secure", [False, True])
async def test_paho_by_websocket(
    isthmus: Any, certificates: Any, version: int, secure: bool
) -> None:
    near = await isthmus(
        {"listeners": [listener(certificates, secure=secure, transport="websocket")]}
    )

    def talk() -> list[tuple[str, bytes, int]]:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, "paho", transport="websockets", protocol=version
        )
        client.ws_set_options("/mqtt")
        if secure:
            client.tls_set(str(certificates.ca))
        messages: queue.Queue[Any] = queue.Queue()
        ready: queue.Queue[Any] = queue.Queue()
        client.on_subscribe = lambda *_: ready.put(True)
        client.on_message = lambda _client, _data, message: messages.put(message)
        client.connect("127.0.0.1", near.port, keepalive=5)
        client.loop_start()
        client.subscribe("t/#", 2)
        ready.get(timeout=8)
        big = b"x" * 300_000
        for qos, payload in enumerate([b"zero", b"one", big]):
            client.publish(f"t/{qos}", payload, qos)
        got = [messages.get(timeout=8) for _ in range(3)]
        client.disconnect()
        client.loop_stop()
        assert got[2].payload == big
        return [(one.topic, one.payload[:4], one.qos) for one in got]

    found = await asyncio.to_thread(talk)
    assert found == [("t/0", b"zero", 0), ("t/1", b"one", 1), ("t/2", b"xxxx", 2)]


@pytest.mark.parametrize(("secure", "version"), [(False, "5"), (True, "5"), (False, "3.1")])
async def test_mqttjs_by_websocket(
    isthmus: Any, certificates: Any, secure: bool, version: str
) -> None:
    near = await isthmus(
        {"listeners": [listener(certificates, secure=secure, transport="websocket")]}
    )
    url = f"{'wss' if secure else 'ws'}://127.0.0.1:{near.port}/mqtt"
    number = "3" if version == "3.1" else version
    extra = [str(certificates.ca)] if secure else []
    code, answer, errors = await command("node", str(SCRIPT), url, number, *extra)
    assert code == 0, errors
    seen = json.loads(answer)
    assert [(one["payload"], one["qos"]) for one in seen["messages"]] == [
        ("m0", 0), ("m1", 1), ("m2", 2)
    ]  # fmt: skip
    assert seen["retained"]["payload"] == "kept"
    assert seen["will"]["payload"] == "gone"


@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_a_bridge_to_mosquitto_by_websocket(
    isthmus: Any, mosquitto: Any, version: str
) -> None:
    port = free_port()
    far = await mosquitto(f"listener {port}", "socket_domain ipv4", "protocol websockets")
    await until(lambda: listens(port))
    near = await isthmus(
        bridge(
            port,
            routes={"out": out("o/#", max_qos=2), "in": back("i/#", qos=1)},
            url=f"ws://127.0.0.1:{port}/mqtt",
            version=version,
        )
    )
    await near.connected()
    there = await Raw.client(far.port, "there")
    await there.subscribe("o/#", qos=2)
    here = await near.client("here")
    await here.subscribe("i/#", qos=1)
    for number in range(200):
        await here.published(f"o/{number}", b"x" * 1000, qos=1)
    got = [await there.message() for _ in range(200)]
    assert [one.topic for one in got] == [f"o/{number}" for number in range(200)]
    await there.published("i/1", b"y" * 70_000, qos=1)
    assert (await here.message()).payload == b"y" * 70_000


@pytest.mark.parametrize("carrier", ["unix", "wss", "mqtt+unix"])
async def test_isthmus_to_isthmus(isthmus: Any, certificates: Any, carrier: str) -> None:
    with tempfile.TemporaryDirectory(prefix="isthmus-") as folder:
        path = f"{folder}/mqtt.sock"
        first = listener(certificates, secure=False)
        if carrier == "wss":
            second = listener(certificates, secure=True, transport="websocket", path="/b")
        else:
            second = {"bind": f"unix:{path}"}
        far = await isthmus({"listeners": [first, second]})
        connector: dict[str, Any] = (
            {"url": f"wss://127.0.0.1:{far.ports[1]}/b", "tls": {"ca": str(certificates.ca)}}
            if carrier == "wss"
            else {"url": f"unix:{path}" if carrier == "unix" else f"mqtt+unix://{path}"}
        )
        near = await isthmus(
            {
                "node": "edge",
                "connectors": {"cloud": {"reconnect": QUICK, **connector}},
                "routes": {"out": out("o/#")},
            }
        )
        await near.connected()
        there = await far.client("there")
        await there.subscribe("o/#", qos=1)
        here = await near.client("here")
        await here.published("o/1", b"x", qos=1)
        assert (await there.message()).payload == b"x"


async def test_a_client_leaves_a_websocket_without_a_word_and_its_will_comes(
    isthmus: Any, certificates: Any
) -> None:
    near = await isthmus(
        {"listeners": [listener(certificates, secure=False),
                       listener(certificates, secure=False, transport="websocket")]}
    )  # fmt: skip
    watcher = await near.client("watcher")
    await watcher.subscribe("gone", qos=1)

    def talk() -> None:
        client = paho.Client(CallbackAPIVersion.VERSION2, "mortal", transport="websockets")
        client.ws_set_options("/mqtt")
        client.will_set("gone", b"by", 1)
        client.connect("127.0.0.1", near.ports[1])
        while not client.is_connected():
            client.loop(0.05)
        client._sock_close()

    await asyncio.to_thread(talk)
    assert (await watcher.message()).payload == b"by"
