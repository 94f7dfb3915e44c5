"""The gate and its buckets: who may come in, and what it remembers of them."""

from __future__ import annotations

import pytest

from isthmus.net.gate import BURST_S, REMEMBERED, Gate
from isthmus.net.token_bucket import TokenBucket

# -- buckets -------------------------------------------------------------------------------------


def test_a_bucket_saves_up_one_second():
    bucket = TokenBucket(5.0, 100.0)
    assert [bucket.take(100.0) for _ in range(6)] == [True] * 5 + [False]
    assert bucket.ready_at(100.0) == pytest.approx(100.2)
    assert bucket.take(100.2)
    assert not bucket.take(100.2)
    assert [bucket.take(200.0) for _ in range(6)] == [True] * 5 + [False]


def test_a_slow_rate_lets_single_messages_through():
    bucket = TokenBucket(1 / 60, 0.0)
    assert bucket.take(0.0)
    assert not bucket.take(59.9)
    assert bucket.take(60.0)


def test_what_is_spent_already_has_to_be_paid_for():
    bucket = TokenBucket(10.0, 0.0)
    assert bucket.spend(10, 0.0, 10.0) == 0
    assert bucket.spend(5, 0.0, 10.0) == pytest.approx(0.5)
    assert bucket.spend(0, 0.3, 10.0) == pytest.approx(0.2)
    assert not bucket.take(0.5)
    assert bucket.take(0.6)
    assert bucket.spend(10_000, 0.6, 10.0) == pytest.approx(10.0)  # the rest is forgiven
    assert bucket.spend(0, 10.6, 10.0) == pytest.approx(0.0)


# -- the gate ------------------------------------------------------------------------------------


class Doorman:
    """A gate with a clock, and what it refused."""

    def __init__(self, **limits: object) -> None:
        self.refused: list[tuple[str, str]] = []
        self.gate = Gate(lambda limit, peer: self.refused.append((limit, peer[0])), lambda *_: None)
        self.now = 1000.0
        self.change(**limits)

    def change(self, **limits: object) -> None:
        wanted = {"per_address": None, "rate": None, "in_all": None, **limits}
        self.gate.change(**wanted, now=self.now)

    def enter(self, host: str) -> bool:
        return self.gate.enter((host, 1234), self.now)

    def leave(self, host: str) -> None:
        self.gate.leave((host, 1234))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%lo", "fe80::2%lo", True),
    ],
)
def test_what_counts_as_one_address(first, second, same):
    door = Doorman(per_address=1)
    assert door.enter(first)
    assert door.enter(second) is not same
    assert door.refused == ([("connections_per_address", second)] if same else [])
    door.leave(first)
    assert door.enter(second) is same


def test_unix_sockets_have_no_address():
    door = Doorman(per_address=1, rate=0.1)
    assert all(door.gate.enter("unix:/run/x", 1000.0) for _ in range(50))
    door.gate.leave("unix:/run/x")
    assert len(door.gate) == 0


def test_a_place_is_free_again_and_leaves_nothing():
    door = Doorman(per_address=2)
    assert [door.enter("192.0.2.1") for _ in range(3)] == [True, True, False]
    door.leave("192.0.2.1")
    assert [door.enter("192.0.2.1") for _ in range(2)] == [True, False]
    for _ in range(2):
        door.leave("192.0.2.1")
    assert len(door.gate) == 0
    door.leave("192.0.2.1")  # nothing to leave
    assert [door.enter("192.0.2.1") for _ in range(3)] == [True, True, False]


def test_a_limit_that_is_set_later_counts_who_is_there():
    door = Doorman()
    assert all(door.enter("192.0.2.1") for _ in range(5))
    door.change(per_address=5)
    assert not door.enter("192.0.2.1")
    door.change()
    assert door.enter("192.0.2.1")


def test_a_rate_of_one_address_with_its_burst():
    door = Doorman(rate=2.0)
    burst = int(2 * BURST_S)
    assert [door.enter("192.0.2.1") for _ in range(burst + 3)] == [True] * burst + [False] * 3
    assert door.enter("192.0.2.2")
    assert door.refused == [("connect_rate", "192.0.2.1")] * 3
    door.now += 1
    assert [door.enter("192.0.2.1") for _ in range(3)] == [True, True, False]


def test_who_is_refused_for_the_rate_takes_no_place():
    door = Doorman(rate=0.1, per_address=2)
    assert [door.enter("192.0.2.1") for _ in range(5)] == [True] + [False] * 4
    door.leave("192.0.2.1")
    door.now += 10
    assert door.enter("192.0.2.1")
    assert {limit for limit, _ in door.refused} == {"connect_rate"}


def test_a_rate_in_all_refuses_nobody_and_says_when():
    door = Doorman(in_all=5.0)
    for _ in range(int(5 * BURST_S)):
        assert door.gate.opens_at(door.now) <= door.now
        assert door.enter("192.0.2.1")
    assert door.gate.opens_at(door.now) == pytest.approx(door.now + 0.2)
    assert door.enter("192.0.2.2")  # its PROXY header came while others did
    assert door.gate.opens_at(door.now) == pytest.approx(door.now + 0.4)
    assert door.refused == []


def test_who_is_refused_does_not_use_up_the_rate_of_all():
    door = Doorman(in_all=5.0, per_address=1)
    for _ in range(500):
        door.enter("192.0.2.1")
    assert door.gate.opens_at(door.now) <= door.now


def test_strangers_from_many_addresses_take_bounded_memory():
    door = Doorman(rate=0.1)
    assert door.enter("203.0.113.1")
    for number in range(5 * REMEMBERED):
        host = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        assert door.enter(host)
        door.leave(host)
        if not number % (REMEMBERED // 2):
            assert not door.enter("203.0.113.1")  # who comes again is not forgotten
    assert len(door.gate) <= 2 * REMEMBERED + 1
