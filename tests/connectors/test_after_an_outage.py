"""After an outage: how fast what it left is sent, and how old that is said to be."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from isthmus import clock
from isthmus.connectors import figures
from isthmus.connectors.settings import ConnectorSettings
from raw import PUBACK, PUBLISH, FarSide, ack_packet, until
from running import bridge, out


def config(port: int, data: Path, **connector: Any) -> dict[str, Any]:
    found = bridge(port, routes={"out": out("out/#")}, client_id="edge-1", **connector)
    return {**found, "broker": {"data": str(data)}}


async def payload(there: Any) -> int:
    got = await there.expect(PUBLISH)
    there.send(ack_packet(PUBACK, got.packet_id))
    return int(got.payload)


async def test_what_was_stored_is_sent_at_the_drain_rate_and_live_traffic_behind_it(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    near = await isthmus(config(far.port, tmp_path, drain_rate="40/s"))
    here = await near.client("here")
    for number in range(40):
        here.publish("out/a", str(number), 1)
        await here.expect(PUBACK)
    there, _ = await far.client()
    began = clock.monotonic()
    assert await payload(there) == 0
    for number in range(40, 44):
        here.publish("out/a", str(number), 1)
        await here.expect(PUBACK)
    found = [await payload(there) for _ in range(1, 44)]
    took = clock.monotonic() - began
    assert found == list(range(1, 44))
    assert 0.8 < took < 2.5
    await until(lambda: not near.cloud.unsettled)
    # What comes now is sent at once.
    began = clock.monotonic()
    for number in range(40):
        here.publish("out/a", str(number), 1)
    assert [await payload(there) for _ in range(40)] == list(range(40))
    assert clock.monotonic() - began < 0.5


async def test_a_connection_without_a_backlog_is_not_slowed_down(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    near = await isthmus(config(far.port, tmp_path, drain_rate="1/s"))
    there, _ = await far.client()
    await near.connected()
    here = await near.client("here")
    began = clock.monotonic()
    for number in range(20):
        here.publish("out/a", str(number), 1)
    assert [await payload(there) for _ in range(20)] == list(range(20))
    assert clock.monotonic() - began < 0.9


async def test_a_route_has_a_drain_rate_of_its_own(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    routes = {"out": out("out/#", drain_rate="40/s"), "fast": out("fast/#")}
    settings = bridge(far.port, routes=routes, client_id="edge-1")
    near = await isthmus({**settings, "broker": {"data": str(tmp_path)}})
    here = await near.client("here")
    for topic, count in (("fast/a", 100), ("out/a", 40), ("fast/b", 1)):
        for number in range(count):
            here.publish(topic, str(number), 1)
            await here.expect(PUBACK)
    there, _ = await far.client()
    began = clock.monotonic()
    assert [await payload(there) for _ in range(101)] == [*range(100), 0]
    assert clock.monotonic() - began < 0.7
    assert [await payload(there) for _ in range(39)] == list(range(1, 40))
    took = clock.monotonic() - began
    assert 0.8 < took < 2.5
    # The row on disk keeps its order.
    assert await payload(there) == 0
    await until(lambda: not near.cloud.unsettled)
    began = clock.monotonic()
    for number in range(40):
        here.publish("out/a", str(number), 1)
    assert [await payload(there) for _ in range(40)] == list(range(40))
    assert clock.monotonic() - began < 0.5


@pytest.mark.parametrize("to", [{}, {"drain_rate": "40/s"}])
async def test_the_drain_rate_of_a_route_changes_with_a_reload(
    isthmus: Any, far: FarSide, tmp_path: Path, to: dict[str, str]
) -> None:
    def settings(**route: Any) -> dict[str, Any]:
        routes = {"out": out("out/#", **route)}
        found = bridge(far.port, routes=routes, client_id="edge-1")
        return {**found, "broker": {"data": str(tmp_path)}}

    near = await isthmus(settings(drain_rate="1/h"))
    bind = {"bind": f"127.0.0.1:{near.port}"}
    here = await near.client("here")
    for number in range(50):
        here.publish("out/a", str(number), 1)
        await here.expect(PUBACK)
    there, _ = await far.client()
    assert await payload(there) == 0
    await asyncio.sleep(0.3)
    assert near.cloud.stored == 49
    await near.reload({**settings(**to), "listeners": [bind]})
    began = clock.monotonic()
    assert [await payload(there) for _ in range(49)] == list(range(1, 50))
    assert clock.monotonic() - began < 3


async def test_connections_share_the_drain_rate_of_a_route_also_one_that_inherits(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    """A pool that becomes smaller: what waited for the other connections is no less slow."""
    routes = {"out": out("out/#", drain_rate="40/s")}

    def settings(pool: int) -> dict[str, Any]:
        found = bridge(far.port, routes=routes, pool=pool)
        return {**found, "broker": {"data": str(tmp_path)}}

    far.stop_listening()
    near = await isthmus(settings(3))
    bind = {"bind": f"127.0.0.1:{near.port}"}
    here = await near.client("here")
    for number in range(60):
        here.publish(f"out/{number % 20}", str(number), 1)
        await here.expect(PUBACK)
    await near.reload({**settings(1), "listeners": [bind]})
    await far.start()
    began = clock.monotonic()
    there, _ = await far.client()
    found = [await payload(there) for _ in range(60)]
    assert sorted(found) == list(range(60))
    assert clock.monotonic() - began > 1.1


async def test_what_expires_in_an_outage_takes_nothing_of_the_drain_rate(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    near = await isthmus(config(far.port, tmp_path, drain_rate="2/s"))
    here = await near.client("here")
    for number in range(50):
        here.publish("out/a", str(number), 1, expiry=1)
        await here.expect(PUBACK)
    here.publish("out/a", "50", 1)
    await here.expect(PUBACK)
    await asyncio.sleep(1.2)
    there, _ = await far.client()
    began = clock.monotonic()
    assert await payload(there) == 50
    assert clock.monotonic() - began < 2
    assert near.cloud.drops.counts["expired"] == 50


async def test_both_ways_of_a_route_have_its_drain_rate(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    routes = {
        "both": {
            "from": "cloud",
            "to": "local",
            "topics": ["in/#"],
            "prepend": "far/",
            "direction": "both",
            "drain_rate": "40/s",
        }
    }
    settings = bridge(far.port, routes=routes, client_id="edge-1")
    near = await isthmus({**settings, "broker": {"data": str(tmp_path)}})
    here = await near.client("here")
    for number in range(40):
        here.publish("far/in/a", str(number), 1)
        await here.expect(PUBACK)
    there, _ = await far.client()
    began = clock.monotonic()
    found = []
    while len(found) < 40:
        got = await there.packet()
        if got.kind == PUBLISH:
            assert got.topic == "in/a"
            there.send(ack_packet(PUBACK, got.packet_id))
            found.append(int(got.payload))
    assert found == list(range(40))
    assert clock.monotonic() - began > 0.8


def test_a_drain_rate_beside_a_rate_limit_says_that_it_has_no_effect() -> None:
    with pytest.raises(ValueError, match="has no effect beside 'rate_limit'"):
        ConnectorSettings(url="h", rate_limit="5/s", drain_rate="1/s")


async def test_the_age_of_what_is_on_disk_goes_on_over_a_restart(
    isthmus: Any, far: FarSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = await isthmus(config(far.port, tmp_path))
    here = await near.client("here")
    here.publish("out/a", "0", 1)
    await here.expect(PUBACK)
    await near.app.close()
    while not far._accepted.empty():
        far._accepted.get_nowait().reset()
    now = clock.wall
    monkeypatch.setattr(clock, "wall", lambda: now() + 3600)
    near = await isthmus(config(far.port, tmp_path))
    here = await near.client("here")
    here.publish("out/a", "1", 1)
    await here.expect(PUBACK)
    await until(lambda: near.cloud.figures.read()["oldest_age_s"] > 3599)
    assert near.cloud.figures.read()["oldest_age_s"] < 3700
    there, _ = await far.client()
    assert [await payload(there), await payload(there)] == [0, 1]
    await until(lambda: near.cloud.figures.read()["oldest_age_s"] == 0)
    await asyncio.sleep(0)


@pytest.mark.parametrize("folder", [True, False])
async def test_the_log_says_when_all_that_waited_is_there(
    isthmus: Any, far: FarSide, tmp_path: Path, folder: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "isthmus.connectors")
    data = {"broker": {"data": str(tmp_path)}} if folder else {}
    near = await isthmus({**bridge(far.port, routes={"out": out("out/#")}), **data})
    there, _ = await far.client()
    await near.connected()
    far.stop_listening()
    there.reset()
    await until(lambda: near.cloud.state != "connected")
    here = await near.client("here")
    for number in range(3):
        here.publish("out/a", str(number), 1)
    await until(lambda: near.cloud.figures.read()["queued"] == 3)
    await asyncio.sleep(1.5)  # it is looked after once a second
    await far.start()
    there, _ = await far.client()
    assert await payload(there) == 0
    assert "had waited" not in caplog.text
    assert [await payload(there) for _ in range(2)] == [1, 2]
    told = "since the far side is back: 3 acknowledged, 0 refused, 0 expired or too old"
    await until(lambda: told in caplog.text, 5)
    await asyncio.sleep(1.5)
    assert caplog.text.count("had waited") == 1


async def test_the_log_says_once_that_messages_wait_on_disk(
    isthmus: Any,
    far: FarSide,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(figures, "ON_DISK_S", 1.5)
    caplog.set_level(logging.INFO, "isthmus.connectors")
    near = await isthmus(config(far.port, tmp_path))
    there, _ = await far.client()
    await near.connected()
    here = await near.client("here")
    said = "connector cloud: messages for it wait on disk until the far side takes them"
    for times in (1, 2):
        here.publish("out/a", "0", 1)  # it goes to the disk as it is not acknowledged
        await here.expect(PUBACK)
        assert caplog.text.count(said) == times - 1
        await until(lambda times=times: caplog.text.count(said) == times, 15)
        await asyncio.sleep(1.1)
        assert caplog.text.count(said) == times
        assert await payload(there) == 0
        await until(lambda: near.cloud.figures.read()["oldest_age_s"] == 0)
        await asyncio.sleep(1.1)  # it is looked after once a second


async def test_what_expired_in_an_outage_is_not_said_to_be_delivered(
    isthmus: Any, far: FarSide, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "isthmus.connectors")
    near = await isthmus(config(far.port, tmp_path))
    near.app.status.stop()  # the test looks itself
    there, _ = await far.client()
    await near.connected()
    far.stop_listening()
    there.reset()
    await until(lambda: near.cloud.state == "waiting")
    here = await near.client("here")
    for number in range(3):
        here.publish("out/a", str(number), 1, expiry=1)
        await here.expect(PUBACK)
    here.publish("out/a", "3", 1)
    await here.expect(PUBACK)
    near.cloud.figures.look(100.0)
    await asyncio.sleep(1.1)
    await far.start()
    there, _ = await far.client()
    got = await there.expect(PUBLISH)
    assert got.payload == b"3"
    # What comes meanwhile, so that the queue is not empty, does not hold the line up.
    there.send(ack_packet(PUBACK, got.packet_id))
    here.publish("out/a", "4", 1)
    assert (await there.expect(PUBLISH)).payload == b"4"
    near.cloud.figures.look(107.0)
    assert (
        "4 message(s), as many as had waited, have left the queue after 7 s; "
        "since the far side is back: 1 acknowledged, 0 refused, 3 expired or too old"
    ) in caplog.text


async def test_what_waits_for_a_lazy_connection_is_left_by_no_outage(
    isthmus: Any, far: FarSide, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "isthmus.connectors")
    lazy = {"threshold": 3, "after": "1h"}
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, start="lazy", lazy=lazy))
    near.app.status.stop()  # the test looks itself
    figures = near.cloud.figures
    here = await near.client("here")
    for number in range(2):
        here.publish("out/a", str(number), 1)
    await until(lambda: figures.read()["queued"] == 2)
    assert near.cloud.state == "idle"
    figures.look(100.0)
    here.publish("out/a", "2", 1)
    await until(lambda: near.cloud.state == "connecting")
    figures.look(101.0)
    there, _ = await far.client()
    assert [await payload(there) for _ in range(3)] == [0, 1, 2]
    await until(lambda: not near.cloud.unsettled)
    figures.look(102.0)
    assert "waited" not in caplog.text
