"""Several addresses: which is used when, and when a backup is left."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

from isthmus.delivery import backlog, logged_ids
from mosquitto import free_port
from raw import (
    CONNECT,
    DISCONNECT,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    UNSUBSCRIBE,
    FarSide,
    Raw,
    ack_packet,
    grant,
    packet,
    parse_hello,
    until,
)
from running import QUICK, Isthmus, back, bridge, out

SOON = {"every": "100ms", "successes": 3}


@pytest_asyncio.fixture
async def backup():
    side = FarSide()
    await side.start()
    yield side
    await side.stop()


def two(first: int, second: int, **how):
    return bridge(
        0, routes={"out": out("out/#")}, url=[f"127.0.0.1:{first}", f"127.0.0.1:{second}"],
        client_id="me", failback=SOON, **how,
    )  # fmt: skip


async def test_the_first_address_is_used_while_it_works(isthmus, far, backup):
    at_once = {**QUICK, "stable": "1ms"}
    near = await isthmus(two(far.port, backup.port, reconnect=at_once))
    there, _ = await far.client()
    await near.connected()
    there.close()
    await far.client()
    await until(lambda: near.status()["connects"] == 2)
    assert backup._accepted.empty()


async def test_a_backup_is_left_after_several_connacks_of_the_first(isthmus, far, backup):
    port = far.port
    far.stop_listening()
    near = await isthmus(two(port, backup.port))
    there, hello = await backup.client()
    assert hello.client_id == "me"
    await near.connected()
    assert near.status()["address"] == f"mqtt://127.0.0.1:{backup.port}"
    await far.start()
    seen = []
    for code in (0, 0, 0x88, 0, 0, 0):
        probe, hello = await far.client(code=code)
        seen.append(hello.client_id)
        assert hello.clean
        assert "session_expiry" not in hello.properties
        if not code:
            assert (await probe.expect(DISCONNECT)).code == 0
            assert len(seen) == 6 or near.status()["address"].endswith(str(backup.port))
    # A refusal in between starts the count anew; the id is not that of the connection.
    assert set(seen) == {"me-probe"}
    assert (await there.expect(DISCONNECT)).code == 0
    _, hello = await far.client()
    assert (hello.client_id, hello.clean) == ("me", False)
    await near.connected()
    assert near.status()["address"] == f"mqtt://127.0.0.1:{port}"


async def test_what_one_address_was_not_told_to_unsubscribe_it_is_told_later(isthmus, far, backup):
    """Each address has a session of its own."""
    configuration = two(far.port, backup.port)
    configuration["routes"]["in"] = back("a", "b")
    near = await isthmus(configuration)
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    near.cloud.unsubscribe(b"a", near.app.tables["cloud"])
    await there.expect(UNSUBSCRIBE)  # and no answer
    far.stop_listening()
    there.reset()
    other, _ = await backup.client(session_present=True)
    assert [name for name, _ in await grant(other)] == ["b"]
    await near.connected()
    await far.start()
    for _ in range(SOON["successes"]):
        await far.client()
    there, hello = await far.client(session_present=True)
    assert hello.client_id == "me"
    assert (await there.expect(UNSUBSCRIBE)).body.endswith(b"\0\1a")
    assert [name for name, _ in await grant(there)] == ["b"]


async def test_an_open_port_without_connack_is_no_reason_to_leave(isthmus, far, backup):
    port = far.port
    far.stop_listening()
    near = await isthmus(two(port, backup.port, connect_timeout="300ms"))
    await backup.client()
    await near.connected()
    await far.start()
    for _ in range(4):
        raw = await far.accept()
        await raw.expect(CONNECT)
        raw.close()
    assert near.status()["state"] == "connected"
    assert near.status()["connects"] == 1


async def test_round_robin_stays_on_what_works(isthmus, far, backup):
    port = far.port
    far.stop_listening()
    near = await isthmus(two(port, backup.port, round_robin=True))
    await backup.client()
    await near.connected()
    await far.start()
    await asyncio.sleep(0.5)  # five times as long as the first address would be tried after
    assert far._accepted.empty()
    assert near.status()["connects"] == 1


async def test_the_version_that_one_address_refuses_is_used_at_the_other(isthmus, far, backup):
    port = far.port
    far.stop_listening()
    near = await isthmus(two(port, backup.port))
    levels = []
    for _ in range(2):
        raw = await backup.accept()
        levels.append(parse_hello((await raw.expect(CONNECT)).body).level)
        raw.send(packet(0x20, b"\0\x01"))
        raw.close()
    there, hello = await backup.client()
    assert [*levels, hello.level] == [5, 0x84, 4]
    await near.connected()
    await far.start()
    await asyncio.sleep(0)
    there.close()
    _, hello = await far.client()
    assert hello.version == 5


@pytest.mark.parametrize("present", [True, False])
async def test_what_was_on_its_way_to_one_address_is_new_at_the_other(
    isthmus, far, backup, present
):
    """An old session there may hold the same packet identifiers for other messages."""
    near = await isthmus(two(far.port, backup.port))
    there, _ = await far.client()
    here = await near.client("here")
    here.publish("out/1", "one", 1)
    here.publish("out/2", "two", 2)
    first, second = await there.expect(PUBLISH), await there.expect(PUBLISH)
    far.stop_listening()
    there.close()
    there, _ = await backup.client(session_present=present)
    again = await there.expect(PUBLISH)
    assert (again.payload, again.qos, again.dup) == (b"one", 1, False)
    there.send(ack_packet(PUBACK, again.packet_id))
    if present:
        # The identifier is freed before it is used for a message that must come once.
        freed = await there.expect(PUBREL)
        third = await there.expect(PUBLISH)
        assert freed.packet_id == third.packet_id
    else:
        third = await there.expect(PUBLISH)
    assert (third.payload, third.qos, third.dup) == (b"two", 2, False)
    assert (first.payload, second.payload) == (b"one", b"two")


@pytest.mark.parametrize("folder", [True, False])
async def test_what_a_service_took_and_did_not_pass_on_is_not_lost(
    isthmus, far, backup, tmp_path, folder
):
    """It may pass a QoS 2 message on when PUBREL comes (MQTT 5, 4.3.3), and none ever came."""
    data = {"broker": {"data": str(tmp_path / "data")}} if folder else {}
    near = await isthmus({**two(far.port, backup.port), **data})
    there, _ = await far.client()
    here = await near.client("here")
    here.publish("out/1", "one", 2)
    sent = await there.expect(PUBLISH)
    far.stop_listening()
    there.send(ack_packet(PUBREC, sent.packet_id))
    there.close()
    there, _ = await backup.client()
    if folder:
        again = await there.expect(PUBLISH)
        assert (again.payload, again.qos, again.dup) == (b"one", 2, False)
        assert near.cloud.members[0].lane.resent == 1
        there.send(ack_packet(PUBREC, again.packet_id))
        await there.expect(PUBREL)
        there.send(ack_packet(PUBCOMP, again.packet_id))
        await until(lambda: not near.cloud.stored)
    await far.start()
    for _ in range(3):
        await far.client()  # of the look whether it is back
    await there.expect(DISCONNECT)
    there, _ = await far.client(session_present=True)
    await until(lambda: near.status()["connects"] == 3)
    backup.stop_listening()
    there.reset()  # before PUBREL is read
    there, _ = await far.client(session_present=True)
    assert (await there.expect(PUBREL)).packet_id == sent.packet_id
    there.send(ack_packet(PUBCOMP, sent.packet_id))
    await until(lambda: near.cloud.members[0].lane.freed)
    there.reset()
    there, _ = await far.client(session_present=True)
    await near.connected()
    here.publish("out/1", "two", 1)
    assert (await there.expect(PUBLISH)).payload == b"two"


async def test_what_two_departures_left_at_a_service_is_freed(isthmus, far, backup):
    """What the first left, and has no PUBCOMP yet, is not forgotten at the second."""
    near = await isthmus(two(far.port, backup.port, round_robin=True))
    here = await near.client("here")
    there, _ = await far.client()
    left: list[int] = []
    for payload in ("one", "two"):
        here.publish("out/1", payload, 2)
        if left:  # an identifier is freed before its first use in an old session
            await there.expect(PUBREL)
        sent = await there.expect(PUBLISH)
        assert sent.payload == payload.encode()
        left.append(sent.packet_id)
        there.send(ack_packet(PUBREC, sent.packet_id))
        assert (await there.expect(PUBREL)).packet_id == sent.packet_id
        far.stop_listening()
        there.reset()
        other, _ = await backup.client()
        await near.connected()
        await far.start()
        backup.stop_listening()
        other.reset()
        there, _ = await far.client(session_present=True)
        assert [(await there.expect(PUBREL)).packet_id for _ in left] == left
        await backup.start()
    assert left[0] != left[1]


@pytest.mark.parametrize("folder", [True, False])
async def test_an_address_is_the_same_service_whatever_is_written_beside_it(
    isthmus, far, backup, tmp_path, folder
):
    """A reload that only adds or reorders addresses leaves the session there as it is."""
    always = {"listeners": [{"bind": f"127.0.0.1:{free_port()}"}]}
    if folder:
        always["broker"] = {"data": str(tmp_path / "data")}
    routes = {"out": out("out/#"), "in": back("in/#")}
    near = await isthmus({**bridge(far.port, routes=routes, client_id="me"), **always})
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    here = await near.client("here")
    await here.subscribe("in/#", qos=2)
    came = there.publish("in/1", "from there", 2)
    assert (await here.message()).payload == b"from there"
    await there.expect(PUBREC)  # and no PUBREL
    here.publish("out/1", "one", 2)
    sent = await there.expect(PUBLISH)
    there.send(ack_packet(PUBREC, sent.packet_id))
    assert (await there.expect(PUBREL)).packet_id == sent.packet_id  # and no PUBCOMP
    urls = [f"127.0.0.1:{far.port}", f"127.0.0.1:{backup.port}"]
    backup.stop_listening()
    for url in (urls, [urls[1], urls[0]]):
        reload = asyncio.create_task(
            near.reload({**bridge(0, url=url, routes=routes, client_id="me"), **always})
        )
        await there.expect(DISCONNECT)
        there, _ = await far.client(session_present=True)
        await reload
        # Neither SUBSCRIBE nor PUBLISH before or behind it.
        assert (await there.expect(PUBREL)).packet_id == sent.packet_id
        await near.connected()
        there.publish("in/1", "from there", 2, packet_id=came, dup=True)
        assert (await there.expect(PUBREC)).packet_id == came
        assert PUBLISH not in {one.kind for one in await here.arrived()}
    if folder:
        outbox = near.cloud.members[0].lane.outbox
        assert outbox.log.begun == logged_ids.PeerSession.NEW


async def test_a_backup_is_left_when_what_is_on_its_way_has_settled(isthmus, far, backup):
    port = far.port
    far.stop_listening()
    near = await isthmus(two(port, backup.port))
    there, _ = await backup.client()
    await near.connected()
    assert near.cloud.figures.read()["connections_on_backup"] == 1
    here = await near.client("here")
    here.publish("out/1", "one", 2)
    sent = await there.expect(PUBLISH)
    await far.start()
    for _ in range(3):
        await far.client()  # of the look whether it is back
    await until(lambda: not near.cloud.members[0].lane.room)
    here.publish("out/1", "two", 2)
    there.send(ack_packet(PUBREC, sent.packet_id))
    await there.expect(PUBREL)
    there.send(ack_packet(PUBCOMP, sent.packet_id))
    await there.expect(DISCONNECT)
    there, _ = await far.client()
    assert (await there.expect(PUBLISH)).payload == b"two"


async def test_a_lane_does_not_rest_for_ever_where_the_return_is_cut_short(isthmus, far, backup):
    port = far.port
    far.stop_listening()
    near = await isthmus(two(port, backup.port))
    there, _ = await backup.client()
    here = await near.client("here")
    here.publish("out/1", "one", 2)
    await there.expect(PUBLISH)
    await far.start()
    for _ in range(3):
        await far.client()  # of the look whether it is back
    await until(lambda: not near.cloud.members[0].lane.room)
    await near.cloud._failback.stop()  # as a reload does
    await there.expect(DISCONNECT)
    there, _ = await far.client()
    assert (await there.expect(PUBLISH)).payload == b"one"


class Service:
    """A service that keeps its session and what it holds of QoS 2 in it; see `serve`."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.got: list[str] = []

    async def serve(self, there: Raw) -> None:
        """Take every message to the end of its exchange, for ever."""
        while True:
            packet = await there._read()
            if packet.kind == PUBLISH:
                if packet.packet_id not in self.held:
                    self.held.add(packet.packet_id)
                    self.got.append(packet.payload.decode())
                there.send(ack_packet(PUBREC, packet.packet_id))
            elif packet.kind == PUBREL:
                self.held.discard(packet.packet_id)
                there.send(ack_packet(PUBCOMP, packet.packet_id))


@pytest.mark.parametrize("restart", [False, True])
async def test_a_service_that_holds_an_identifier_loses_no_later_message(
    isthmus, far, backup, tmp_path, monkeypatch, restart
):
    """With a data folder that was used before, identifiers follow from places in it."""
    monkeypatch.setattr(logged_ids, "IDS", 4)
    monkeypatch.setattr(backlog, "MAX_AHEAD", 2)
    configuration = {
        **two(far.port, backup.port, **({"round_robin": True} if restart else {})),
        "broker": {"data": str(tmp_path / "data")},
    }
    first, second = Service(), Service()
    near = await Isthmus.start(configuration)
    await far.client()
    await near.connected()
    await near.app.stop()
    near = await (Isthmus.start if restart else isthmus)(configuration)
    there, _ = await far.client(session_present=True)
    here = await near.client("here")
    here.publish("out/0", "0", 2)
    sent = await there.expect(PUBLISH)
    first.held.add(sent.packet_id)
    first.got.append(sent.payload.decode())
    far.stop_listening()
    there.close()
    there, _ = await backup.client()
    serving = asyncio.create_task(second.serve(there))
    await until(lambda: second.got == ["0"] and not second.held)
    await until(lambda: not near.cloud.stored)
    await far.start()
    if restart:
        here.close()
        await near.app.stop()
        near = await isthmus(configuration)
        here = await near.client("here")
    else:
        for _ in range(3):
            await far.client()  # of the look whether it is back
    serving.cancel()
    there, _ = await far.client(session_present=True)
    serving = asyncio.create_task(first.serve(there))
    payloads = [str(number) for number in range(1, 8)]
    for payload in payloads:
        here.publish("out/0", payload, 2)
    await until(lambda: not near.cloud.stored and len(first.got) + len(first.held) >= 4)
    await until(lambda: near.status()["acknowledged"] >= len(payloads))
    serving.cancel()
    assert first.got == ["0", *payloads]


async def test_real_brokers_primary_down_and_up_again(isthmus, mosquitto, tmp_path):
    first, second = await mosquitto(), await mosquitto()
    configuration = two(first.port, second.port)
    configuration["routes"]["in"] = back("in/#")
    near = await isthmus(configuration)
    await near.connected()
    here = await near.client("here")
    await here.subscribe("in/#", qos=1)
    first.kill()
    await until(lambda: near.status()["address"].endswith(str(second.port)))
    await near.connected()
    there = await Raw.client(second.port, "there")
    await there.subscribe("out/#", qos=1)
    assert await here.published("out/x", "over the backup") == 0
    assert (await there.message()).payload == b"over the backup"
    assert await there.published("in/x", "back") in (0, 0x10)
    assert (await here.message()).payload == b"back"
    await first.start()
    await until(lambda: near.status()["address"].endswith(str(first.port)))
    await near.connected()
    there = await Raw.client(first.port, "there")
    await there.subscribe("out/#", qos=1)
    assert await here.published("out/x", "over the first") == 0
    assert (await there.message()).payload == b"over the first"
    assert "me-probe" in first.log.read_text()


async def test_every_address_is_named_when_none_answers(isthmus, caplog):
    one, other = free_port(), free_port()
    near = await isthmus(two(one, other))
    await until(lambda: near.status()["state"] == "waiting")
    await until(
        lambda: all(
            any(f"127.0.0.1:{port}" in record.getMessage() for record in caplog.records)
            for port in (one, other)
        )
    )
