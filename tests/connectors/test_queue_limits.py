"""The limits of a queue, and what happens to what is too much, with everything on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from isthmus import clock
from isthmus.app.explanation import explain
from isthmus.app.settings import Settings
from isthmus.store.database import FILE
from isthmus.store.writer import Writer
from raw import PUBACK, PUBLISH, FarSide, ack_packet, until, within
from running import Isthmus, bridge, out, waiting


def config(port: int, data: Path | None, **queue: Any) -> dict[str, Any]:
    found = bridge(port, routes={"out": out("out/#", queue=queue)}, client_id="edge-1")
    return {**found, "broker": {"data": str(data)}} if data is not None else found


async def payloads(there: Any, count: int) -> list[int]:
    """What the far side gets next; it is acknowledged."""
    found = []
    for _ in range(count):
        got = await there.expect(PUBLISH)
        there.send(ack_packet(PUBACK, got.packet_id))
        found.append(int(got.payload))
    return found


async def drained(near: Isthmus) -> None:
    await until(lambda: not waiting(near))


async def test_drop_oldest_keeps_the_newest_and_acknowledges_all(isthmus, far, tmp_path) -> None:
    near = await isthmus(config(far.port, tmp_path, when_full="drop_oldest", max_messages=10))
    here = await near.client("here")
    for number in range(50):
        here.publish("out/a", str(number), 1)
        assert (await here.expect(PUBACK)).code in (None, 0)
    assert near.cloud.drops.counts == {"queue_full": 40}
    assert waiting(near) == 10
    there, _ = await far.client()
    assert await payloads(there, 10) == list(range(40, 50))
    await drained(near)
    assert near.cloud.drops.counts == {"queue_full": 40}


async def test_drop_oldest_leaves_what_is_on_its_way(isthmus, far, tmp_path) -> None:
    near = await isthmus(config(far.port, tmp_path, when_full="drop_oldest", max_messages=10))
    there, _ = await far.client()
    await near.connected()
    here = await near.client("here")
    for number in range(4):
        here.publish("out/a", str(number), 1)
    sent = [await there.expect(PUBLISH) for _ in range(4)]
    assert [int(got.payload) for got in sent] == [0, 1, 2, 3]
    there.reset()
    await until(lambda: near.cloud.state != "connected")
    for number in range(4, 40):
        here.publish("out/a", str(number), 1)
    for _ in range(40):
        await here.expect(PUBACK)
    assert near.cloud.drops.counts == {"queue_full": 30}
    there, _ = await far.client(session_present=True)
    assert await payloads(there, 10) == [0, 1, 2, 3, *range(34, 40)]
    await drained(near)


async def test_drop_oldest_gives_room_back_and_is_remembered(isthmus, far, tmp_path) -> None:
    limits = {"when_full": "drop_oldest", "max_bytes": "200KiB"}
    near = await isthmus(config(far.port, tmp_path, **limits))
    here = await near.client("here")
    for number in range(300):
        here.publish("out/a", f"{number:08}" + " " * 4088, 1)
        if number % 10 == 9:
            for _ in range(10):
                await here.expect(PUBACK)
    size = near.cloud.members[0].lane.outbox.log.size
    assert size <= 300 << 10
    left = waiting(near)
    assert 10 <= left <= 60
    await near.app.close()
    while not far._accepted.empty():
        far._accepted.get_nowait().reset()
    assert (tmp_path / FILE).stat().st_size < 2 << 20
    near = await isthmus(config(far.port, tmp_path, **limits))
    there, _ = await far.client()
    assert await payloads(there, left) == list(range(300 - left, 300))
    await drained(near)


@pytest.mark.parametrize("data", [True, False])
async def test_reject_says_so_to_mqtt_5_and_nothing_to_mqtt_3(isthmus, far, tmp_path, data) -> None:
    folder = tmp_path if data else None
    near = await isthmus(config(far.port, folder, when_full="reject", max_messages=5))
    here = await near.client("here")
    old = await near.client("old", 4)
    for number in range(5):
        here.publish("out/a", str(number), 1)
    if data:
        for _ in range(5):
            assert (await here.expect(PUBACK)).code in (None, 0)
    await until(lambda: waiting(near) == 5)
    old.publish("out/a", "no", 1)
    await old.nothing()
    old.publish("elsewhere", "yes", 1)  # it is not closed, and goes on
    assert (await old.expect(PUBACK)).packet_id == 2
    assert near.cloud.drops.counts == {"rejected": 1}
    if data:
        here.publish("out/a", "no", 1)
        assert (await here.expect(PUBACK)).code == 0x97
    there, _ = await far.client()
    assert await payloads(there, 5) == [0, 1, 2, 3, 4]
    await drained(near)
    if not data:
        for _ in range(5):
            assert (await here.expect(PUBACK)).code in (None, 0)
    here.publish("out/a", "5", 1)
    assert await payloads(there, 1) == [5]
    assert (await here.expect(PUBACK)).code in (None, 0)


async def test_block_holds_publishers_at_the_number_of_messages(isthmus, far, tmp_path) -> None:
    near = await isthmus(config(far.port, tmp_path, max_messages=5))
    here = await near.client("here")
    for number in range(5):
        here.publish("out/a", str(number), 1)
        await here.expect(PUBACK)
    for number in range(5, 8):
        here.publish("out/a", str(number), 1)
    with pytest.raises(TimeoutError):
        await within(here.expect(PUBACK), 0.3)
    there, _ = await far.client()
    assert await payloads(there, 8) == list(range(8))
    for _ in range(3):
        await here.expect(PUBACK)
    await drained(near)
    assert not near.cloud.drops.counts


async def test_drop_oldest_in_memory(isthmus, far) -> None:
    near = await isthmus(config(far.port, None, when_full="drop_oldest", max_messages=10))
    here = await near.client("here")
    for number in range(50):
        here.publish("out/a", str(number), 1)
        if number < 10:
            await until(lambda number=number: waiting(near) == number + 1)
        else:  # what is dropped is dealt with, as the route says
            assert (await here.expect(PUBACK)).packet_id == number - 9
    there, _ = await far.client()
    assert await payloads(there, 10) == list(range(40, 50))
    for _ in range(10):
        await here.expect(PUBACK)
    assert near.cloud.drops.counts == {"queue_full": 40}


async def test_what_is_in_memory_and_acknowledged_is_not_dropped(isthmus, far) -> None:
    queue = {"when_full": "reject", "max_bytes": "16KiB"}
    routes = {"out": out("out/#", queue=queue, durability="memory")}
    near = await isthmus(bridge(far.port, routes=routes, client_id="edge-1"))
    here = await near.client("here")
    codes = []
    for number in range(30):
        here.publish("out/a", f"{number:04}" + "x" * 1000, 1)
        codes.append((await here.expect(PUBACK)).code or 0)
    safe = codes.count(0)
    assert 10 < safe < 20
    assert codes == [0] * safe + [0x97] * (30 - safe)
    assert near.cloud.drops.counts == {"rejected": 30 - safe}
    there, _ = await far.client()
    for number in range(safe):
        got = await there.expect(PUBLISH)
        assert int(got.payload[:4]) == number
        there.send(ack_packet(PUBACK, got.packet_id))
    await drained(near)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let two hours pass. An age that is waited for is reached by a slow test on its own too."""
    real = clock.wall

    def later() -> None:
        monkeypatch.setattr("isthmus.clock.wall", lambda: real() + 7200)

    return later


async def test_what_is_too_old_is_not_sent(isthmus, far, tmp_path, later) -> None:
    near = await isthmus(config(far.port, tmp_path, max_age="1h"))
    here = await near.client("here")
    for number in range(3):
        here.publish("out/a", str(number), 1)
        await here.expect(PUBACK)
    later()
    here.publish("out/a", "3", 1)
    await here.expect(PUBACK)
    there, _ = await far.client()
    assert await payloads(there, 1) == [3]
    await drained(near)
    assert near.cloud.drops.counts == {"too_old": 3}


async def test_what_gets_too_old_in_memory_is_not_sent(isthmus, far, tmp_path, later) -> None:
    found = config(far.port, tmp_path, max_age="1h")
    found["connectors"]["cloud"]["max_inflight"] = 1
    near = await isthmus(found)
    there, _ = await far.client()
    await near.connected()
    here = await near.client("here")
    for number in range(4):
        here.publish("out/a", str(number), 1)
    for _ in range(4):
        await here.expect(PUBACK)
    first = await there.expect(PUBLISH)
    later()
    here.publish("out/a", "4", 1)
    await here.expect(PUBACK)
    there.send(ack_packet(PUBACK, first.packet_id))
    assert await payloads(there, 1) == [4]
    await drained(near)
    assert near.cloud.drops.counts == {"too_old": 3}


# -- settings --------------------------------------------------------------------------------------


def settings(data: str | None, **routes: dict[str, Any]) -> Settings:
    found: dict[str, Any] = {
        "connectors": {"cloud": {"url": "cloud.example:1883"}},
        "routes": {name: out(f"{name}/#", queue=queue) for name, queue in routes.items()},
    }
    if data is not None:
        found["broker"] = {"data": data}
    return Settings.model_validate(found)


def test_what_one_route_sets_holds_for_all_that_lead_there(tmp_path: Path) -> None:
    from isthmus.routing.shared_queue import shared_limits

    found = settings(
        str(tmp_path),
        a={"max_bytes": 2048},
        b={"when_full": "dead_letter", "max_messages": 7},
        c={"max_bytes": 4096, "max_age": "1h", "max_messages": 7},
    )
    limits = shared_limits([route.queue for route in found.routes.values()])
    assert limits == (256 << 20, 7, 3600.0, "dead_letter")


def test_routes_to_one_connector_have_to_agree(tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as error:
        settings(str(tmp_path), a={"when_full": "reject"}, b={"when_full": "block"})
    text = str(error.value)
    assert "is another one than in route 'a', and both lead to 'cloud', which has one queue" in text


def test_a_check_says_what_happens_when_it_is_full(tmp_path: Path) -> None:
    found = settings(str(tmp_path), a={"when_full": "reject", "max_messages": 9}, b={})
    text = list(explain(found))
    line = (
        "  When 256MiB or 9 messages wait for a connection of cloud, more is refused: "
        "MQTT 5 publishers get 0x97, MQTT 3 ones no acknowledgement."
    )
    assert text.count(line) == 2
    found = settings(str(tmp_path), a={"max_bytes": "1536KiB", "max_age": "36h"})
    line = (
        "  When 1536KiB wait for a connection of cloud, publishers wait; what waited for more than "
        "36h is not sent."
    )
    assert line in list(explain(found))
    assert not any("wait for a connection" in one for one in explain(settings(None, a={})))


@pytest.mark.parametrize("queue", [{"when_full": "dead_letter"}, {"max_age": "1h"}])
def test_what_needs_a_disk_says_so(queue: dict[str, Any], tmp_path: Path) -> None:
    settings(str(tmp_path), a=queue)
    with pytest.raises(ValidationError) as error:
        settings(None, a=queue)
    assert "needs messages on disk: set 'broker.data'" in str(error.value)


async def test_a_reload_changes_the_limits(isthmus, far: FarSide, tmp_path: Path) -> None:
    near = await isthmus(config(far.port, tmp_path))
    here = await near.client("here")
    for number in range(20):
        here.publish("out/a", str(number), 1)
        await here.expect(PUBACK)
    data = config(far.port, tmp_path, when_full="drop_oldest", max_messages=10)
    changed = {"listeners": [{"bind": f"127.0.0.1:{near.port}"}], "http": None, **data}
    await near.app.reload(Settings.model_validate(changed))
    here = await near.client("there")
    here.publish("out/a", "20", 1)
    await here.expect(PUBACK)
    assert near.cloud.drops.counts["queue_full"] == 11
    assert waiting(near) == 10


async def test_a_reload_changes_what_may_wait_in_memory(isthmus, far: FarSide, tmp_path) -> None:
    near = await isthmus(config(far.port, tmp_path))
    lane = near.cloud.members[0].lane
    assert (lane.max_unsent_bytes, lane.max_queued_bytes) == (16 << 20, 64 << 20)
    data = config(far.port, tmp_path)
    data["connectors"]["cloud"] |= {"unsent_bytes": "1MiB", "unstored_bytes": "8MiB"}
    await near.reload({"listeners": [{"bind": f"127.0.0.1:{near.port}"}], **data})
    assert near.cloud.members[0].lane is lane
    assert (lane.max_unsent_bytes, lane.max_queued_bytes) == (1 << 20, 8 << 20)
    assert near.cloud.outboxes.dead_letters.max_unstored_bytes == 2 << 20


async def test_what_waits_for_a_slow_disk_has_a_limit(
    isthmus, far: FarSide, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = {"out": out("out/#", qos=1)}
    found = bridge(far.port, routes=routes, client_id="edge-1", unstored_bytes="1MiB")
    near = await isthmus({**found, "broker": {"data": str(tmp_path / "data")}})
    answers = threading.Event()
    write = Writer.write

    def wait(self: Writer, *what: object) -> object:
        assert answers.wait(30)
        return write(self, *what)  # type: ignore[arg-type]

    monkeypatch.setattr(Writer, "write", wait)
    here = await near.client("here")
    for number in range(50):
        here.publish("out/a", b"%02d" % number + bytes(100_000))
    counts = near.cloud.drops.counts
    await until(lambda: counts.get("queue_full", 0) >= 30)
    answers.set()
    there, _ = await far.client()
    arrived = [int((await there.expect(PUBLISH)).payload[:2]) for _ in range(6)]
    assert arrived == list(range(6))
    assert 30 <= counts["queue_full"] <= 44
