"""A message that goes round without hops is noticed by how often it comes."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from isthmus.delivery.hops import Hops
from isthmus.delivery.ring_watch import LASTING_S, SAME_PER_S, RingWatch


def message(topic: bytes = b"t", payload: bytes = b"x", properties: bytes = b"") -> tuple[Any, ...]:
    return 2, topic, b"\0\1", properties, payload


class Scene:
    """A watch, and a clock that goes on by one read."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, "isthmus.delivery")
        self.watch = RingWatch("cloud")
        self.now = 1000.0
        self._caplog = caplog

    def reads(self, per_s: int, seconds: float, *events: Any) -> int:
        """So many reads of these events; how many warnings there are now."""
        for _ in range(int(per_s * seconds)):
            self.watch.look(list(events), self.now)
            self.now += 1 / per_s
        return len(self._caplog.records)


@pytest.mark.parametrize("behind", [[], [[b"\0\1", b"\0\2"]]])
def test_a_message_that_comes_again_and_again_is_said_once(caplog: Any, behind: Any) -> None:
    """Also where acknowledgements come in the same reads."""
    scene = Scene(caplog)
    assert scene.reads(2 * SAME_PER_S, LASTING_S, message(), *behind) == 0
    assert scene.reads(2 * SAME_PER_S, 3, message(), *behind) == 1
    assert scene.reads(2 * SAME_PER_S, 3 * LASTING_S, message(), *behind) == 1
    assert "connector cloud" in caplog.text
    assert "'t'" in caplog.text


def test_it_is_found_among_others(caplog: Any) -> None:
    scene = Scene(caplog)
    for number in range(200 * (LASTING_S + 3)):
        scene.reads(200, 1 / 200, message(payload=b"%d" % number if number % 3 == 1 else b"round"))
    assert len(caplog.records) == 1


def test_what_comes_seldom_or_for_a_short_time_is_no_ring(caplog: Any) -> None:
    scene = Scene(caplog)
    assert scene.reads(SAME_PER_S // 2, 3 * LASTING_S, message()) == 0
    for _ in range(5):
        assert scene.reads(2 * SAME_PER_S, LASTING_S - 2, message()) == 0
        scene.now += 5


def test_other_messages_and_other_packets_are_no_ring(caplog: Any) -> None:
    scene = Scene(caplog)
    for number in range(400 * LASTING_S):
        scene.reads(200, 1 / 200, message(payload=b"%d" % number))
    assert scene.reads(200, 3 * LASTING_S, [b"\0\1"]) == 0
    assert scene.reads(200, 3 * LASTING_S) == 0
    for number in range(400 * LASTING_S):
        scene.reads(200, 1 / 200, message(topic=b"t/%d" % (number % 10)))
    assert not caplog.records


def test_what_carries_hops_is_no_ring(caplog: Any) -> None:
    """The loop guard ends it, so as many equal ones are those of a publisher."""
    scene = Scene(caplog)
    stamped = message(properties=Hops().stamp())
    assert scene.reads(2 * SAME_PER_S, 3 * LASTING_S, stamped) == 0
    assert scene.reads(2 * SAME_PER_S, 1, message(), stamped, message(b"other")) == 0
    assert scene.reads(2 * SAME_PER_S, 3 * LASTING_S, stamped) == 0
    assert scene.reads(2 * SAME_PER_S, LASTING_S + 3, message(properties=b"\x01\x01")) == 1
