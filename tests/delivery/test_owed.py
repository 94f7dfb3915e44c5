"""Who waits for a log to be on disk is released once, in order, and no sooner."""

from __future__ import annotations

import pytest
from delivery_peers import Owed as Sources
from hypothesis import given
from hypothesis import strategies as st

from isthmus.delivery.owed import Owed
from isthmus.delivery.receipt import Receipt


def test_a_receipt_is_released_when_its_last_message_is_on_disk() -> None:
    sources, owed = Sources(), Owed()
    receipt = sources.receipt()
    receipt.holds = 3
    for seq in (1, 2, 3):
        owed.add(receipt, seq)
    owed.release(4)
    assert not sources.done  # nobody has said that it is about to be written
    owed.close()
    owed.release(3)
    assert not sources.done
    owed.release(4)
    assert sources.done == [receipt]
    owed.release(100)
    owed.release_all()
    assert len(sources.done) == 1


def test_one_that_fails_leaves_the_others_for_the_next_time() -> None:
    class Failing(Sources):
        def settled(self, receipt: Receipt) -> None:
            super().settled(receipt)
            if len(self.done) == 2:
                raise RuntimeError("a fault")

    sources, owed = Failing(), Owed()
    receipts = [sources.receipt() for _ in range(4)]
    for seq, receipt in enumerate(receipts):
        owed.add(receipt, seq)
    owed.close()
    with pytest.raises(RuntimeError, match="a fault"):
        owed.release(4)
    assert sources.done == receipts[:2]
    owed.release(4)
    assert sources.done == receipts


def test_what_is_forgotten_meanwhile_is_released_once() -> None:
    """A receipt that settles may end what the log is for."""
    owed = Owed()

    class Ending(Sources):
        def settled(self, receipt: Receipt) -> None:
            super().settled(receipt)
            owed.release_all()

    sources = Ending()
    receipts = [sources.receipt() for _ in range(4)]
    for seq, receipt in enumerate(receipts):
        owed.add(receipt, seq)
    owed.close()
    owed.release(2)
    assert sorted(map(id, sources.done)) == sorted(map(id, receipts))


@given(st.lists(st.sampled_from(["same", "other", "close", "release"]), max_size=40))
def test_as_many_holds_are_given_back_as_messages_are_on_disk(work: list[str]) -> None:
    sources, owed = Sources(), Owed()
    added: list[Receipt] = []
    receipt = sources.receipt()
    stored = closed = 0
    for step in work:
        if step == "close":
            owed.close()
            closed = len(added)
        elif step == "release":
            stored = closed
            owed.release(stored)
        else:
            if step == "other":
                receipt = sources.receipt()
            receipt.holds += 1
            owed.add(receipt, len(added))
            added.append(receipt)
        waiting = added[stored:]
        assert all(one.holds == 1 + waiting.count(one) for one in added)
    owed.release_all()
    assert all(one.holds == 1 for one in added)
