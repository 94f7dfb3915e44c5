"""What is done in a log, in any order, is what a set of numbers would say; also after a restart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from isthmus.store.log import Log, State

LAST = 40


class Nowhere:
    """A store that keeps nothing."""

    def note(self, log: Log) -> None:
        pass


def new(state: State) -> Log:
    return Log(Nowhere(), state)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.sampled_from(["done", "skip", "restart"]), st.integers(1, LAST))))
def test_done_and_given_up_records_are_those_of_a_set(steps: list[tuple[str, int]]) -> None:
    log = new(State(1, "a", LAST + 1, 1, b"", b""))
    model: set[int] = set()
    for step, seq in steps:
        if step == "restart":
            log = new(log.state())
            continue
        before = log.unrecorded, log.given_up
        getattr(log, step)(seq)
        new_ones = int(seq not in model)
        given_up = new_ones if step == "skip" else 0
        assert log.unrecorded - before[0] == new_ones - given_up
        assert log.given_up - before[1] == given_up
        model.add(seq)
        left = [one for one in range(1, LAST + 1) if one not in model]
        assert [one for one in range(1, LAST + 1) if not log.is_done(one)] == left
        assert len(log) == len(left)
        assert log.done_below == min(left, default=LAST + 1)
