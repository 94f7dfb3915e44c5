"""The clients that people use, against the broker."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from mosquitto import Listening, command
from raw import until, within

VERSIONS = {"3.1": "mqttv31", "3.1.1": "mqttv311", "5": "mqttv5"}
PAHO = {"3.1": paho.MQTTv31, "3.1.1": paho.MQTTv311, "5": paho.MQTTv5}


def listeners(transport: str, certificates: Any, **tls: Any) -> dict[str, Any]:
    listener: dict[str, Any] = {"bind": "127.0.0.1:0"}
    if transport == "tls":
        listener["tls"] = {
            "certificate": str(certificates.server), "key": str(certificates.server), **tls
        }  # fmt: skip
    return {"listeners": [listener]}


# -- mosquitto_pub, mosquitto_sub ----------------------------------------------------------------


@pytest.mark.both_loops
@pytest.mark.parametrize("transport", ["tcp", "tls"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_mosquitto_clients(isthmus, certificates, version, transport):
    near = await isthmus(listeners(transport, certificates))
    there = ["-p", str(near.port), "-V", VERSIONS[version], "-h", "127.0.0.1"]
    if transport == "tls":
        there += ["--cafile", str(certificates.ca)]
    listening = await Listening.start(*there, "-q", "2", "-t", "t/#", "-F", "%t %q %r %p")
    for qos in "012":
        code, _, errors = await command("mosquitto_pub", *there, "-q", qos, "-t", "t/x", "-m", qos)
        assert code == 0, errors
        assert await listening.line() == f"t/x {qos} 0 {qos}"
    await listening.stop()
    await command("mosquitto_pub", *there, "-r", "-q", "1", "-t", "t/kept", "-m", "kept")
    code, out, _ = await command("mosquitto_sub", *there, "-t", "t/#", "-C", "1", "-F", "%t %r %p")
    assert (code, out) == (0, "t/kept 1 kept\n")
    await command("mosquitto_pub", *there, "-r", "-q", "1", "-t", "t/kept", "-n")
    assert near.app.broker.retained.get(b"t/kept") is None


@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_mosquitto_sub_comes_back_for_its_session(isthmus, version):
    near = await isthmus()
    there = ["-p", str(near.port), "-V", VERSIONS[version]]
    away = [*there, "-i", "away", "-c", "-q", "1", "-t", "t"]
    away += ["-x", "60"] if version == "5" else []
    code, _, errors = await command("mosquitto_sub", *away, "-E")
    assert code == 0, errors
    await command("mosquitto_pub", *there, "-q", "1", "-t", "t", "-m", "missed")
    code, out, _ = await command("mosquitto_sub", *away, "-C", "1")
    assert (code, out) == (0, "missed\n")


async def test_mosquitto_pub_sends_a_stream_of_lines(isthmus, tmp_path):
    near = await isthmus()
    raw = await near.client("x")
    await raw.subscribe("t", qos=1)
    process = await asyncio.create_subprocess_exec(
        "mosquitto_pub", "-p", str(near.port), "-q", "1", "-l", "-t", "t",
        stdin=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await process.communicate("".join(f"{number}\n" for number in range(500)).encode())
    assert process.returncode == 0
    assert [int((await raw.message()).payload) for _ in range(500)] == list(range(500))


async def test_tls_with_client_certificates(isthmus, certificates):
    tls = {"client_ca": str(certificates.ca), "require_client_certificate": True}
    near = await isthmus(listeners("tls", certificates, **tls))
    there = ["-p", str(near.port), "-h", "127.0.0.1", "--cafile", str(certificates.ca)]
    for client, good in (
        (certificates.client, True),
        (certificates.stranger, False),
        (None, False),
    ):
        pair = ["--cert", str(client), "--key", str(client)] if client else []
        code, _, _ = await command("mosquitto_pub", *there, *pair, "-q", "1", "-t", "t", "-m", "x")
        assert (code == 0) is good
    assert near.app.broker.accepted == 1


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_tls_versions(isthmus, certificates, version):
    near = await isthmus(listeners("tls", certificates))
    context = ssl.create_default_context(cafile=str(certificates.ca))
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    raw = await near.client("x", tls=context)
    await raw.subscribe("t")
    raw.publish("t", b"x" * 100_000)
    assert len((await raw.message()).payload) == 100_000


# -- paho-mqtt -----------------------------------------------------------------------------------


class Paho:
    """A paho client whose callbacks come as events of the test's loop."""

    def __init__(self, client_id: str, version: str, **how: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.version = version
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id, protocol=PAHO[version], **how
        )
        self.events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        client = self.client
        client.on_connect = lambda c, u, flags, code, p: self.note("connect", (flags, code, p))
        client.on_disconnect = lambda c, u, flags, code, p: self.note("disconnect", code)
        client.on_message = lambda c, u, message: self.note("message", message)
        client.on_publish = lambda c, u, mid, code, p: self.note("publish", code)
        client.on_subscribe = lambda c, u, mid, codes, p: self.note("subscribe", codes)
        client.on_unsubscribe = lambda c, u, mid, codes, p: self.note("unsubscribe", codes)

    def note(self, kind: str, value: Any) -> None:
        self.loop.call_soon_threadsafe(self.events.put_nowait, (kind, value))

    async def expect(self, kind: str) -> Any:
        found, value = await within(self.events.get())
        assert found == kind, (found, value)
        return value

    async def connect(self, port: int, **how: Any) -> Any:
        await asyncio.to_thread(self.client.connect, "127.0.0.1", port, **how)
        self.client.loop_start()
        return await self.expect("connect")

    async def stop(self) -> None:
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)


@pytest.mark.parametrize("transport", ["tcp", "tls"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_paho(isthmus, certificates, version, transport):
    near = await isthmus(listeners(transport, certificates))
    one = Paho("one", version)
    if transport == "tls":
        one.client.tls_set(str(certificates.ca))
    _, code, _ = await one.connect(near.port)
    assert code == 0
    one.client.subscribe("t/#", 2)
    assert [int(code.value) for code in await one.expect("subscribe")] == [2]
    for qos in (0, 1, 2):
        one.client.publish("t/x", f"m{qos}", qos)
        got: dict[str, Any] = {}
        while len(got) < 2:
            kind, value = await within(one.events.get())
            got[kind] = value
        message = got["message"]
        assert (message.topic, message.payload, message.qos) == ("t/x", b"m%d" % qos, qos)
        assert int(got["publish"].value) == 0
    one.client.unsubscribe("t/#")
    await one.expect("unsubscribe")
    await one.stop()
    await until(lambda: not near.app.broker.connected)


async def test_paho_mqtt_5_options_and_properties(isthmus):
    near = await isthmus()
    one = Paho("one", "5")
    await one.connect(near.port)
    one.client.subscribe("t", options=SubscribeOptions(qos=1, noLocal=True, retainAsPublished=True))
    await one.expect("subscribe")
    two = Paho("", "5")
    _, _, properties = await two.connect(near.port)
    assert properties.AssignedClientIdentifier.startswith("auto-")
    assert properties.ReceiveMaximum == 1000
    sent = Properties(PacketTypes.PUBLISH)
    sent.ContentType = "text/plain"
    sent.ResponseTopic = "answers"
    sent.CorrelationData = b"\1\2"
    sent.UserProperty = [("a", "1"), ("a", "2")]
    sent.MessageExpiryInterval = 60
    one.client.publish("t", "own", 1)
    await one.expect("publish")
    two.client.publish("t", "other", 1, retain=True, properties=sent)
    assert (await two.expect("publish")).value == 0
    message = await one.expect("message")
    assert (message.payload, message.retain) == (b"other", True)
    found = message.properties.json()
    # Who subscribes with both options is taken for a bridge, and sees where messages have been.
    assert found["UserProperty"].pop()[0] == "isthmus-hops"
    assert found == sent.json() | {"MessageExpiryInterval": 60}
    await one.stop()
    await two.stop()


@pytest.mark.parametrize("version", VERSIONS)
async def test_paho_will_and_normal_end(isthmus, version):
    near = await isthmus()
    raw = await near.client("x")
    await raw.subscribe("will")
    for normal in (True, False):
        one = Paho("mortal", version)
        one.client.will_set("will", "gone", 1)
        await one.connect(near.port)
        if normal:
            await one.stop()
            await until(lambda: near.app.broker.connected == 1)
            await raw.nothing()
        else:
            one.client.socket().shutdown(2)
            assert (await raw.message()).payload == b"gone"
            await one.stop()


# -- aiomqtt -------------------------------------------------------------------------------------


@pytest.mark.both_loops
@pytest.mark.parametrize("transport", ["tcp", "tls"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_aiomqtt(isthmus, certificates, version, transport):
    near = await isthmus(listeners(transport, certificates))
    how: dict[str, Any] = {"port": near.port, "protocol": aiomqtt.ProtocolVersion(PAHO[version])}
    if transport == "tls":
        how["tls_params"] = aiomqtt.TLSParameters(ca_certs=str(certificates.ca))
    async with asyncio.timeout(15), aiomqtt.Client("127.0.0.1", **how) as client:
        await client.subscribe("t/#", qos=2)
        for number in range(30):
            await client.publish("t/x", str(number), qos=number % 3)
        seen = []
        async for message in client.messages:
            seen.append((int(message.payload), message.qos))
            if len(seen) == 30:
                break
        assert seen == [(number, number % 3) for number in range(30)]
        await client.unsubscribe("t/#")


# -- MQTT.js -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "transport"), [("3", "tcp"), ("4", "tcp"), ("5", "tcp"), ("4", "tls"), ("5", "tls")]
)
async def test_mqtt_js(isthmus, certificates, version, transport):
    near = await isthmus(listeners(transport, certificates))
    script = Path(__file__).with_name("mqttjs_client.mjs")
    scheme, extra = ("mqtt", []) if transport == "tcp" else ("mqtts", [str(certificates.ca)])
    url = f"{scheme}://127.0.0.1:{near.port}"
    code, out, errors = await command("node", str(script), url, version, *extra)
    assert code == 0, errors
    seen = SimpleNamespace(**json.loads(out))
    assert seen.granted == [2]
    assert [(one["payload"], one["qos"]) for one in seen.messages] == [
        ("m0", 0), ("m1", 1), ("m2", 2)
    ]  # fmt: skip
    if version == "5":
        assert all(one["user"] == {"unit": "C"} for one in seen.messages)
    assert (seen.retained["payload"], seen.retained["retain"]) == ("kept", True)
    assert seen.missed["payload"] == "missed"
    # MQTT 3.1 keeps the session too, and its CONNACK has no bit that says so.
    assert seen.present is (version != "3")
    assert (seen.will["topic"], seen.will["payload"]) == ("js/will", "gone")
    assert near.app.broker.refusals == {}
