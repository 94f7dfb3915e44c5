"""A message at which the far side closes the connection, each time that it gets it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isthmus.connectors import suspicion
from mosquitto import free_port
from raw import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, FarSide, Raw, ack_packet, until
from running import bridge, out

POISON = b"poison"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspicion, "PAUSE_S", 0.2)
    monkeypatch.setattr(suspicion, "LONGEST_PAUSE_S", 0.6)
    monkeypatch.setattr(suspicion, "SOON_S", 0.5)


class Closing:
    """A far side that keeps its session, and closes at a payload of `POISON`."""

    def __init__(
        self, far: FarSide, closes: Callable[[bytes], bool] = lambda payload: payload == POISON
    ) -> None:
        self.got: list[bytes] = []
        self.connections = 0
        self.forgets = False
        self._far = far
        self._closes = closes
        self._task = asyncio.ensure_future(self._serve())

    async def _serve(self) -> None:
        while True:
            present = self.connections > 0 and not self.forgets
            there, _ = await self._far.client(session_present=present)
            self.connections += 1
            try:
                while True:
                    packet = await there.packet()
                    if packet.kind == PUBLISH and self._closes(packet.payload):
                        break
                    if packet.kind == PUBLISH:
                        self.got.append(packet.payload)
                        kind = PUBREC if packet.qos == 2 else PUBACK
                        there.send(ack_packet(kind, packet.packet_id))
                    elif packet.kind == PUBREL:
                        there.send(ack_packet(PUBCOMP, packet.packet_id))
            except (EOFError, ConnectionError):
                pass
            there.close()

    def stop(self) -> None:
        self._task.cancel()


def config(port: int, data: Path | None, version: str) -> Any:
    found = bridge(
        port, routes={"out": out("out/#")}, client_id="edge-1", version=version,
        reconnect={"min": "10ms", "max": "20ms"},
    )  # fmt: skip
    return found if data is None else {**found, "broker": {"data": str(data)}}


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.parametrize("stored", [False, True])
async def test_it_is_put_aside_and_all_others_arrive(
    isthmus: Any, far: FarSide, tmp_path: Path, qos: int, version: str, stored: bool
) -> None:
    there = Closing(far)
    near = await isthmus(config(far.port, tmp_path if stored else None, version))
    here = await near.client("here")
    await until(lambda: near.cloud.state == "connected")
    wanted = [b"before", b"1", b"2", b"3"]
    for payload in [b"before", POISON, b"1", b"2", b"3"]:
        here.publish("out/x", payload, qos)
    await until(lambda: set(there.got) == set(wanted))
    there.stop()
    assert list(dict.fromkeys(there.got)) == wanted
    if stored:
        assert near.cloud.dead_letters.put_aside.counts == {"closes_link": 1}
    else:
        assert near.cloud.drops.counts == {"closes_link": 1}
    assert there.connections <= 12


@pytest.mark.parametrize("qos", [1, 2])
async def test_mosquitto_closes_at_what_is_too_large_over_mqtt_3(
    isthmus: Any, mosquitto: Any, tmp_path: Path, qos: int
) -> None:
    far = await mosquitto("max_packet_size 2000")
    there = await Raw.client(far.port, "there")
    await there.subscribe("out/#", qos=qos)
    near = await isthmus(config(far.port, tmp_path, "3.1.1"))
    here = await near.client("here")
    await until(lambda: near.cloud.state == "connected")
    for payload in ["before", "x" * 3000, "1", "2", "3"]:
        here.publish("out/x", payload, qos)
    assert [(await there.message()).payload for _ in range(4)] == [b"before", b"1", b"2", b"3"]
    assert near.cloud.dead_letters.put_aside.counts == {"closes_link": 1}


async def test_nobody_is_blamed_where_the_far_side_closes_anyway(
    isthmus: Any, far: FarSide
) -> None:
    near = await isthmus(config(far.port, None, "3.1.1"))
    here = await near.client("here")
    here.publish("out/x", b"innocent", 1)
    for _ in range(14):  # it closes soon after the login, whatever comes
        other, _ = await far.client(session_present=True)
        await asyncio.sleep(0.05)
        other.close()
    last, _ = await far.client(session_present=True)
    got = await last.expect(PUBLISH)
    assert got.payload == b"innocent"
    assert not near.cloud.drops.counts


async def test_the_network_costs_no_pause(
    isthmus: Any, far: FarSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspicion, "PAUSE_S", 60.0)
    seen: list[bytes] = []

    def closes(payload: bytes) -> bool:
        seen.append(payload)
        return len(seen) <= suspicion.ROW

    there = Closing(far, closes)
    near = await isthmus(config(far.port, None, "3.1.1"))
    here = await near.client("here")
    for number in range(30):
        here.publish("out/x", str(number), 1)
    await until(lambda: len(set(there.got)) == 30)
    there.stop()
    assert list(dict.fromkeys(there.got)) == [str(n).encode() for n in range(30)]


async def test_what_is_acknowledged_alone_is_not_to_blame(isthmus: Any, far: FarSide) -> None:
    seen: list[bytes] = []

    def closes(payload: bytes) -> bool:
        seen.append(payload)
        return len(seen) <= 5  # one fewer than what it takes

    there = Closing(far, closes)
    near = await isthmus(config(far.port, None, "3.1.1"))
    here = await near.client("here")
    for number in range(3):
        here.publish("out/x", str(number), 1)
    await until(lambda: len(set(there.got)) == 3)
    there.stop()
    assert not near.cloud.drops.counts


async def test_a_reload_to_another_kind_of_lane_changes_nothing(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    there = Closing(far)
    listeners = [{"bind": f"127.0.0.1:{free_port()}"}]
    settings = {**config(far.port, tmp_path, "3.1.1"), "listeners": listeners}
    near = await isthmus(settings)
    here = await near.client("here")
    await until(lambda: near.cloud.state == "connected")
    connectors = settings["connectors"]
    limited = {"cloud": {**connectors["cloud"], "rate_limit": "1000/s"}}
    await near.reload({**settings, "connectors": limited})
    await until(lambda: there.connections == 2 and near.cloud.state == "connected")
    for payload in [b"before", POISON, b"1", b"2"]:
        here.publish("out/x", payload, 1)
    await until(lambda: set(there.got) == {b"before", b"1", b"2"}, 10)
    there.stop()
    assert near.cloud.dead_letters.put_aside.counts == {"closes_link": 1}


async def test_where_all_close_the_link_each_takes_longer_than_the_one_before(
    isthmus: Any, far: FarSide, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    there = Closing(far, lambda payload: payload.startswith(b"bad"))
    near = await isthmus(config(far.port, tmp_path, "3.1.1"))
    here = await near.client("here")
    await until(lambda: near.cloud.state == "connected")
    for payload in [b"bad 0", b"bad 1", b"good"]:
        here.publish("out/x", payload, 1)
    counts = near.cloud.dead_letters.put_aside.counts
    await until(lambda: counts == {"closes_link": 1})
    first = there.connections
    await until(lambda: there.got == [b"good"], 20)
    there.stop()
    assert counts == {"closes_link": 2}
    assert there.connections - first >= first + 2
    said = [record.getMessage() for record in caplog.records if "whenever" in record.getMessage()]
    assert said[0] == (
        "connector cloud (edge-1): the far side closes the connection whenever it gets a message "
        "of 5 bytes on 'out/x': it is not sent any more"
    )


async def test_a_far_side_that_ends_each_connection_at_some_age_blames_nobody(
    isthmus: Any, far: FarSide
) -> None:
    near = await isthmus(config(far.port, None, "3.1.1"))
    here = await near.client("here")
    here.publish("out/x", b"innocent", 1)
    for _ in range(12):
        other, _ = await far.client(session_present=True)
        await asyncio.sleep(0.3)  # after the first pause, and in later ones
        other.close()
    last, _ = await far.client(session_present=True)
    assert (await last.expect(PUBLISH)).payload == b"innocent"
    assert not near.cloud.drops.counts


async def test_it_is_found_where_the_connector_goes_from_address_to_address(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    other_side = FarSide()
    await other_side.start()
    there, other = Closing(far), Closing(other_side)
    settings = config(far.port, tmp_path, "3.1.1")
    urls = [f"127.0.0.1:{far.port}", f"127.0.0.1:{other_side.port}"]
    settings["connectors"]["cloud"]["url"] = urls
    near = await isthmus(settings)
    here = await near.client("here")
    await until(lambda: near.cloud.state == "connected")
    for payload in [POISON, b"1", b"2"]:
        here.publish("out/x", payload, 1)
    await until(lambda: {*there.got, *other.got} == {b"1", b"2"}, 20)
    assert near.cloud.dead_letters.put_aside.counts == {"closes_link": 1}
    assert other.connections > 0
    for each in (there, other):
        each.stop()
    await other_side.stop()


async def test_a_rate_that_holds_the_message_back_hides_nothing(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    there = Closing(far)
    there.forgets = True
    settings = config(far.port, tmp_path, "3.1.1")
    settings["connectors"]["cloud"]["rate_limit"] = "2/s"
    near = await isthmus(settings)
    here = await near.client("here")
    await until(lambda: near.cloud.state == "connected")
    for payload in [POISON, b"1"]:
        here.publish("out/x", payload, 1)
    await until(lambda: there.got == [b"1"], 20)
    there.stop()
    assert near.cloud.dead_letters.put_aside.counts == {"closes_link": 1}
