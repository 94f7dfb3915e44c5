"""Client ids that belong to nodes, and routes that name a connection."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from test_bridge_to_mosquitto import tls_lines

from isthmus.delivery.endpoint import Origin
from isthmus.delivery.outlet import KEEP
from isthmus.delivery.plan import Plan
from raw import PUBACK, PUBLISH, ack_packet, until
from running import bridge, out

IDS = {
    "edge": [{"client_id": "one", "username": "u1", "password": "p1"}, "two"],
    "other": ["three"],
}
ROUTES = {"out": out("out/#")}


def with_ids(port: int, **how):
    return bridge(port, routes=ROUTES, static_client_ids=IDS, **how)


async def test_the_ids_of_this_node_are_opened_with_their_credentials(isthmus, far):
    near = await isthmus(with_ids(far.port, pool=5, username="common", password="pw"))
    hellos = [(await far.client())[1] for _ in range(2)]
    assert {(one.client_id, one.username, one.password) for one in hellos} == {
        ("one", "u1", b"p1"),
        ("two", "common", b"pw"),
    }
    await near.connected()
    assert [member.client_id for member in near.cloud.members] == ["one", "two"]


async def test_keys_without_effect_are_named_in_the_log(isthmus, far, caplog):
    def said():
        texts = [record.getMessage() for record in caplog.records]
        return [text for text in texts if "without effect" in text]

    caplog.set_level("INFO")
    await isthmus(with_ids(far.port))
    assert not said()
    await isthmus(with_ids(far.port, pool=5, client_id_prefix="x"))
    assert said() == [
        "connector cloud: without effect beside 'static_client_ids': 'pool' and 'client_id_prefix'"
    ]


async def test_a_node_without_ids_opens_nothing_and_keeps_its_messages(isthmus, far, caplog):
    near = await isthmus({**with_ids(far.port), "node": "nobody"})
    assert near.cloud.state == "stopped"
    assert "no client id for node 'nobody'" in near.cloud.status
    here = await near.client("here")
    here.publish("out/a", "1", 1)
    await until(lambda: near.cloud.figures.read()["queued"] == 1)
    assert not await here.arrived()  # it is not acknowledged: its publisher keeps it
    assert far._accepted.empty()
    assert any("messages wait" in record.getMessage() for record in caplog.records)


async def test_a_connection_is_chosen_by_its_client_id(isthmus, far):
    near = await isthmus(with_ids(far.port))
    sides = {}
    for _ in range(2):
        there, hello = await far.client()
        sides[hello.client_id] = there
    await near.connected()
    for name in ("one", "two", "one"):
        plan = Plan()
        near.cloud.route(
            b"out/t", plan, origin=Origin(None), flags=KEEP, order_key=b"t", memory=False,
            connection=name.encode(),
        )  # fmt: skip
        for outlet in plan.outlets:
            outlet.send(2, b"", name.encode(), None)
        found = await sides[name].expect(PUBLISH)
        assert found.payload == name.encode()
        assert near.cloud.client_id_of(b"t", name.encode()) == name
    assert near.cloud.client_id_of(b"t") in {"one", "two"}
    assert near.cloud.client_id_of(b"t", b"three") == ""


@pytest.mark.parametrize("version", [4, 5])
async def test_a_connection_that_is_not_here_is_refused_and_counted(isthmus, far, version):
    near = await isthmus(with_ids(far.port))
    for _ in range(2):
        await far.client()
    await near.connected()
    table = near.app.tables["local"]

    class Named:
        """A route that names a connection."""

        def resolve(self, topic, options, plan, origin):
            near.cloud.route(
                topic, plan, origin=table._origin, flags=KEEP, order_key=topic, memory=False,
                connection=b"three",
            )  # fmt: skip

    near.app.broker.subscribe(b"named/#", Named(), 2)
    here = await near.client("here", version)
    here.publish("named/a", "1", 1)
    if version == 5:
        assert (await here.expect(PUBACK)).code == 0x83
    else:
        assert not await here.arrived()
    here.publish("named/a", "1", 0)
    await here.arrived()
    assert near.cloud.drops.counts == {"no_such_connection": 2}


def in_a_file(certificates):
    return {"certificate": str(certificates.client)}


def in_the_configuration(certificates):
    pem = {"content": certificates.client.read_text()}
    return {"certificate": pem, "key": pem}


def in_a_store(certificates):
    pem = certificates.client.read_bytes()
    data = pkcs12.serialize_key_and_certificates(
        b"edge",
        serialization.load_pem_private_key(pem, None),
        x509.load_pem_x509_certificate(pem),
        None,
        serialization.BestAvailableEncryption(b"open sesame"),
    )
    store = {"content": base64.b64encode(data).decode()}
    return {"pkcs12": store, "store_password": "open sesame"}


@pytest.mark.parametrize("how", [in_a_file, in_the_configuration, in_a_store])
async def test_own_certificates_of_client_ids(isthmus, mosquitto, certificates, how):
    far = await mosquitto(*tls_lines(certificates, clients=True))
    ids = {"edge": [{"client_id": "one", **how(certificates)}]}
    configuration = bridge(
        0,
        routes=ROUTES,
        url=f"mqtts://127.0.0.1:{far.port}",
        # The connector's own certificate is refused by this far side.
        tls={"ca": str(certificates.ca), "certificate": str(certificates.stranger)},
        static_client_ids=ids,
    )
    near = await isthmus(configuration)
    await near.connected()
    assert "as one (p5, c0, k60, u'edge-7')" in far.log.read_text()


async def test_messages_stay_with_one_connection_of_their_topic(isthmus, far):
    near = await isthmus(with_ids(far.port))
    sides = {}
    for _ in range(2):
        there, hello = await far.client()
        sides[hello.client_id] = there
    await near.connected()
    here = await near.client("here")
    for number in range(20):
        topic = f"out/{number}"
        here.publish(topic, "x", 1)
        there = sides[near.cloud.client_id_of(topic.encode())]
        found = await there.expect(PUBLISH)
        assert found.topic == topic
        there.send(ack_packet(PUBACK, found.packet_id))
        await here.expect(PUBACK)
