"""The promise: a publisher's PUBACK means that the far side has the message.

The far side is a script, so that every answer comes when the test says so.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest

from mosquitto import Mosquitto
from raw import (
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    FarSide,
    Raw,
    ack_packet,
    packet,
    publish_packet,
    until,
    within,
)
from running import back, bridge, out

pytestmark = pytest.mark.both_loops


async def pair(isthmus, far: FarSide, version: int = 5, **how):
    """A bridge for `out/#`, its far end, and a publisher."""
    session = how.pop("values", {})
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, **how))
    there, _ = await far.client(**session)
    here = await near.client("here", version)
    return near, there, here


async def test_puback_waits_for_the_far_sides_puback(isthmus, far):
    _near, there, here = await pair(isthmus, far)
    here.publish("out/a", "1", 1)
    got = await there.expect(PUBLISH)
    assert (got.topic, got.payload, got.qos) == ("out/a", b"1", 1)
    await here.nothing()
    there.send(ack_packet(PUBACK, got.packet_id))
    assert (await here.expect(PUBACK)).packet_id == 1


async def test_pubrec_waits_for_the_far_sides_pubrec(isthmus, far):
    """The far side owns a QoS 2 message when it has said so."""
    near, there, here = await pair(isthmus, far)
    here.publish("out/a", "1", 2)
    got = await there.expect(PUBLISH)
    await here.nothing()
    there.send(ack_packet(PUBREC, got.packet_id))
    assert (await there.expect(PUBREL)).packet_id == got.packet_id
    assert (await here.expect(PUBREC)).packet_id == 1
    here.send(ack_packet(PUBREL, 1))
    await here.expect(PUBCOMP)
    there.send(ack_packet(PUBCOMP, got.packet_id))
    await until(lambda: not near.cloud.unsettled)


async def test_mqtt_4_6_0_2_acknowledgements_leave_in_order_of_arrival(isthmus, far):
    """The far side answers in reverse; a local-only message in between waits for its turn."""
    near, there, here = await pair(isthmus, far)
    first = here.publish("out/a", "1", 1)
    sent = [await there.expect(PUBLISH)]
    local = here.publish("local/only", "2", 1)
    await here.nothing()
    third = here.publish("out/b", "3", 1)
    sent.append(await there.expect(PUBLISH))
    there.send(ack_packet(PUBACK, sent[1].packet_id))
    there.send(publish_packet("not/routed", "", 0))
    await until(lambda: near.cloud.unsettled == 1)
    await here.nothing()
    there.send(ack_packet(PUBACK, sent[0].packet_id))
    assert [(await here.expect(PUBACK)).packet_id for _ in range(3)] == [first, local, third]


async def test_one_read_with_routed_and_local_messages_is_acknowledged_as_one(isthmus, far):
    _near, there, here = await pair(isthmus, far)
    here.send(
        publish_packet("local/x", "1", 1, 11),
        publish_packet("out/a", "2", 1, 12),
        publish_packet("local/x", "3", 1, 13),
    )
    got = await there.expect(PUBLISH)
    there.send(ack_packet(PUBACK, got.packet_id))
    assert [(await here.expect(PUBACK)).packet_id for _ in range(3)] == [11, 12, 13]


async def test_a_receipt_dies_with_its_connection(isthmus, far):
    """The client that comes back uses the same identifier for another message."""
    near, there, here = await pair(isthmus, far)
    here.publish("out/a", "first", 1, packet_id=7)
    first = await there.expect(PUBLISH)
    here.close()
    await until(lambda: near.app.broker.connected == 0)
    again = await near.client("here")
    again.publish("out/a", "second", 1, packet_id=7)
    second = await there.expect(PUBLISH)
    there.send(ack_packet(PUBACK, first.packet_id))
    await until(lambda: near.cloud.unsettled == 1)
    await again.nothing()
    there.send(ack_packet(PUBACK, second.packet_id))
    assert (await again.expect(PUBACK)).packet_id == 7
    await again.nothing()


async def test_mqtt_4_3_3_10_a_repeated_qos_2_message_waits_with_the_first(isthmus, far):
    """A client reconnects in mid-flight and sends it again with DUP: still exactly once."""
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}))
    there, _ = await far.client()
    here = await near.client("here", clean=True, session_expiry=60)
    here.publish("out/a", "once", 2, packet_id=5)
    got = await there.expect(PUBLISH)
    here.reset()
    await until(lambda: near.app.broker.connected == 0)
    again = await near.client("here", clean=False, session_expiry=60)
    assert again.hello.session_present
    again.publish("out/a", "once", 2, packet_id=5, dup=True)
    await again.nothing()
    there.send(ack_packet(PUBREC, got.packet_id))
    await there.expect(PUBREL)
    assert (await again.expect(PUBREC)).packet_id == 5
    again.send(ack_packet(PUBREL, 5))
    await again.expect(PUBCOMP)
    there.send(ack_packet(PUBCOMP, got.packet_id))
    await until(lambda: near.cloud.unsettled == 0)
    there.send(publish_packet("x", "", 0))
    assert near.status()["sent"] == 1


async def test_mqtt_4_3_3_10_pubrec_was_lost_and_the_message_comes_again(isthmus, far):
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}))
    there, _ = await far.client()
    here = await near.client("here", session_expiry=60)
    here.publish("out/a", "once", 2, packet_id=5)
    got = await there.expect(PUBLISH)
    there.send(ack_packet(PUBREC, got.packet_id))
    await there.expect(PUBREL)
    there.send(ack_packet(PUBCOMP, got.packet_id))
    await here.expect(PUBREC)
    here.reset()
    await until(lambda: near.app.broker.connected == 0)
    again = await near.client("here", clean=False, session_expiry=60)
    again.publish("out/a", "once", 2, packet_id=5, dup=True)
    await again.expect(PUBREC)
    again.send(ack_packet(PUBREL, 5))
    await again.expect(PUBCOMP)
    assert near.status()["sent"] == 1
    again.publish("out/a", "twice", 2, packet_id=5)
    assert (await there.expect(PUBLISH)).payload == b"twice"


async def test_mqtt_4_4_0_1_in_flight_messages_come_again_with_the_same_ids(isthmus, far):
    """The far side kept the session: same identifiers, DUP, in order; PUBREL where it stood."""
    _near, there, here = await pair(isthmus, far, client_id="edge")
    here.publish("out/a", "released", 2)
    released = await there.expect(PUBLISH)
    there.send(ack_packet(PUBREC, released.packet_id))
    await there.expect(PUBREL)
    await here.expect(PUBREC)
    ids = []
    for number, qos in enumerate((1, 2, 1)):
        here.publish("out/a", str(number), qos)
        ids.append((await there.expect(PUBLISH)).packet_id)
    there.reset()
    there, hello = await far.client(session_present=True)
    assert not hello.clean
    assert (await there.expect(PUBREL)).packet_id == released.packet_id
    for number, qos in enumerate((1, 2, 1)):
        got = await there.expect(PUBLISH)
        assert (got.packet_id, got.payload, got.qos) == (ids[number], str(number).encode(), qos)
        assert got.dup
        there.send(ack_packet(PUBACK if qos == 1 else PUBREC, got.packet_id))
    kinds = [(await here.expect(kind)).kind for kind in (PUBACK, PUBREC, PUBACK)]
    assert kinds == [PUBACK, PUBREC, PUBACK]


async def test_in_flight_messages_are_new_where_the_far_side_forgot(isthmus, far):
    """Session present 0: new publications, no DUP, in order, before what is queued."""
    _near, there, here = await pair(isthmus, far, client_id="edge", values={"receive_maximum": 3})
    for number in range(5):
        here.publish("out/a", str(number), 1 + number % 2)
    for _ in range(3):
        await there.expect(PUBLISH)
    there.reset()
    there, _ = await far.client(session_present=False)
    for number in range(5):
        got = await there.expect(PUBLISH)
        assert (got.payload, got.dup, got.qos) == (str(number).encode(), False, 1 + number % 2)
        there.send(ack_packet(PUBACK if got.qos == 1 else PUBREC, got.packet_id))
    for number in range(5):
        assert (await here.packet()).kind == (PUBACK, PUBREC)[number % 2]


async def test_mqtt_3_3_4_7_the_far_sides_receive_maximum_holds(isthmus, far):
    near, there, here = await pair(isthmus, far, values={"receive_maximum": 2})
    for number in range(4):
        here.publish("out/a", str(number), 1)
        await here.nothing()  # a read of its own: what one read brings is acknowledged together
    sent = [await there.expect(PUBLISH) for _ in range(2)]
    assert near.status()["queued"] == 2
    there.send(ack_packet(PUBACK, sent[0].packet_id))
    assert (await there.expect(PUBLISH)).payload == b"2"
    assert (await here.expect(PUBACK)).packet_id == 1


async def test_a_refusal_reaches_the_mqtt_5_publisher(isthmus, far):
    near, there, here = await pair(isthmus, far)
    for qos, far_kind, kind in ((1, PUBACK, PUBACK), (2, PUBREC, PUBREC)):
        for code in (0x87, 0x90, 0x99):
            here.publish("out/a", "x", qos)
            got = await there.expect(PUBLISH)
            there.send(ack_packet(far_kind, got.packet_id, code))
            assert (await here.expect(kind)).code == code
    assert near.cloud.unsettled == 0
    assert near.status()["refused"] == 6
    assert near.cloud.drops.counts == {"refused_0x87": 2, "refused_0x90": 2, "refused_0x99": 2}


async def test_after_a_refused_qos_2_message_its_identifier_is_free(isthmus, far):
    """MQTT-4.3.3-4 and 4.4: PUBREC of 0x80 or above ends the exchange."""
    _near, there, here = await pair(isthmus, far)
    here.publish("out/a", "no", 2, packet_id=9)
    got = await there.expect(PUBLISH)
    there.send(ack_packet(PUBREC, got.packet_id, 0x87))
    assert (await here.expect(PUBREC)).code == 0x87
    here.publish("out/a", "yes", 2, packet_id=9)
    got = await there.expect(PUBLISH)
    assert got.payload == b"yes"
    there.send(ack_packet(PUBREC, got.packet_id))
    assert (await here.expect(PUBREC)).code == 0


async def test_no_matching_subscribers_at_the_far_side_is_success(isthmus, far):
    near, there, here = await pair(isthmus, far)
    here.publish("out/a", "x", 1)
    got = await there.expect(PUBLISH)
    there.send(ack_packet(PUBACK, got.packet_id, 0x10))
    assert (await here.expect(PUBACK)).code in (0, 0x10)
    assert near.cloud.drops.total == 0


async def test_an_mqtt_3_publisher_gets_no_puback_for_a_refused_message(isthmus, far):
    """It has no code for it; the others are acknowledged all the same."""
    _near, there, here = await pair(isthmus, far, version=4)
    ids = [here.publish("out/a", str(number), 1) for number in range(3)]
    for number in range(3):
        got = await there.expect(PUBLISH)
        there.send(ack_packet(PUBACK, got.packet_id, 0x87 if number == 1 else 0))
    assert (await here.expect(PUBACK)).packet_id == ids[0]
    assert (await here.expect(PUBACK)).packet_id == ids[2]
    await here.nothing()


@pytest.mark.parametrize("code", [0x80, 0x83, 0x97])
async def test_a_refusal_that_may_pass_is_tried_again_before_its_successors(isthmus, far, code):
    _near, there, here = await pair(isthmus, far, values={"receive_maximum": 1})
    for number in range(3):
        here.publish("out/a", str(number), 1)
    got = await there.expect(PUBLISH)
    there.send(ack_packet(PUBACK, got.packet_id, code))
    again = await within(there.expect(PUBLISH))
    assert (again.payload, again.dup) == (b"0", False)
    await here.nothing()
    there.send(ack_packet(PUBACK, again.packet_id))
    for number in (1, 2):
        got = await there.expect(PUBLISH)
        assert got.payload == str(number).encode()
        there.send(ack_packet(PUBACK, got.packet_id))
    assert [(await here.expect(PUBACK)).code for _ in range(3)] == [0, 0, 0]


async def test_a_packet_identifier_in_use_is_answered_with_another(isthmus, far):
    _near, there, here = await pair(isthmus, far)
    here.publish("out/a", "x", 1)
    got = await there.expect(PUBLISH)
    there.send(ack_packet(PUBACK, got.packet_id, 0x91))
    again = await there.expect(PUBLISH)
    assert again.packet_id != got.packet_id
    there.send(ack_packet(PUBACK, again.packet_id))
    assert (await here.expect(PUBACK)).code == 0


async def test_a_dead_far_side_withholds_puback_only_from_those_it_serves(isthmus, far):
    near, there, here = await pair(isthmus, far)
    other = await near.client("other")
    far.stop_listening()
    there.reset()
    await until(lambda: near.status()["state"] == "waiting")
    here.publish("out/a", "kept", 1)
    await here.nothing()  # reading goes on: PINGREQ is answered
    assert await other.published("elsewhere", "x", 1) == 0
    assert await here.subscribe("elsewhere/#", qos=1) == [1]
    for _ in range(3):
        other.publish("out/b", "lost", 0)
    await other.nothing()
    assert near.cloud.drops.counts == {"link_down": 3}
    await far.start()
    there, _ = await far.client()
    got = await there.expect(PUBLISH)
    assert got.payload == b"kept"
    there.send(ack_packet(PUBACK, got.packet_id))
    assert (await here.expect(PUBACK)).packet_id == 1


async def test_durability_memory_acknowledges_at_once(isthmus, far):
    far.stop_listening()
    near = await isthmus(bridge(far.port, routes={"out": out("out/#", durability="memory")}))
    here = await near.client("here")
    assert await here.published("out/a", "x", 1) == 0
    assert near.cloud.unsettled == 1


async def test_one_topic_to_two_far_sides_waits_for_both(isthmus, far):
    second = FarSide()
    await second.start()
    configuration = bridge(far.port, routes={"a": out("t")})
    configuration["connectors"]["other"] = {"url": f"127.0.0.1:{second.port}"}
    configuration["routes"]["b"] = {"from": "local", "topics": ["t"], "to": "other"}
    near = await isthmus(configuration)
    one, _ = await far.client()
    two, _ = await second.client()
    here = await near.client("here")
    here.publish("t", "x", 1)
    first, other = await one.expect(PUBLISH), await two.expect(PUBLISH)
    two.send(ack_packet(PUBACK, other.packet_id))
    await until(lambda: near.app.connectors["other"].unsettled == 0)
    await here.nothing()
    one.send(ack_packet(PUBACK, first.packet_id))
    await here.expect(PUBACK)
    await second.stop()


async def test_the_far_side_gets_its_puback_when_local_sessions_have_the_message(isthmus, far):
    near = await isthmus(bridge(far.port, routes={"in": back("in/#")}))
    there, _ = await far.client()
    here = await near.client("here")
    await here.subscribe("in/#", qos=2)
    await until(lambda: near.app.routes["in"])
    from raw import grant

    await grant(there)
    there.send(publish_packet("in/x", "1", 1, 21), publish_packet("in/x", "2", 2, 22))
    assert (await there.expect(PUBACK)).packet_id == 21
    assert (await there.expect(PUBREC)).packet_id == 22
    assert (await here.message()).payload == b"1"
    assert (await here.message()).payload == b"2"
    # The far side did not get our PUBREC and sends again: not delivered twice.
    there.reset()
    there, _hello = await far.client(session_present=True)
    there.send(publish_packet("in/x", "2", 2, 22, dup=True))
    assert (await there.expect(PUBREC)).packet_id == 22
    there.send(ack_packet(PUBREL, 22))
    assert (await there.expect(PUBCOMP)).packet_id == 22
    await here.nothing()


async def test_from_one_far_side_to_another_puback_waits_for_the_target(isthmus, far):
    second = FarSide()
    await second.start()
    configuration = bridge(far.port, routes={})
    configuration["connectors"]["other"] = {"url": f"127.0.0.1:{second.port}"}
    configuration["routes"] = {"x": {"from": "cloud", "topics": ["t"], "to": "other"}}
    await isthmus(configuration)
    source, _ = await far.client()
    from raw import grant

    await grant(source)
    target, _ = await second.client()
    source.send(publish_packet("t", "1", 1, 3))
    got = await target.expect(PUBLISH)
    source.send(packet(0x32, b"\0\x01t\0\x04\0" + b"2"))
    assert (await target.expect(PUBLISH)).payload == b"2"
    target.send(ack_packet(PUBACK, got.packet_id))
    assert (await source.expect(PUBACK)).packet_id == 3
    await second.stop()


async def test_a_stopped_mosquitto_withholds_and_then_everything_arrives(mosquitto, isthmus):
    far: Mosquitto = await mosquitto("max_queued_messages 0")
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, client_id="edge"))
    await near.connected()
    there = await Raw.client(far.port, "there")
    await there.subscribe("out/#", qos=1)
    here = await near.client("here")
    other = await near.client("other")
    far.pause()
    try:
        for number in range(20):
            here.publish("out/a", str(number), 1)
        await here.nothing()
        assert await other.published("elsewhere", "x", 1) == 0
        await until(lambda: near.cloud.unsettled == 20)
    finally:
        far.resume()
    assert [(await there.message()).payload for _ in range(20)] == [
        str(number).encode() for number in range(20)
    ]
    assert [(await here.expect(PUBACK)).packet_id for _ in range(20)] == list(range(1, 21))


async def test_resets_in_mid_stream_lose_nothing_and_keep_the_order(mosquitto, isthmus, proxy):
    """QoS 1 at least once, QoS 2 exactly once, over connections that break every few bytes."""
    far = await mosquitto("max_queued_messages 0", "max_inflight_messages 1000")
    network = await proxy(far.port)
    near = await isthmus(
        bridge(network.port, routes={"out": out("out/#")}, client_id="edge", max_inflight=50)
    )
    await near.connected()
    there = await Raw.client(far.port, "there")
    await there.subscribe("out/#", qos=2)
    here = await near.client("here")
    network.limit = 3000
    count = 300
    for number in range(count):
        here.publish("out/1", str(number), 1)
        here.publish("out/2", str(number), 2)
    acked = recorded = completed = 0
    while acked < count or completed < count:
        got = await here.packet()
        if got.kind == PUBACK:
            acked += 1
        elif got.kind == PUBREC:
            recorded += 1
            here.send(ack_packet(PUBREL, got.packet_id))
        else:
            assert got.kind == PUBCOMP
            completed += 1
    network.limit = None
    await until(lambda: near.cloud.unsettled == 0)
    await here.published("out/end", "", 1)
    seen: dict[str, list[int]] = {"out/1": [], "out/2": []}
    while (got := await there.message()).topic != "out/end":
        seen[got.topic].append(int(got.payload))
    assert network.connections > 3, "the network was not bad enough"
    assert seen["out/2"] == list(range(count))
    firsts = list(dict.fromkeys(seen["out/1"]))
    assert firsts == list(range(count))


async def test_a_stopped_far_side_costs_bounded_memory_and_counts_qos_0(mosquitto, isthmus):
    far: Mosquitto = await mosquitto()
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, unsent_bytes="1MiB"))
    await near.connected()
    here = await near.client("here")
    far.pause()
    try:
        payload = b"x" * 50_000
        for _ in range(400):
            here.publish("out/a", payload)
            await here.writer.drain()
        await here.nothing()
        lane = near.cloud.members[0].lane
        dropped = near.cloud.drops.counts["slow_consumer"]
        assert lane.sent + dropped == 400
        # What the kernel's buffers and ours hold is far below what was sent.
        assert lane.link.unsent + sum(map(len, lane.link.out)) < 3 << 20
    finally:
        far.resume()
    assert await here.published("out/a", "after", 1) in (0, 0x10)


async def test_qos_2_from_the_far_side_arrives_exactly_once_over_resets(mosquitto, isthmus, proxy):
    far = await mosquitto("max_queued_messages 0", "max_inflight_messages 20")
    network = await proxy(far.port)
    near = await isthmus(bridge(network.port, routes={"in": back("in/#")}, client_id="edge"))
    await near.connected()
    here = await near.client("here")
    await here.subscribe("in/#", qos=2)
    there = await Raw.client(far.port, "there")
    network.limit = 150  # CONNECT and acknowledgements
    count = 1000  # 8 bytes of acknowledgements each
    sent = done = 0
    while done < count:
        while sent < count and sent - done < 10:
            there.publish("in/2", str(sent), 2)
            sent += 1
        got = await there.packet()
        if got.kind == PUBREC:
            there.send(ack_packet(PUBREL, got.packet_id))
        else:
            assert got.kind == PUBCOMP
            done += 1
    seen: Counter[int] = Counter()
    while len(seen) < count:
        seen[int((await here.message()).payload)] += 1
    seen.update(int(late.payload) for late in await here.arrived())
    assert list(seen) == list(range(count))
    assert network.connections > 3, "the network was not bad enough"
    twice = {number for number, times in seen.items() if times > 1}
    assert twice <= sent_after_pubrel(far.log.read_text(), "edge")


def sent_after_pubrel(log: str, client: str) -> set[int]:
    """The messages, counted from 0, that Mosquitto sent this client again as if never released.

    Mosquitto 2.0 does that where two connections end one soon after the other: it has sent PUBREL
    (so the identifier is free at the client), and sends the PUBLISH of old once more. Nobody could
    tell that from a new message (MQTT-4.3.3-6 forbids it).
    """
    sendings = re.findall(rf"Sending (PUBREL|PUBLISH) to {client} \((?:d., q., r., )?m(\d+)", log)
    released: set[str] = set()
    again: set[int] = set()
    for kind, packet_id in sendings:
        if kind == "PUBREL":
            released.add(packet_id)
        elif packet_id in released:
            again.add(int(packet_id) - 1)  # its identifiers begin with 1
    return again


async def test_qos_2_on_a_session_of_an_earlier_process_frees_the_identifier_first(isthmus, far):
    """The far side may hold the identifier from before: it would drop a new message under it."""
    # With an id of its own: else the session is begun anew, and none may be there.
    near, there, here = await pair(isthmus, far, client_id="edge", values={"session_present": True})
    here.publish("out/a", "1", 2)
    freed = await there.expect(PUBREL)
    got = await there.expect(PUBLISH)
    assert freed.packet_id == got.packet_id
    there.send(ack_packet(PUBCOMP, freed.packet_id))
    await here.nothing()
    there.send(ack_packet(PUBREC, got.packet_id))
    assert (await there.expect(PUBREL)).packet_id == got.packet_id
    there.send(ack_packet(PUBCOMP, got.packet_id))
    assert (await here.expect(PUBREC)).packet_id == 1
    await until(lambda: not near.cloud.unsettled)


@pytest.mark.parametrize("version", [4, 5])
async def test_qos_2_repeated_before_its_pubrec_disturbs_nobody(isthmus, far, version):
    near, there, here = await pair(isthmus, far, version)
    here.publish("out/a", "1", 2, packet_id=1)
    got = await there.expect(PUBLISH)
    here.send(publish_packet("out/a", "1", 2, packet_id=1, dup=True, version=version))
    await here.nothing()
    there.send(ack_packet(PUBREC, got.packet_id))
    assert (await here.expect(PUBREC)).packet_id == 1
    assert (await here.expect(PUBREC)).packet_id == 1
    assert (await there.expect(PUBREL)).packet_id == got.packet_id
    there.send(ack_packet(PUBCOMP, got.packet_id))
    await until(lambda: not near.cloud.unsettled)
    assert near.cloud.state == "connected"
