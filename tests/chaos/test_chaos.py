"""A short crash test: nothing acknowledged is lost, and order holds, whatever is killed or cut."""

from __future__ import annotations

import pytest
from chaos_course import Chaos, Course
from chaos_nine import PUBLISHERS, WINDOW, NineCourse, NineFaults, longest


@pytest.mark.parametrize(
    ("version", "seed", "qos", "system"),
    [
        (4, 1, 1, "isthmus"),
        (5, 2, 1, "isthmus"),
        (5, 3, 2, "isthmus"),
        (5, 4, 1, "isthmus-overtaking"),
    ],
)
async def test_nothing_acknowledged_is_lost_whatever_is_killed_or_cut(
    tmp_path, version, seed, qos, system
):
    said: list[str] = []
    course = Course(system=system, rounds=8, qos=qos, version=version, seed=seed, rate=500)
    result = await Chaos(tmp_path, course, said.append).run()
    account = result.account
    told = "\n".join([str(account), *result.stories, *said])  # a tuple would be cut short
    assert sum(result.faults.values()) == 8, told
    assert account.acknowledged > 1000, told
    assert (account.lost, account.invented, account.refused) == (0, 0, 0), told
    if course.in_order:
        assert account.disordered == 0, told
    assert account.duplicates <= (8 * course.again if qos == 1 else 0), told
    assert result.turned_by["publisher"] == 0, "the test has to send in order itself"


KILLS = ("kill -9", "cut, backlog, kill -9")
"""Publishers repeat here what is safe and not acknowledged yet: their windows count too."""


@pytest.mark.parametrize(("qos", "again"), [(1, WINDOW), (2, 0)])
async def test_nine_faults_lose_nothing_and_bring_no_more_than_the_window_again(
    tmp_path, qos, again
):
    said: list[str] = []
    course = NineCourse(seeds=1, qos=qos, version=5, fault_s=0.6, turn_s=1.5)
    result = await NineFaults(tmp_path, course, said.append).run()
    assert len(result.tallies) == 9
    total, told = result.total, "\n".join(said)
    assert total.acknowledged > 2000, told
    assert (total.lost, total.disordered) == (0, 0), told
    assert (result.invented, result.refused) == (0, 0), told
    for fault, tally in result.tallies.items():
        most = again * (1 + PUBLISHERS) if fault in KILLS else again
        assert tally.duplicates <= most, f"{fault}\n{told}"
        # Two processes of tests share the machine.
        assert 0 <= longest(tally.back_s) < 8, f"{fault}\n{told}"
