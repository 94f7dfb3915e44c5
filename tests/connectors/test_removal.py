"""A connector or a route is removed: what becomes of the session at the far side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from isthmus.connectors import member
from raw import (
    CONNECT,
    DISCONNECT,
    PUBACK,
    PUBLISH,
    SUBACK,
    SUBSCRIBE,
    UNSUBSCRIBE,
    FarSide,
    ack_packet,
    grant,
    packet,
    until,
)
from running import back, bridge, out

ENDED = {"session_expiry": 0}


@pytest_asyncio.fixture
async def backup() -> AsyncIterator[FarSide]:
    side = FarSide()
    await side.start()
    yield side
    await side.stop()


async def test_a_filter_that_is_granted_as_the_connection_ends_is_unsubscribed_later(
    isthmus: Any, far: FarSide
) -> None:
    def configuration(**routes: Any) -> dict[str, Any]:
        data = bridge(far.port, routes={"out": out("out/#"), **routes}, client_id="me")
        return {**data, "listeners": [{"bind": "127.0.0.1:0"}]}

    near = await isthmus(configuration(into=back("F")))
    there, _ = await far.client()
    asked = await there.expect(SUBSCRIBE)
    await near.reload(configuration())
    granted = packet(SUBACK << 4, asked.body[:2] + b"\0\1")
    there.send(granted, packet(DISCONNECT << 4, b"\x8b"))
    there, _ = await far.client(session_present=True)
    assert (await there.expect(UNSUBSCRIBE)).body.endswith(b"\0\1F")


async def test_a_connector_that_is_removed_with_connack_ends_its_session(
    isthmus: Any, far: FarSide
) -> None:
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, client_id="me"))
    there = await far.accept()
    await there.expect(CONNECT)
    removals: list[asyncio.Task[int]] = []
    near.cloud.watcher = SimpleNamespace(
        connected=lambda _: removals.append(asyncio.ensure_future(near.cloud.remove()))
    )
    there.send(packet(0x20, b"\0\0\0"))
    assert (await there.expect(DISCONNECT)).properties == ENDED
    await asyncio.gather(*removals)


async def test_a_connector_that_is_removed_while_it_leaves_a_backup_ends_its_session_there(
    isthmus: Any, far: FarSide, backup: FarSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "SETTLE_S", 60.0)  # it does not leave by itself
    port = far.port
    far.stop_listening()
    near = await isthmus(
        bridge(
            0,
            routes={"out": out("out/#")},
            url=[f"127.0.0.1:{port}", f"127.0.0.1:{backup.port}"],
            client_id="me",
            failback={"every": "100ms", "successes": 1},
        )
    )
    there, _ = await backup.client()
    here = await near.client("here")
    here.publish("out/1", "one", 2)
    await there.expect(PUBLISH)
    await far.start()
    await far.client()  # of the look whether it is back
    await until(lambda: not near.cloud.members[0].lane.room)
    await near.cloud.remove()
    assert (await there.expect(DISCONNECT)).properties == ENDED


async def test_a_client_id_that_goes_while_its_backup_is_left_leaves_no_session(
    isthmus: Any, far: FarSide, backup: FarSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "SETTLE_S", 60.0)
    port = far.port
    far.stop_listening()

    def configuration(client_id: str) -> dict[str, Any]:
        data = bridge(
            port,
            routes={"out": out("out/#")},
            url=[f"127.0.0.1:{port}", f"127.0.0.1:{backup.port}"],
            static_client_ids={"edge": [client_id]},
            failback={"every": "100ms", "successes": 1},
        )
        return {**data, "listeners": [{"bind": "127.0.0.1:0"}]}

    near = await isthmus(configuration("a"))
    there, _ = await backup.client()
    here = await near.client("here")
    here.publish("out/1", "one", 2)
    await there.expect(PUBLISH)
    await far.start()
    await far.client()  # of the look whether it is back
    await until(lambda: not near.cloud.members[0].lane.room)
    await near.reload(configuration("b"))
    assert (await there.expect(DISCONNECT)).properties == ENDED


async def test_a_lazy_client_id_that_goes_leaves_no_session_when_it_has_nothing_to_do(
    isthmus: Any, far: FarSide
) -> None:
    def configuration(client_id: str) -> dict[str, Any]:
        data = bridge(
            far.port,
            routes={"out": out("out/#"), "into": back("F")},
            static_client_ids={"edge": [client_id]},
            start="lazy",
            lazy={"threshold": 1, "idle_timeout": "300ms"},
        )
        return {**data, "listeners": [{"bind": "127.0.0.1:0"}]}

    near = await isthmus(configuration("a"))
    here = await near.client("here")
    here.publish("out/1", "one", 1)
    there, _ = await far.client()
    await grant(there)
    published = await there.expect(PUBLISH)
    # It goes on until the other has its filter; that one has nothing to send, and stays away.
    await near.reload(configuration("b"))
    there.send(ack_packet(PUBACK, published.packet_id))
    assert (await there.expect(DISCONNECT)).properties == ENDED


async def test_a_client_id_that_goes_as_a_better_version_is_found_leaves_no_subscription(
    isthmus: Any, far: FarSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MQTT 3 cannot end the session."""
    monkeypatch.setattr("isthmus.connectors.guess.LOOK_AFTER_S", 0.05)

    def configuration(client_id: str) -> dict[str, Any]:
        data = bridge(
            far.port,
            routes={"out": out("out/#"), "into": back("F")},
            static_client_ids={"edge": [client_id]},
        )
        return {**data, "listeners": [{"bind": "127.0.0.1:0"}]}

    near = await isthmus(configuration("a"))
    (await far.accept()).close()
    there, hello = await far.client()
    assert hello.version == 4
    await grant(there)
    await near.connected()
    look = await far.accept()
    await near.reload(configuration("b"))
    await look.expect(CONNECT)
    look.send(packet(0x20, b"\0\0\0"))
    assert (await there.expect(UNSUBSCRIBE)).body.endswith(b"\0\1F")
    await there.expect(DISCONNECT)


@pytest.mark.parametrize("ends", ["removal", "stop"])
@pytest.mark.parametrize("begun", [True, False])
async def test_no_session_stays_at_a_backup_that_is_left_just_before_the_end(
    isthmus: Any,
    far: FarSide,
    backup: FarSide,
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
    begun: bool,
) -> None:
    """Nobody comes back to it: the connector is removed, or the client id is not kept."""
    monkeypatch.setattr(member, "SETTLE_S", 60.0)
    port = far.port
    far.stop_listening()
    near = await isthmus(
        bridge(
            0,
            routes={"out": out("out/#")},
            url=[f"127.0.0.1:{port}", f"127.0.0.1:{backup.port}"],
            failback={"every": "100ms", "successes": 1},
            **({"client_id": "me"} if ends == "removal" else {}),
        )
    )
    there, _ = await backup.client()
    here = await near.client("here")
    here.publish("out/1", "one", 1)
    published = await there.expect(PUBLISH)
    cloud = near.cloud
    await far.start()
    look = await far.accept()
    await look.expect(CONNECT)
    connack = packet(0x20, b"\0\0\0")
    if begun:
        look.send(connack)
        await until(lambda: not cloud.members[0].lane.room)
    if ends == "removal":
        ending = near.reload({"node": "edge", "listeners": [{"bind": "127.0.0.1:0"}]})
    else:
        ending = near.app.stop()
    task = asyncio.ensure_future(ending)
    await until(lambda: cloud.stopping)
    if not begun:
        look.send(connack)
        await look.expect(DISCONNECT)
        assert cloud.members[0].lane.room  # what is on its way may still arrive here
    there.send(ack_packet(PUBACK, published.packet_id))
    assert (await there.expect(DISCONNECT)).properties == ENDED
    await task
