"""A far side at its connection limit: the pool gets along with the connections that it has."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any

import pytest

from isthmus.connectors import crowding
from raw import (
    CONNECT,
    PINGREQ,
    PUBLISH,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Raw,
    grant,
    packet,
    parse_hello,
    properties,
    read_properties,
    until,
)
from running import back, bridge, out

TOPICS = 40


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowding, "FOR_S", 0.2)
    monkeypatch.setattr(crowding, "PAUSE_MIN_S", 0.4)
    monkeypatch.setattr(crowding, "PAUSE_MAX_S", 0.8)
    monkeypatch.setattr(crowding, "SOON_S", 60.0)  # one more, and then nothing for long


def said(caplog: Any, text: str) -> list[str]:
    return [one.getMessage() for one in caplog.records if text in one.getMessage()]


@pytest.mark.parametrize(("version", "tls"), [("3.1.1", False), ("5", False), ("5", True)])
async def test_the_pool_shrinks_says_so_once_and_grows_again(
    isthmus: Any,
    mosquitto: Any,
    caplog: Any,
    quick: None,
    certificates: Any,
    version: str,
    tls: bool,
) -> None:
    """A Mosquitto that is full closes connections before their CONNACK, or their TLS."""
    caplog.set_level(logging.INFO, "isthmus")
    lines = [f"certfile {certificates.server}", f"keyfile {certificates.server}"] if tls else []
    far = await mosquitto("max_connections 4", *lines)  # some versions take one more
    context = ssl.create_default_context(cafile=certificates.ca) if tls else None
    others = [await Raw.client(far.port, f"other-{n}", tls=context) for n in range(2)]
    await others[0].subscribe("out/#", qos=1)
    near = await isthmus(
        bridge(
            far.port,
            routes={"out": out("out/#"), "in": back(*(f"in/{n}" for n in range(TOPICS)))},
            pool=5,
            version=version,
            url=f"{'mqtts' if tls else 'mqtt'}://127.0.0.1:{far.port}",
            tls={"ca": str(certificates.ca)} if tls else None,
        )
    )
    await until(lambda: near.cloud.crowding.resting)
    up = len(near.cloud.members)
    assert up in (2, 3)
    assert near.cloud.status == f"degraded: {up} of 5 connected"
    figures = near.cloud.figures.read()
    assert (figures["connections_up"], figures["connections_wanted"]) == (up, 5)
    assert figures["state"] == "degraded"
    assert figures["reason"].startswith("the far side takes no more: ")
    (line,) = said(caplog, "takes no more than")
    assert f"the far side takes no more than {up} of 5 connections (" in line
    here = await near.client("here")
    await here.subscribe("in/#", qos=1)
    await until(lambda: len(near.cloud.subscriptions.answers) == TOPICS)

    async def everything_passes() -> None:
        for number in range(TOPICS):
            assert await here.published(f"out/{number}", str(number), 1) in (0, 0x10)
        got = {(await others[0].message()).payload for _ in range(TOPICS)}
        assert got == {str(number).encode() for number in range(TOPICS)}
        for number in range(TOPICS):
            await others[0].published(f"in/{number}", str(number), 1)
        got = {(await here.message()).payload for _ in range(TOPICS)}
        assert got == {str(number).encode() for number in range(TOPICS)}
        await here.nothing()  # no filter is at two connections

    await everything_passes()
    assert len(said(caplog, "takes no more than")) == 1
    others[1].close()
    await until(lambda: len(near.cloud.members) == up + 1)
    await until(lambda: near.cloud.status == f"degraded: {up + 1} of 5 connected")
    assert said(caplog, f"the far side takes {up + 1} of 5 connections now")
    await until(lambda: not near.cloud.regrouping)
    await until(lambda: len(near.cloud.subscriptions.answers) == TOPICS)
    await until(lambda: not near.cloud.subscriptions.moving)
    await everything_passes()


class Service:
    """A far side that keeps sessions, and takes the clients it wants."""

    def __init__(self, far: Any) -> None:
        self._far = far
        self.sessions: dict[str, set[str]] = {}
        self.open: dict[str, Raw] = {}
        self.most = 100
        self.code = 0x97
        self._tasks = [asyncio.create_task(self._accept())]

    async def _accept(self) -> None:
        while True:
            raw = await self._far._accepted.get()
            self._tasks.append(asyncio.create_task(self._serve(raw)))

    async def _serve(self, raw: Raw) -> None:
        hello = parse_hello((await raw.expect(CONNECT)).body)
        raw.version = hello.version
        name = hello.client_id
        if len(self.open) >= self.most:
            raw.send(packet(0x20, bytes([0, self.code]) + properties()))
            raw.close()
            return
        raw.send(packet(0x20, bytes([name in self.sessions, 0]) + properties()))
        self.open[name] = raw
        granted = self.sessions.setdefault(name, set())
        try:
            while True:
                found = await raw._read()
                if found.kind == PINGREQ:
                    raw.send(packet(0xD0))
                elif found.kind == SUBSCRIBE:
                    raw._put_back.insert(0, found)
                    granted.update(filter_ for filter_, _ in await grant(raw))
                elif found.kind == UNSUBSCRIBE:
                    granted.difference_update(names := _filters(found.body))
                    answer = found.body[:2] + b"\0" + bytes(len(names))
                    raw.send(packet(0xB0, answer))
                elif found.kind == PUBLISH and found.qos == 1:
                    raw.send(packet(0x40, found.packet_id.to_bytes(2, "big")))
        except (OSError, EOFError, AssertionError, TimeoutError):
            pass
        finally:
            if self.open.get(name) is raw:
                del self.open[name]

    def cut(self, name: str) -> None:
        self.open.pop(name).reset()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _filters(body: bytes) -> list[str]:
    at, found = read_properties(body, 2)[1], []
    while at < len(body):
        size = int.from_bytes(body[at : at + 2], "big")
        found.append(body[at + 2 : at + 2 + size].decode())
        at += 2 + size
    return found


async def test_a_session_that_comes_back_gives_up_what_others_have_now(
    isthmus: Any, far: Any, quick: None, tmp_path: Any
) -> None:
    service = Service(far)
    names = [f"in/{number}" for number in range(30)]
    data = bridge(far.port, routes={"out": out("out/#"), "in": back(*names)}, pool=3)
    near = await isthmus({**data, "broker": {"data": str(tmp_path)}})
    await near.connected()
    before = {name: set(held) for name, held in service.sessions.items()}
    assert sum(map(len, before.values())) == len(names)
    assert all(before.values())
    here = await near.client("here")
    stay, *gone = [member.client_id for member in near.cloud.members]
    service.most = 1
    for name in gone:
        service.cut(name)
    acks = [asyncio.create_task(here.published(f"out/{n}", str(n), 1)) for n in range(1)]
    await until(lambda: len(near.cloud.members) == 1)
    await until(lambda: service.sessions[stay] == set(names))
    assert near.cloud.figures.read()["reason"].endswith("0x97 a quota is used up")
    assert [await one for one in acks] == [0]
    service.most = 2
    await until(lambda: len(near.cloud.members) == 2)
    back_again = near.cloud.members[1].client_id

    def shared_out() -> bool:
        held = [service.sessions[name] for name in (stay, back_again)]
        return set.union(*held) == set(names) and not set.intersection(*held)

    await until(shared_out)
    assert service.sessions[back_again] != before[back_again]
    await service.stop()


async def test_static_client_ids_are_never_left_out(isthmus: Any, far: Any, quick: None) -> None:
    service = Service(far)
    near = await isthmus(
        bridge(far.port, routes={"out": out("out/#")}, static_client_ids={"edge": ["a", "b"]})
    )
    await near.connected()
    service.most = 1
    service.cut("b")
    attempts = near.cloud.members[1].attempts
    await until(lambda: near.cloud.members[1].attempts > attempts + 5)
    assert len(near.cloud.members) == 2
    assert near.cloud.status == "degraded: 1 of 2 connected"
    service.most = 2
    await near.connected()
    await service.stop()


async def test_a_member_with_a_qos_2_message_on_its_way_is_not_left_out(
    isthmus: Any, far: Any, quick: None
) -> None:
    """By another one it could arrive twice."""
    service = Service(far)
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, pool=2))
    await near.connected()
    last = near.cloud.members[1]
    topic = next(
        topic for topic in (f"out/{number}" for number in range(100))
        if near.cloud.client_id_of(topic.encode()) == last.client_id
    )  # fmt: skip
    here = await near.client("here")
    here.publish(topic, "once", 2)
    await until(lambda: last.lane.inflight)
    service.most = 1
    service.cut(last.client_id)
    await until(lambda: last.attempts > 10)
    assert near.cloud.members[1] is last
    assert near.cloud.state == "degraded"
    await service.stop()


async def test_a_far_side_that_refuses_all_is_no_full_one(
    isthmus: Any, far: Any, quick: None
) -> None:
    service = Service(far)
    service.most = 0
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, pool=2))
    await until(lambda: all(member.attempts > 5 for member in near.cloud.members))
    assert len(near.cloud.members) == 2
    assert near.cloud.state == "refused"
    service.most = 2
    await near.connected()
    await service.stop()
