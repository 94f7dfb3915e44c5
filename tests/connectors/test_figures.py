"""The figures of a connector: what is counted, the round trip, the last error, no secrets."""

from __future__ import annotations

import asyncio

import pytest

from isthmus.connectors import far_client
from isthmus.connectors.address import parse_address
from isthmus.mqtt.reasons import describe
from mosquitto import free_port
from raw import (
    PINGREQ,
    PINGRESP,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    ack_packet,
    grant,
    packet,
    publish_packet,
    until,
)
from running import back, bridge, out


async def test_messages_are_counted_by_what_became_of_them(isthmus, far) -> None:
    near = await isthmus(bridge(far.port, routes={"out": out("out/#"), "in": back("in/#")}))
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    here = await near.client("here")

    here.send(publish_packet("out/a", "0"), publish_packet("out/a", "1", 1, 1))
    await there.expect(PUBLISH)
    one = await there.expect(PUBLISH)
    there.send(ack_packet(PUBACK, one.packet_id))
    await here.expect(PUBACK)
    here.send(publish_packet("out/a", "2", 2, 2))
    two = await there.expect(PUBLISH)
    there.send(ack_packet(PUBREC, two.packet_id))
    await there.expect(PUBREL)
    there.send(ack_packet(PUBCOMP, two.packet_id))
    await here.expect(PUBREC)
    here.send(publish_packet("out/a", "3", 1, 3))
    three = await there.expect(PUBLISH)
    there.send(ack_packet(PUBACK, three.packet_id, 0x87))
    assert (await here.expect(PUBACK)).code == 0x87
    there.send(ack_packet(PUBACK, 999))  # for nothing that is in flight
    there.publish("in/a", "x")
    await until(lambda: near.cloud.figures.read()["received"] == 1)

    found = near.cloud.figures.read()
    assert (found["sent"], found["acknowledged"], found["refused"]) == (4, 2, 1)
    assert (found["retried"], found["inflight"], found["queued"]) == (0, 0, 0)
    assert found["dropped"] == {"refused_0x87": 1}
    assert (found["subscriptions"], found["subscriptions_refused"]) == (1, 0)


@pytest.mark.parametrize("session_present", [True, False])
async def test_what_is_sent_again_counts_as_retried(isthmus, far, session_present: bool) -> None:
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, client_id="me"))
    there, _ = await far.client(session_present=session_present)
    here = await near.client("here")
    here.send(publish_packet("out/a", "1", 1, 1))
    await there.expect(PUBLISH)
    there.close()
    there, _ = await far.client(session_present=session_present)
    again = await there.expect(PUBLISH)
    assert again.dup is session_present
    there.send(ack_packet(PUBACK, again.packet_id))
    await here.expect(PUBACK)
    found = near.cloud.figures.read()
    assert (found["retried"], found["acknowledged"]) == (1, 1)
    assert found["last_error"].startswith("connection lost: ")
    assert found["last_error_at"] <= found["since"]


async def test_what_came_before_a_reconnect_still_counts(isthmus, far) -> None:
    near = await isthmus(bridge(far.port, routes={"in": back("in/#")}, client_id="me"))
    for connection in range(1, 4):
        there, _ = await far.client(session_present=connection > 1)
        if connection == 1:
            await grant(there)
        there.publish("in/a", "x")
        await until(lambda: near.cloud.figures.read()["received"] == connection)  # noqa: B023
        there.close()


async def test_the_round_trip_is_measured_while_messages_pass(
    isthmus, far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far_client, "MEASURE_EVERY_S", 0.3)
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}))
    there, _ = await far.client()
    await near.connected()
    here = await near.client("here")
    assert near.cloud.figures.read()["round_trip_ms"] is None
    here.send(publish_packet("out/a", "1"))
    await there.expect(PUBLISH)
    await there.expect(PINGREQ)
    assert near.cloud.figures.read()["round_trip_ms"] is None
    there.send(packet(PINGRESP << 4))
    await until(lambda: near.cloud.figures.read()["round_trip_ms"] is not None)
    assert 0 < near.cloud.figures.read()["round_trip_ms"] < 5000
    await asyncio.sleep(1.0)  # nothing passes, so no other PINGREQ comes before the next message
    here.send(publish_packet("out/a", "2"))
    await there.expect(PUBLISH)


async def test_the_round_trip_is_that_of_the_subscription_at_first(isthmus, far) -> None:
    near = await isthmus(bridge(far.port, routes={"in": back("in/#")}))
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    assert 0 < near.cloud.figures.read()["round_trip_ms"] < 5000


async def test_a_pool_says_how_many_are_up(isthmus, far) -> None:
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, pool=2))
    first, _ = await far.client()
    await far.client()
    await near.connected()
    far.stop_listening()
    first.close()
    await until(lambda: near.cloud.state == "degraded")
    found = near.cloud.figures.read()
    assert (found["connections_up"], found["connections_wanted"]) == (1, 2)
    assert found["reason"].startswith(("connection lost", "tcp"))


async def test_a_lazy_pool_with_one_connection_open_is_as_it_should_be(isthmus, far) -> None:
    lazy = {"start": "lazy", "lazy": {"threshold": 1}}
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, pool=2, **lazy))
    await until(lambda: near.cloud.figures.read()["state"] == "idle")
    here = await near.client("here")
    here.send(publish_packet("out/a", "1", 1, 1))
    there, _ = await far.client()
    await there.message()
    await here.expect(PUBACK)
    found = near.cloud.figures.read()
    assert (found["state"], found["connections_up"]) == ("connected", 1)


async def test_a_reason_that_is_just_the_meaning_of_its_code_is_said_once(isthmus, far) -> None:
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}))
    await far.client(code=0x87, reason="not authorized")
    await until(lambda: near.cloud.state == "refused")
    reason = near.cloud.figures.read()["reason"]
    assert reason == "connack: 0x87 not authorized (check 'username' and 'password')"


@pytest.mark.parametrize(
    ("code", "reason", "hint"),
    [
        (0x86, "who are you", " (the far side says: who are you; check 'username' and 'password')"),
        (0x8A, "", ""),
        (0x85, "another id", " (the far side says: another id)"),
    ],
)
async def test_a_refused_login_says_what_to_check(
    isthmus, far, caplog, code: int, reason: str, hint: str
) -> None:
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}))
    await far.client(code=code, reason=reason)
    await until(lambda: near.cloud.state == "refused")
    assert near.cloud.figures.read()["reason"].partition(describe(code))[2] == hint
    assert f": refused: connack: {describe(code)}{hint}" in caplog.text


async def test_a_long_reason_of_the_far_side_is_cut(isthmus, far) -> None:
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}))
    await far.client(code=0x87, reason="x" * 60_000)
    await until(lambda: near.cloud.state == "refused")
    found = near.cloud.figures.read()
    assert found["reason"].startswith("connack: ")
    assert "the far side says: xxx" in found["reason"]
    assert len(found["reason"]) < 600
    assert found["last_error"] == found["reason"]


async def test_a_query_that_may_hold_a_token_is_not_shown(isthmus, caplog) -> None:
    ports = free_port(), free_port()
    urls = [f"ws://127.0.0.1:{port}/mqtt?token=CANARY-71" for port in ports]
    near = await isthmus(bridge(0, routes={"out": out("out/#")}, url=urls))
    await until(lambda: near.cloud.figures.read()["last_error"])
    await until(lambda: near.status()["state"] == "waiting")
    found = near.cloud.figures.read()
    assert found["address"] in {f"ws://127.0.0.1:{port}/mqtt" for port in ports}
    assert "CANARY-71" not in f"{found}{caplog.text}"
    assert parse_address(urls[0]).shown == urls[0].partition("?")[0]
