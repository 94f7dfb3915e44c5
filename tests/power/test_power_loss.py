"""Power is lost: nothing acknowledged is missing from the disk and the far side together."""

from __future__ import annotations

import os

from power_course import Course, PowerTest

CUTS = int(os.environ.get("ISTHMUS_POWER_CUTS", "12"))
"""Moments at which power is lost, each in two ways; `python -m tests.power` makes a report."""


async def test_nothing_acknowledged_is_lost(tmp_path):
    course = Course(cuts=CUTS, messages=80, seed=CUTS, version=5)
    result = await PowerTest(tmp_path, course, lambda _: None).run()
    assert result.wrong == []
    assert result.cuts == 2 * CUTS
    assert result.acknowledged > 500
    assert result.checked > 0
    # There was something to lose, and the log was copied back and begun anew.
    assert result.later_changes.lost > 0
    assert result.checkpoints > 3


async def test_a_store_that_is_not_synchronous_is_seen(tmp_path):
    pragmas = (*Course().pragmas, "synchronous=NORMAL")
    course = Course(cuts=8, messages=20, restarts=0, pragmas=pragmas)
    result = await PowerTest(tmp_path, course, lambda _: None).run()
    assert any("acknowledged messages lost" in text for text in result.wrong), result
