"""Sessions of the embedded broker, wills, keep alive, limits."""

from __future__ import annotations

import asyncio
import socket

import pytest

from raw import (
    CONNACK,
    DISCONNECT,
    PINGRESP,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    UNSUBACK,
    Raw,
    ack_packet,
    connect_packet,
    packet,
    properties,
    publish_packet,
    text,
    until,
    within,
)

VERSIONS = [3, 4, 5]


async def gone(near, count: int = 0) -> None:
    await until(lambda: near.app.broker.connected == count)


def kept(version: int, seconds: int = 60) -> dict:
    return {"clean": False} | ({"session_expiry": seconds} if version == 5 else {})


# -- several packets at once ---------------------------------------------------------------------


@pytest.mark.both_loops
@pytest.mark.parametrize("version", VERSIONS)
async def test_mqtt_3_1_4_5_a_whole_life_in_one_segment(isthmus, version):
    """Small devices send CONNECT, PUBLISH and DISCONNECT at once, without waiting for CONNACK."""
    near = await isthmus()
    listening = await near.client("listening")
    await listening.subscribe("t", qos=1)
    raw = await Raw.open(near.port, version)
    raw.send(
        connect_packet("brief", version),
        publish_packet("t", "hello", 0, version=version),
        publish_packet("t", "there", 1, 1, version=version),
        packet(0xE0),
    )
    assert (await raw.expect(CONNACK)).code == 0
    await raw.closed()
    assert [(await listening.message()).payload for _ in range(2)] == [b"hello", b"there"]
    await gone(near, 1)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_normal_end_in_one_segment_drops_the_will(isthmus, version):
    near = await isthmus()
    listening = await near.client("listening")
    await listening.subscribe("will")
    raw = await Raw.open(near.port, version)
    raw.send(connect_packet("brief", version, will=("will", "x", 0, False)), packet(0xE0))
    await raw.closed()
    await gone(near, 1)
    await listening.nothing()


@pytest.mark.parametrize("version", VERSIONS)
async def test_requests_just_before_disconnect_do_no_harm(isthmus, version, caplog):
    near = await isthmus()
    for request in (
        packet(0x82, b"\0\1" + (b"\0" if version == 5 else b"") + text("a") + b"\1"),
        packet(0xA2, b"\0\1" + (b"\0" if version == 5 else b"") + text("a")),
        packet(0xC0),
        publish_packet("a", "x", 1, 5, version=version),
        publish_packet("a", "x", 2, 5, version=version),
    ):
        raw = await near.client("brief", version)
        raw.send(request, packet(0xE0))
        await raw.closed()
    await gone(near)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert not near.app.broker.refusals


async def test_mqtt_3_1_4_5_subscribing_before_connack(isthmus):
    near = await isthmus()
    raw = await Raw.open(near.port)
    raw.send(connect_packet("x"), packet(0x82, b"\0\1\0" + text("t") + b"\1"))
    raw.send(publish_packet("t", "own", 1, 2))
    assert (await raw.expect(CONNACK)).code == 0
    assert (await raw.expect(SUBACK)).codes == [1]
    assert {(await raw.packet()).kind for _ in range(2)} == {PUBLISH, PUBACK}


# -- kept sessions -------------------------------------------------------------------------------


@pytest.mark.both_loops
@pytest.mark.parametrize("version", VERSIONS)
async def test_mqtt_3_1_2_5_a_kept_session_gets_what_it_missed(isthmus, version):
    near = await isthmus()
    publisher = await near.client("publisher")
    raw = await near.client("kept", version, **kept(version))
    await raw.subscribe("t/#", qos=2)
    raw.send(packet(0xE0))
    await raw.closed()
    for number in range(6):
        await publisher.published(f"t/{number}", str(number), number % 3)
    raw = await near.client("kept", version, **kept(version))
    # MQTT 3.1 has no such flag.
    assert raw.hello.session_present == (version > 3)
    got = [await raw.message() for _ in range(4)]
    assert [found.payload for found in got] == [b"1", b"2", b"4", b"5"]
    assert not any(found.dup for found in got)
    await publisher.published("t/x", "live", 1)
    assert (await raw.message()).payload == b"live"


@pytest.mark.parametrize("version", VERSIONS)
async def test_mqtt_3_1_2_6_a_clean_session_forgets(isthmus, version):
    near = await isthmus()
    raw = await near.client("kept", version, **kept(version))
    await raw.subscribe("t", qos=1)
    raw.close()
    await gone(near)
    raw = await near.client("kept", version)
    assert not raw.hello.session_present
    publisher = await near.client("publisher")
    await publisher.published("t", "x", 1)
    await raw.nothing()


@pytest.mark.both_loops
@pytest.mark.parametrize("version", [4, 5])
async def test_mqtt_4_4_0_1_unacknowledged_messages_come_again(isthmus, version):
    """Same identifiers, DUP, in order; a QoS 2 message that was recorded only gets its PUBREL."""
    near = await isthmus()
    publisher = await near.client("publisher")
    raw = await near.client("kept", version, **kept(version))
    await raw.subscribe("t", qos=2)
    for number, qos in enumerate((1, 2, 2, 1)):
        await publisher.published("t", str(number), qos)
    first = [await raw.expect(PUBLISH) for _ in range(4)]
    raw.send(ack_packet(PUBREC, first[1].packet_id))
    await raw.expect(PUBREL)
    raw.send(ack_packet(PUBACK, first[0].packet_id))
    await raw.nothing()
    raw.reset()
    await gone(near, 1)
    await publisher.published("t", "new", 1)
    raw = await near.client("kept", version, **kept(version))
    assert (await raw.expect(PUBREL)).packet_id == first[1].packet_id
    for old in first[2:]:
        again = await raw.expect(PUBLISH)
        assert (again.packet_id, again.payload, again.dup) == (old.packet_id, old.payload, True)
    new = await raw.expect(PUBLISH)
    assert (new.payload, new.dup) == (b"new", False)
    raw.send(ack_packet(PUBCOMP, first[1].packet_id))
    await raw.nothing()


async def test_mqtt_4_3_3_qos_2_is_exactly_once_for_a_publisher_that_reconnects(isthmus):
    near = await isthmus()
    listening = await near.client("listening")
    await listening.subscribe("t", qos=2)
    raw = await near.client("kept", **kept(5))
    raw.publish("t", "once", 2, packet_id=3)
    await raw.expect(PUBREC)
    raw.reset()
    await gone(near, 1)
    raw = await near.client("kept", **kept(5))
    raw.publish("t", "once", 2, packet_id=3, dup=True)
    assert (await raw.expect(PUBREC)).code == 0
    for code in (0, 0x92):  # the second PUBREL finds nothing any more
        raw.send(ack_packet(PUBREL, 3))
        assert (await raw.expect(PUBCOMP)).code == code
    assert (await listening.message()).payload == b"once"
    await listening.nothing()


async def test_a_session_in_another_version(isthmus):
    """What waits from MQTT 5 is delivered to the same client in 3.1.1, and the other way."""
    near = await isthmus()
    publisher = await near.client("publisher")
    raw = await near.client("kept", 5, **kept(5))
    await raw.subscribe("t", qos=1)
    await publisher.published("t", "1", 1, content_type="text")
    assert (await raw.expect(PUBLISH)).properties == {"content_type": "text"}
    raw.reset()
    await gone(near, 1)
    await publisher.published("t", "2", 1, content_type="text")
    raw = await near.client("kept", 4, clean=False)
    assert [(await raw.expect(PUBLISH)).payload for _ in range(2)] == [b"1", b"2"]
    raw.reset()
    await gone(near, 1)
    raw = await near.client("kept", 5, **kept(5))
    again = await raw.expect(PUBLISH)
    assert (again.payload, again.dup) == (b"1", True)


# -- session expiry ------------------------------------------------------------------------------


async def test_mqtt_3_1_2_23_a_session_expires(isthmus):
    near = await isthmus()
    for expiry, alive in ((1, False), (60, True)):
        raw = await near.client(f"for-{expiry}", **kept(5, expiry))
        await raw.subscribe("t", qos=1)
        raw.close()
        await gone(near)
        if not alive:
            await until(lambda: not near.app.broker.sessions, 3)
        raw = await near.client(f"for-{expiry}", **kept(5, expiry))
        assert raw.hello.session_present == alive
        raw.close()
        await gone(near)


async def test_a_session_without_expiry_ends_with_its_connection(isthmus):
    """MQTT 5, 3.1.2.11.2: absent means 0, whatever clean start says."""
    near = await isthmus()
    raw = await near.client("x", clean=False)
    raw.close()
    await gone(near)
    assert not (await near.client("x", clean=False)).hello.session_present


async def test_disconnect_changes_the_session_expiry(isthmus):
    near = await isthmus()
    raw = await near.client("x", session_expiry=60)
    raw.send(packet(0xE0, b"\0" + properties(session_expiry=0)))
    await raw.closed()
    assert not near.app.broker.sessions
    raw = await near.client("x", session_expiry=1)
    raw.send(packet(0xE0, b"\0" + properties(session_expiry=1000)))
    await raw.closed()
    await gone(near)
    assert near.app.broker.sessions["x"].expiry_s == 1000


async def test_the_broker_shortens_the_session_expiry_and_says_so(isthmus):
    """MQTT-3.2.2-... : CONNACK names the interval that is used."""
    near = await isthmus({"broker": {"max_session_expiry": "10m"}})
    raw = await near.client("x", session_expiry=0xFFFFFFFF)
    assert raw.hello.properties["session_expiry"] == 600
    raw = await near.client("y", session_expiry=60)
    assert "session_expiry" not in raw.hello.properties


async def test_expired_messages_are_not_delivered_and_others_have_aged(isthmus):
    """MQTT-3.3.2-5, MQTT-3.3.2-6."""
    near = await isthmus()
    raw = await near.client("kept", **kept(5))
    await raw.subscribe("t", qos=1)
    raw.close()
    await gone(near)
    publisher = await near.client("publisher")
    await publisher.published("t", "short", 1, expiry=1)
    await publisher.published("t", "long", 1, expiry=100)
    await publisher.published("t", "last", 1)
    await asyncio.sleep(1.1)  # time itself is what is tested
    raw = await near.client("kept", **kept(5))
    found = await raw.message()
    assert found.payload == b"long"
    assert 97 <= found.properties["expiry"] <= 99
    assert (await raw.message()).payload == b"last"
    assert near.app.broker.drops.counts == {"expired": 1}


# -- take-over -----------------------------------------------------------------------------------


@pytest.mark.both_loops
@pytest.mark.parametrize("version", VERSIONS)
async def test_mqtt_3_1_4_3_the_older_connection_is_closed(isthmus, version):
    near = await isthmus()
    old = await near.client("same", version, **kept(version))
    await old.subscribe("t", qos=1)
    new = await near.client("same", version, **kept(version))
    assert new.hello.session_present == (version > 3)
    if version == 5:
        assert (await old.expect(DISCONNECT)).code == 0x8E
    assert await old.closed() == b""
    await new.published("u", "x", 0)
    assert near.app.broker.connected == 1


async def test_what_was_in_flight_to_the_older_connection_goes_to_the_newer(isthmus):
    near = await isthmus()
    publisher = await near.client("publisher")
    old = await near.client("same", **kept(5))
    await old.subscribe("t", qos=1)
    await publisher.published("t", "x", 1)
    first = await old.expect(PUBLISH)
    new = await near.client("same", **kept(5))
    again = await new.expect(PUBLISH)
    assert (again.packet_id, again.dup) == (first.packet_id, True)


async def test_nobody_takes_over_another_users_session(isthmus, tmp_path):
    from isthmus.auth.passwords import create_entry

    users = "".join(create_entry(name, b"pw", iterations=101) + "\n" for name in ("anna", "bert"))
    (tmp_path / "users").write_text(users)
    near = await isthmus({"auth": {"password_file": str(tmp_path / "users")}})
    own = await near.client("same", username="anna", password="pw", **kept(5))
    raw = await Raw.open(near.port)
    raw.send(connect_packet("same", username="bert", password="pw"))
    assert (await raw.expect(CONNACK)).code in (0x85, 0x87)
    await own.nothing()
    assert near.app.broker.connected == 1


async def test_a_thousand_take_overs_leave_one_client(isthmus):
    near = await isthmus()
    for _ in range(200):
        raw = await near.client("same", session_expiry=5)
    await raw.nothing()
    assert (near.app.broker.connected, len(near.app.broker.sessions)) == (1, 1)


# -- client ids ----------------------------------------------------------------------------------


async def test_mqtt_3_1_3_6_and_7_a_client_without_an_id_gets_one(isthmus):
    near = await isthmus()
    names = set()
    for _ in range(2):
        raw = await near.client("")
        names.add(raw.hello.properties["assigned_id"])
    assert len(names) == 2
    assert (await near.client("", 4)).hello.properties == {}


# -- wills ---------------------------------------------------------------------------------------


@pytest.mark.both_loops
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("end", ["reset", "close", "malformed", "disconnect", "take-over"])
async def test_mqtt_3_1_2_8_and_10_a_will_is_published_unless_disconnect_came(
    isthmus, version, end
):
    near = await isthmus()
    listening = await near.client("listening")
    await listening.subscribe("will/#", qos=2, options=0x08)
    how = {"will": ("will/x", "gone", 1, True)}
    if version == 5:
        how["will_properties"] = {"content_type": "t", "user": [("a", "b")]}
    raw = await near.client("mortal", version, **how)
    if end == "reset":
        raw.reset()
    elif end == "close":
        raw.close()
    elif end == "malformed":
        raw.send(b"\0\0")
    elif end == "disconnect":
        raw.send(packet(0xE0))
    else:
        raw = await near.client("mortal", version)
    if end == "disconnect":
        await raw.closed()
        await gone(near, 1)
        await listening.nothing()
        return
    found = await listening.message()
    assert (found.topic, found.payload, found.qos, found.retain) == ("will/x", b"gone", 1, True)
    expected = {"content_type": "t", "user": [("a", "b")]} if version == 5 else {}
    assert found.properties == expected
    late = await near.client("late")
    await late.subscribe("will/x")
    assert (await late.message()).retain


async def test_mqtt_3_14_4_3_disconnect_with_will(isthmus):
    near = await isthmus()
    listening = await near.client("listening")
    await listening.subscribe("will")
    raw = await near.client("mortal", will=("will", "on purpose", 0, False))
    raw.send(packet(0xE0, b"\x04"))
    assert (await listening.message()).payload == b"on purpose"


@pytest.mark.alone
async def test_mqtt_3_1_3_9_a_will_waits_for_its_delay(isthmus):
    near = await isthmus()
    listening = await near.client("listening")
    await listening.subscribe("will")
    how = {"will": ("will", "x", 0, False), "will_properties": {"will_delay": 1}}
    raw = await near.client("mortal", session_expiry=60, **how)
    loop = asyncio.get_running_loop()
    raw.reset()
    start = loop.time()
    await gone(near, 1)
    await listening.nothing()
    await listening.message()
    assert 0.8 <= loop.time() - start <= 1.8


async def test_mqtt_3_1_3_9_a_client_that_is_back_in_time_has_no_will(isthmus):
    near = await isthmus()
    listening = await near.client("listening")
    await listening.subscribe("will")
    how = {"will": ("will", "x", 0, False), "will_properties": {"will_delay": 1}}
    raw = await near.client("mortal", session_expiry=60, **how)
    raw.reset()
    await gone(near, 1)
    await near.client("mortal", clean=False, session_expiry=60)
    assert near.app.broker.sessions["mortal"].will is None
    await asyncio.sleep(1.2)  # the delay would be over
    await listening.nothing()


@pytest.mark.parametrize("how", ["expiry", "clean"])
async def test_mqtt_3_1_2_8_the_end_of_the_session_releases_a_delayed_will(isthmus, how):
    near = await isthmus()
    listening = await near.client("listening")
    await listening.subscribe("will")
    values = {"will": ("will", "x", 0, False), "will_properties": {"will_delay": 1000}}
    expiry = 0 if how == "expiry" else 60
    raw = await near.client("mortal", session_expiry=expiry, **values)
    raw.reset()
    await gone(near, 1)
    if how == "clean":
        await listening.nothing()
        await near.client("mortal", clean=True)
    assert (await listening.message()).payload == b"x"


# -- keep alive ----------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.both_loops
@pytest.mark.parametrize("version", [4, 5])
async def test_mqtt_3_1_2_22_one_and_a_half_keep_alive_times(isthmus, version):
    near = await isthmus()
    listening = await near.client("listening")
    await listening.subscribe("will")
    loop = asyncio.get_running_loop()
    start = loop.time()
    raw = await near.client("silent", version, keep_alive=1, will=("will", "x", 0, False))
    if version == 5:
        assert (await raw.expect(DISCONNECT)).code == 0x8D
    await raw.closed()
    assert 1.4 <= loop.time() - start <= 2.0
    assert (await listening.message()).payload == b"x"


async def test_packets_keep_a_client_alive_and_half_packets_do_not(isthmus):
    near = await isthmus()
    alive = await near.client("alive", keep_alive=1)
    dying = await near.client("dying", keep_alive=1)
    for _ in range(5):
        alive.send(packet(0xC0))
        assert (await alive.expect(PINGRESP)).kind
        dying.send(b"\x30" if _ == 0 else b"\x7f" if _ == 1 else b"x")
        await asyncio.sleep(0.4)
    assert (await dying.expect(DISCONNECT)).code == 0x8D
    await alive.nothing()


# -- windows and sizes ---------------------------------------------------------------------------


async def test_mqtt_3_3_4_9_no_more_in_flight_than_the_client_takes(isthmus):
    near = await isthmus()
    raw = await near.client("small", receive_maximum=2)
    await raw.subscribe("t", qos=2)
    publisher = await near.client("publisher")
    for number in range(6):
        await publisher.published("t", str(number), 1 + number % 2)
    seen = []
    first, second = await raw.expect(PUBLISH), await raw.expect(PUBLISH)
    await raw.nothing()
    raw.send(ack_packet(PUBACK, first.packet_id), ack_packet(PUBREC, second.packet_id))
    assert {(await raw.packet()).kind for _ in range(2)} == {PUBLISH, PUBREL}
    await raw.nothing()  # PUBREC alone makes no room
    raw.send(ack_packet(PUBCOMP, second.packet_id))
    seen.append((await raw.expect(PUBLISH)).payload)
    await raw.nothing()


async def test_mqtt_3_3_4_7_more_than_our_receive_maximum_is_closed_with_0x93(isthmus, far):
    from running import bridge, out

    configuration = bridge(far.port, routes={"out": out("out")})
    near = await isthmus({**configuration, "broker": {"receive_maximum": 5}})
    _there, _ = await far.client()
    raw = await near.client("eager")
    assert raw.hello.properties["receive_maximum"] == 5
    for number in range(1, 6):
        raw.publish("out", "x", 1, packet_id=number)
    await raw.nothing()
    raw.publish("out", "x", 1, packet_id=6)
    assert (await raw.expect(DISCONNECT)).code == 0x93


async def test_an_mqtt_3_publisher_that_only_publishes_is_paused_and_goes_on(isthmus, far):
    """It was told no limit: the far side's silence stops reading, nothing is lost."""
    from running import bridge, out

    configuration = bridge(far.port, routes={"out": out("out")})
    near = await isthmus({**configuration, "broker": {"receive_maximum": 5}})
    there, _ = await far.client()
    raw = await near.client("eager", 4)
    for number in range(1, 9):
        raw.publish("out", str(number), 1, packet_id=number)
        await raw.writer.drain()
        await asyncio.sleep(0.01)  # each in a read of its own
    client = near.app.broker.sessions["eager"].client
    assert client.paused
    for number in range(1, 9):
        got = await there.expect(PUBLISH)
        assert got.payload == str(number).encode()
        there.send(ack_packet(PUBACK, got.packet_id))
    assert [(await raw.expect(PUBACK)).packet_id for _ in range(8)] == list(range(1, 9))
    assert not client.paused


async def test_mqtt_3_1_2_24_a_client_gets_no_packet_above_its_maximum(isthmus):
    near = await isthmus()
    raw = await near.client("small", maximum_packet=60)
    await raw.subscribe("t", qos=2)
    publisher = await near.client("publisher")
    for qos in (0, 1, 2):
        assert await publisher.published("t", b"x" * 100, qos) == 0
        await publisher.published("t", f"small {qos}", qos)
    for qos in (0, 1, 2):
        assert (await raw.message()).payload == f"small {qos}".encode()
    assert near.app.broker.drops.counts == {"too_large": 3}


async def test_a_slow_session_is_bounded_and_says_what_it_lost(isthmus):
    near = await isthmus({"broker": {"limits": {"queued_messages": 5}}})
    raw = await near.client("away", **kept(5))
    await raw.subscribe("t", qos=1)
    raw.close()
    await gone(near)
    publisher = await near.client("publisher")
    for number in range(8):
        assert await publisher.published("t", str(number), 1) == 0
    assert near.app.broker.drops.counts == {"queue_full": 3}
    raw = await near.client("away", **kept(5))
    assert [(await raw.message()).payload for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_reader_that_stops_loses_qos_0_and_nobody_else_waits(isthmus):
    near = await isthmus(
        {"broker": {"limits": {"unsent_bytes": "64KiB"}, "max_packet_size": "1MiB"}}
    )
    stuck = await near.client("stuck")
    await stuck.subscribe("t")
    stuck.reader._transport.pause_reading()
    fine = await near.client("fine")
    await fine.subscribe("t")
    publisher = await near.client("publisher")
    payload = b"x" * 60_000
    for _ in range(300):
        publisher.publish("t", payload)
        await fine.expect(PUBLISH)
    await publisher.nothing()
    assert near.app.broker.drops.counts["slow_consumer"] > 0
    stuck.reader._transport.resume_reading()


async def test_a_reader_that_stops_loses_messages_and_never_an_answer(isthmus):
    """Limits of what waits are for messages alone; SUBACK, UNSUBACK and PINGRESP come."""
    near = await isthmus(
        {
            "broker": {
                "limits": {"unsent_bytes": "64KiB", "queued_messages": 5},
                "max_packet_size": "1MiB",
            }
        }
    )
    stuck = await near.client("stuck")
    await stuck.subscribe("zero")
    await stuck.subscribe("one", qos=1)
    stuck.reader._transport.pause_reading()
    publisher = await near.client("publisher")
    for _ in range(300):
        publisher.publish("zero", b"x" * 60_000)
        publisher.publish("one", b"x" * 6_000, 1)
    drops = near.app.broker.drops.counts
    await until(lambda: "slow_consumer" in drops and "queue_full" in drops)
    body = b"\0\x21\0"
    stuck.send(packet(0x82, body + text("more") + b"\0"))
    stuck.send(packet(0xA2, b"\0\x22\0" + text("one")), packet(0xC0))
    stuck.reader._transport.resume_reading()
    answers = []
    while len(answers) < 3:
        found = await stuck.packet()
        if found.kind == PUBLISH and found.qos:
            stuck.send(ack_packet(PUBACK, found.packet_id))
        elif found.kind != PUBLISH:
            answers.append((found.kind, found.packet_id))
    assert answers == [(SUBACK, 0x21), (UNSUBACK, 0x22), (PINGRESP, 0)]


async def test_a_client_that_reads_no_answers_is_not_read_until_it_does(isthmus):
    """PUBACKs that nobody reads must not pile up: receive maximum does not count them."""
    near = await isthmus({"broker": {"limits": {"unsent_bytes": "64KiB"}}})
    fine = await near.client("fine")
    stuck = await near.client("stuck", 4)
    stuck.reader._transport.pause_reading()
    batch = b"".join(publish_packet("t", "", 1, packet_id=n, version=4) for n in range(1, 1001))
    link = near.app.broker.sessions["stuck"].lane.link
    # What the system holds for both sides comes on top, which is megabytes unless it is told.
    link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    stuck.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    sent = 0
    while not link.paused:
        stuck.send(batch)
        sent += 1000
        await asyncio.sleep(0)
        await fine.nothing()
        assert sent < 10_000_000
    assert link.unsent + 64 * len(link.out) < 1 << 20
    stuck.reader._transport.resume_reading()
    for _ in range(sent):
        await stuck.expect(PUBACK)
    await stuck.nothing()


# -- $SYS ----------------------------------------------------------------------------------------


async def test_sys_topics(isthmus):
    near = await isthmus({"broker": {"sys_interval": "100ms"}})
    raw = await near.client("x")
    await raw.subscribe("#")
    await raw.nothing()  # MQTT-4.7.2-1: a leading wildcard does not see them
    await raw.subscribe("$SYS/broker/#")
    first = {found.topic: found.payload for found in await raw.arrived()}
    assert first["$SYS/broker/version"].startswith(b"isthmus version ")
    assert {topic.removeprefix("$SYS/broker/") for topic in first} >= {
        "uptime", "clients/connected", "clients/total", "subscriptions/count",
        "publish/messages/received", "publish/messages/sent", "retained messages/count",
    }  # fmt: skip
    another = await near.client("another")

    async def connected(count: bytes) -> None:
        while True:
            found = await raw.message()
            if (found.topic, found.payload) == ("$SYS/broker/clients/connected", count):
                return

    await within(connected(b"2"))
    raw = another
    assert await raw.published("$SYS/broker/uptime", "1", 1) == 0x87
    assert await raw.published("$SYS/broker/connection/edge/state", "1", 1) == 0


async def test_no_sys_topics(isthmus):
    near = await isthmus({"broker": {"sys_interval": 0}})
    raw = await near.client("x")
    await raw.subscribe("$SYS/#")
    await raw.nothing()


# -- stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_stop_says_goodbye(isthmus, version):
    near = await isthmus()
    raw = await near.client("x", version)
    await near.app.stop()
    if version == 5:
        assert (await raw.expect(DISCONNECT)).code == 0x8B
    assert await raw.closed() == b""


async def test_unsubscribing(isthmus):
    """MQTT-3.10.4-*: answered even if nothing was subscribed; nothing comes after it."""
    near = await isthmus()
    raw = await near.client("x")
    await raw.subscribe("a", "b/+", qos=1)
    assert await raw.unsubscribe("b/+", "c", "a") == [0, 0x11, 0]
    raw.publish("a", "x", 0)
    raw.publish("b/c", "x", 0)
    await raw.nothing()
    old = await near.client("y", 4)
    old.send(packet(0xA2, b"\0\x05" + text("never")))
    assert (await old.expect(UNSUBACK)).packet_id == 5
