"""The process is killed between each two steps of the promise: nothing acknowledged is lost."""

from __future__ import annotations

import signal
from collections import Counter

import pytest
from kill_course import FAR_STEPS, WINDOW, KillTest
from power_watcher import Watcher

# Each chain of lives begins with messages that go past the log.
INTO_THE_LOG = [
    ("sent, not acknowledged", 5),
    ("held, not in the log", 3),
    ("in the log, not submitted", 4),
    ("submitted, not written", 4),
    ("half a transaction", 10),
    ("written, not committed", 4),
    ("committed, not told", 4),
    ("sent, not acknowledged", 25),
]
OUT_OF_THE_LOG = [
    ("acknowledged, not heard", 5),
    ("told, not released", 4),
    ("released, not sent", 4),
    ("read back, not sent", 1),
    ("acknowledged, not noted", 12),
    ("trimmed, not committed", 2),
    ("trimmed, and committed", 2),
    ("acknowledged, not heard", 25),
]
QOS_2_ONLY = [("released, not completed", 7), ("completed, not heard", 7)]


LIVES = {
    (1, "into"): INTO_THE_LOG,
    (1, "out of"): OUT_OF_THE_LOG,
    (2, "into"): INTO_THE_LOG,
    (2, "out of"): OUT_OF_THE_LOG + QOS_2_ONLY,
}


@pytest.mark.parametrize("way", ["into", "out of"])
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize(
    ("source", "target"),
    [("client", "broker"), ("broker", "client"), ("client", "client"), ("broker", "broker")],
)
async def test_nothing_is_lost_wherever_the_process_is_killed(tmp_path, source, target, qos, way):
    lives = LIVES[qos, way]
    test = KillTest(tmp_path, qos, upstream=source == "broker", local=target == "client")
    await test.start()
    try:
        for step, nth in lives:
            status = await test.life(step, nth)
            assert status == -signal.SIGKILL, f"{step}: not reached {nth} times"
        assert await test.last_life() == 0
    finally:
        await test.stop()
    if isinstance(test.far, Watcher):
        assert not test.far.forgotten
    publisher = test.publisher
    assert len(publisher.acknowledged) > 50
    arrived = Counter(payload for _, payload in test.far.arrived)
    assert publisher.acknowledged - set(arrived) == set()
    assert set(arrived) - publisher.sent == set()
    first: dict[str, list[bytes]] = {}
    for topic, payload in dict.fromkeys(test.far.arrived):
        first.setdefault(topic, []).append(payload)
    assert all(found == sorted(found) for found in first.values())
    repeated = {payload: times for payload, times in arrived.items() if times > 1}
    if qos == 2:
        assert repeated == {}
    else:
        ours = sum(
            times - 1 for payload, times in repeated.items() if payload not in publisher.again
        )
        assert ours <= WINDOW * test.kills


def test_every_step_is_a_death():
    import kill_server

    tried = {step for step, _ in INTO_THE_LOG + OUT_OF_THE_LOG + QOS_2_ONLY}
    assert tried == {*FAR_STEPS, *kill_server.STEPS}
