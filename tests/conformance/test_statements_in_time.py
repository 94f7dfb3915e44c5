"""What takes time: expiry of sessions and messages, delayed wills, keep alive.

All scenarios of a broker run at once, each with its own clients and topics; each is a test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from conformance_broker import Broker, drop, kept, leave
from conformance_differences import observe

from mosquitto import Mosquitto
from raw import (
    OPEN,
    PINGREQ,
    PINGRESP,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    Raw,
    ack_packet,
    packet,
    properties,
)
from running import Isthmus

NEVER = 0xFFFFFFFF

SHORT_S = 2.2
"""Longer than an interval of one second, for a broker that looks once a second."""

Scenario = Callable[[Broker], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


# -- sessions ------------------------------------------------------------------------------------


async def away(near: Broker, name: str, *expiries: int) -> bool:
    """Connect once with each expiry, leave, wait; whether the session is still there."""
    for expiry in expiries:
        raw = await near.client(name, **kept(5, expiry))
        await raw.subscribe(name, qos=1)
        await leave(raw)
    await asyncio.sleep(SHORT_S)
    raw = await near.client(name, **kept(5))
    raw.publish(name, "own")
    found = await raw.arrived()
    # The subscription goes with the session and stays with it.
    assert len(found) == raw.hello.session_present
    return raw.hello.session_present


@scenario
async def mqtt_4_1_0_2_a_session_ends_when_its_expiry_is_over(near: Broker) -> None:
    assert not await away(near, "short", 1)


@scenario
async def mqtt_3_1_2_23_a_session_is_kept_until_then(near: Broker) -> None:
    assert await away(near, "long", 60)


@scenario
async def mqtt_3_1_2_23_the_greatest_expiry_is_for_ever(near: Broker) -> None:
    assert await away(near, "never", NEVER)


@scenario
async def mqtt_3_1_2_23_a_new_connection_shortens_the_expiry(near: Broker) -> None:
    assert not await away(near, "shortened", 60, 1)


@scenario
async def mqtt_3_1_2_23_a_new_connection_extends_the_expiry(near: Broker) -> None:
    assert await away(near, "extended", 1, 60)


@scenario
async def mqtt_3_1_2_23_disconnect_sets_the_expiry_to_0(near: Broker) -> None:
    raw = await near.client("ends", **kept(5, 60))
    raw.send(packet(0xE0, b"\0" + properties(session_expiry=0)))
    await raw.closed()
    assert not (await near.client("ends", **kept(5))).hello.session_present


@scenario
async def mqtt_3_1_2_23_disconnect_extends_the_expiry(near: Broker) -> None:
    raw = await near.client("stays", **kept(5, 1))
    raw.send(packet(0xE0, b"\0" + properties(session_expiry=60)))
    await raw.closed()
    await asyncio.sleep(SHORT_S)
    assert (await near.client("stays", **kept(5))).hello.session_present


@scenario
async def mqtt_4_1_0_1_a_connected_session_does_not_expire(near: Broker) -> None:
    raw = await near.client("connected", session_expiry=1)
    await raw.subscribe("connected", qos=1)
    await asyncio.sleep(SHORT_S)
    raw.publish("connected", "own")
    assert (await raw.message()).payload == b"own"


@scenario
async def mqtt_4_1_0_1_a_3_1_1_session_is_kept(near: Broker) -> None:
    raw = await near.client("old", 4, clean=False)
    await leave(raw)
    await asyncio.sleep(SHORT_S)
    assert (await near.client("old", 4, clean=False)).hello.session_present


# -- messages ------------------------------------------------------------------------------------


@scenario
async def mqtt_3_3_2_5_an_expired_message_is_not_delivered(near: Broker) -> None:
    raw = await near.client("expiry-5", **kept(5))
    await raw.subscribe("expiry-5", qos=1)
    await leave(raw)
    publisher = await near.client("publisher-5")
    await publisher.published("expiry-5", "short", 1, expiry=1)
    await publisher.published("expiry-5", "for ever", 1)
    await asyncio.sleep(SHORT_S)
    raw = await near.client("expiry-5", **kept(5))
    (found,) = await raw.arrived()
    assert (found.payload, "expiry" in found.properties) == (b"for ever", False)


@scenario
async def mqtt_3_3_2_6_the_expiry_of_what_waited_is_lower(near: Broker) -> None:
    raw = await near.client("expiry-6", **kept(5))
    await raw.subscribe("expiry-6", qos=1)
    await leave(raw)
    publisher = await near.client("publisher-6")
    await publisher.published("expiry-6", "long", 1, expiry=100)
    await asyncio.sleep(SHORT_S)
    raw = await near.client("expiry-6", **kept(5))
    found = await raw.message()
    assert 96 <= found.properties["expiry"] <= 98


@scenario
async def mqtt_3_3_2_6_retained_messages_age_and_expire(near: Broker) -> None:
    publisher = await near.client("publisher-r")
    await publisher.published("r/short", "short", 1, retain=True, expiry=1)
    await publisher.published("r/long", "long", 1, retain=True, expiry=100)
    await asyncio.sleep(SHORT_S)
    raw = await near.client("reader-r")
    await raw.subscribe("r/#")
    (found,) = await raw.arrived()
    assert (found.payload, found.retain) == (b"long", True)
    assert 96 <= found.properties["expiry"] <= 98


@scenario
async def mqtt_4_3_3_7_and_13_expiry_does_not_stop_a_qos_2_flow(near: Broker) -> None:
    publisher = await near.client("publisher-q")
    raw = await near.client("q", **kept(5))
    await raw.subscribe("q", qos=2)
    await publisher.published("q", "x", 2, expiry=1)
    found = await raw.expect(PUBLISH)
    await asyncio.sleep(SHORT_S)
    raw.send(ack_packet(PUBREC, found.packet_id))
    assert (await raw.expect(PUBREL)).packet_id == found.packet_id
    raw.send(ack_packet(PUBCOMP, found.packet_id))
    await raw.nothing()


@scenario
async def mqtt_4_3_3_7_what_was_sent_does_not_expire(near: Broker) -> None:
    """PUBLISH was sent, the connection broke, the expiry is over: it comes again all the same."""
    publisher = await near.client("publisher-s")
    raw = await near.client("s", **kept(5))
    await raw.subscribe("s", qos=2)
    await publisher.published("s", "x", 2, expiry=1)
    first = await raw.expect(PUBLISH)
    await drop(raw)
    await asyncio.sleep(SHORT_S)
    raw = await near.client("s", **kept(5))
    found = [(p.kind, p.packet_id) for p in await raw.arrived()]
    observe(near.name, "sent-and-expired", "sent again" if found else "dropped")
    assert found in ([], [(PUBLISH, first.packet_id)])


# -- wills ---------------------------------------------------------------------------------------


async def mortal(near: Broker, name: str, delay: int, expiry: int) -> tuple[Raw, Raw]:
    """Who listens, and a client with a will of `delay` seconds."""
    listening = await near.client(f"listens-{name}")
    await listening.subscribe(f"will/{name}")
    how = {"will": (f"will/{name}", "x", 0, False), "will_properties": {"will_delay": delay}}
    return listening, await near.client(name, clean=False, session_expiry=expiry, **how)


async def published_soon(near: Broker, question: str, listening: Raw) -> None:
    await asyncio.sleep(SHORT_S)
    observe(near.name, question, "published" if await listening.arrived() else "not yet")


@scenario
async def mqtt_3_1_3_9_a_will_waits_for_its_delay(near: Broker) -> None:
    listening, raw = await mortal(near, "w1", 1, 60)
    await drop(raw)
    await listening.nothing()
    await asyncio.sleep(0.6)
    await listening.nothing()
    found = await listening.message()
    assert found.properties == {}  # the delay is not the message's
    assert found.payload == b"x"


@scenario
async def mqtt_3_1_3_9_a_client_that_is_back_in_time_has_no_will(near: Broker) -> None:
    listening, raw = await mortal(near, "w2", 1, 60)
    await drop(raw)
    await near.client("w2", clean=False, session_expiry=60)
    await asyncio.sleep(SHORT_S)
    await listening.nothing()


@scenario
async def mqtt_3_1_2_8_the_end_of_the_session_comes_before_the_delay(near: Broker) -> None:
    listening, raw = await mortal(near, "w3", 1000, 1)
    await drop(raw)
    await listening.nothing()
    await asyncio.sleep(SHORT_S)
    assert [found.payload for found in await listening.arrived()] == [b"x"]


@scenario
async def mqtt_3_1_2_8_a_session_without_expiry_has_no_delay(near: Broker) -> None:
    listening, raw = await mortal(near, "w4", 1000, 0)
    await drop(raw)
    await published_soon(near, "delay-without-session", listening)


@scenario
async def mqtt_3_1_2_8_clean_start_ends_the_session_and_releases_the_will(near: Broker) -> None:
    listening, raw = await mortal(near, "w5", 1000, 60)
    await drop(raw)
    await near.client("w5", clean=True)
    await published_soon(near, "delay-and-clean-start", listening)


@scenario
async def mqtt_3_1_3_9_a_take_over_within_the_delay_publishes_no_will(near: Broker) -> None:
    """A connection that continues the session is there before the delay is over."""
    listening, _raw = await mortal(near, "w6", 1, 60)
    await near.client("w6", clean=False, session_expiry=60)
    await asyncio.sleep(SHORT_S)
    await listening.nothing()


@scenario
async def mqtt_3_14_4_3_disconnect_with_will_and_a_delay(near: Broker) -> None:
    listening, raw = await mortal(near, "w7", 1, 60)
    raw.send(packet(0xE0, b"\x04"))
    await raw.closed()
    await listening.nothing()
    assert (await listening.message()).payload == b"x"


# -- keep alive ----------------------------------------------------------------------------------


async def silent(near: Broker, version: int) -> None:
    name = f"silent-{version}"
    listening = await near.client(f"listens-{name}")
    await listening.subscribe(f"will/{name}")
    loop = asyncio.get_running_loop()
    start = loop.time()
    raw = await near.client(name, version, keep_alive=1, will=(f"will/{name}", "x", 0, False))
    last = await raw.closed()
    if version == 5:
        observe(near.name, "keep-alive", "DISCONNECT 0x8D" if last[2:3] == b"\x8d" else "closed")
    took = loop.time() - start
    assert took >= 1.4
    observe(near.name, "keep-alive-time", "1.5 times" if took < 2.2 else "later")
    assert (await listening.message()).payload == b"x"


@scenario
async def mqtt_3_1_2_22_silence_of_one_and_a_half_keep_alives(near: Broker) -> None:
    await silent(near, 5)


@scenario
async def mqtt_3_1_2_24_silence_of_one_and_a_half_keep_alives_3_1_1(near: Broker) -> None:
    await silent(near, 4)


@scenario
async def mqtt_3_1_2_22_any_packet_keeps_a_client_alive(near: Broker) -> None:
    raw = await near.client("alive", keep_alive=1)
    for turn in range(5):
        await asyncio.sleep(0.6)
        if turn % 2:
            raw.publish("nobody", "x")
        else:
            raw.send(packet(PINGREQ << 4))
            assert (await raw.expect(PINGRESP)).kind
    await raw.nothing()


@scenario
async def mqtt_3_1_2_22_keep_alive_0_is_no_keep_alive(near: Broker) -> None:
    raw = await near.client("calm", keep_alive=0)
    await asyncio.sleep(3)
    await raw.nothing()


# -- running them --------------------------------------------------------------------------------


async def run_all(name: str, folder: Path) -> dict[str, BaseException | None]:
    OPEN.clear()
    theirs = None
    if name == "isthmus":
        ours = await Isthmus.start({})
        near = Broker(name, ours.port)
    else:
        theirs = Mosquitto(folder)
        await theirs.start()
        near = Broker(name, theirs.port)
    try:
        found = await asyncio.gather(
            *(run(near) for run in SCENARIOS.values()), return_exceptions=True
        )
    finally:
        for raw in OPEN:
            raw.writer.transport.abort()
        OPEN.clear()
        if theirs is None:
            await ours.app.close()
        else:
            theirs.kill()
    return dict(zip(SCENARIOS, found, strict=True))


@pytest.fixture(scope="module", params=["isthmus", "mosquitto"])
def ends(request: Any, tmp_path_factory: Any) -> Iterator[dict[str, BaseException | None]]:
    """How each scenario ended: its exception or None."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.run(run_all(request.param, tmp_path_factory.mktemp("in-time")))


@pytest.mark.parametrize("what", SCENARIOS)
def test_in_time(ends: dict[str, BaseException | None], what: str) -> None:
    error = ends[what]
    if error is not None:
        raise error
