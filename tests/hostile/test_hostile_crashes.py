"""kill -9 in the middle of QoS 2: each step is on disk before the next one can be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from victim import GROWTH_KIB, UNFORESEEN, GoodClient, Victim

from raw import OPEN, PUBCOMP, PUBLISH, PUBREC, PUBREL, Raw, ack_packet

LONG = {"clean": False, "session_expiry": 3600}


@pytest.fixture
def again(tmp_path: Path) -> Iterator[Callable[[], Victim]]:
    """Kill the broker, if there is one, and start it with what is on disk.

    Each one serves a good client when it has started, and the last one at the end too.
    """
    running: list[tuple[Victim, GoodClient, int]] = []

    def end() -> None:
        while running:
            victim, good, before = running.pop()
            grown = victim.rss_kib - before
            victim.process.kill()
            victim.process.wait()
            good.close()
            assert not UNFORESEEN.search(victim.log), victim.log
            assert grown < GROWTH_KIB

    def start() -> Victim:
        end()
        victim = Victim(tmp_path, {"broker": {"data": str(tmp_path / "data")}})
        good = GoodClient(victim.port)
        running.append((victim, good, victim.rss_kib))
        good.served()
        return victim

    OPEN.clear()
    yield start
    try:
        running[-1][1].served()
    finally:
        end()


async def test_cve_2026_8741_qos_2_that_is_sent_is_known_after_a_crash(again):
    """CVE-2026-8741: the identifier is stored before PUBLISH and before PUBREC, not after."""
    near = again()
    reader = await Raw.client(near.port, "reader", **LONG)
    await reader.subscribe("a", qos=2)
    writer = await Raw.client(near.port, "writer", **LONG)
    writer.publish("a", b"1", 2, packet_id=9)
    first = await reader.expect(PUBLISH)
    near = again()  # as soon as it was seen; the writer may have no PUBREC
    writer = await Raw.client(near.port, "writer", **LONG)
    assert writer.hello.session_present
    writer.publish("a", b"1", 2, packet_id=9, dup=True)
    assert (await writer.expect(PUBREC)).code == 0
    near = again()
    writer = await Raw.client(near.port, "writer", **LONG)
    writer.publish("a", b"1", 2, packet_id=9, dup=True)
    assert (await writer.expect(PUBREC)).code == 0
    writer.send(ack_packet(PUBREL, 9))
    assert (await writer.expect(PUBCOMP)).code == 0
    near = again()
    writer = await Raw.client(near.port, "writer", **LONG)
    writer.publish("a", b"2", 2, packet_id=9)  # another message, as the identifier is free
    assert (await writer.expect(PUBREC)).code == 0
    reader = await Raw.client(near.port, "reader", **LONG)
    found = [await reader.expect(PUBLISH) for _ in range(2)]
    assert [(one.payload, one.dup) for one in found] == [(b"1", True), (b"2", True)]
    assert found[0].packet_id == first.packet_id
    reader.send(ack_packet(PUBREC, first.packet_id))
    assert (await reader.expect(PUBREL)).packet_id == first.packet_id
    near = again()
    reader = await Raw.client(near.port, "reader", **LONG)
    left = [await reader.packet() for _ in range(2)]
    assert {(one.kind, one.packet_id) for one in left} == {
        (PUBREL, first.packet_id),
        (PUBLISH, found[1].packet_id),
    }
    await reader.nothing()
