"""How far apart transactions begin, so that many records go to the disk together.

A commit costs nearly the same for one record and for hundreds: time of the disk and its wear, time
of the processor, and of whoever shares it with the thread that writes. Where records keep coming by
themselves, it pays to wait for more of them. Who sends more only when what he sent is answered is
not made to wait for that.

Which of the two it is, the records tell: a longer spacing is tried for a moment, and kept unless
fewer of them come.
"""

from __future__ import annotations

from math import inf

from isthmus.clock import TIMER_S

SPACINGS_S = (0.0, 0.003, 0.008, 0.02)
"""From the beginning of a transaction to that of the next, at least: so much later a message that
goes to the disk is answered."""

LOOK_S = 0.003
"""So often it is looked whether there are enough, or somebody waits for more than records."""

ENOUGH = 400
"""With so many records, the cost of the commit is small for each."""

JUDGED_RECORDS = 256
JUDGED_COMMITS = 32
JUDGED_S = 1.0
"""How many records per second come is judged by so many records of so many transactions, or by what
came in this time; a longer pause is the end of a stream."""

LOST = 0.85
"""With less than this part of the records that a shorter spacing gets, it is the shorter one."""

LOST_RECORDS = 32
LOST_COMMITS = 4
"""A trial ends early where so many records should have come, and less than half of them came, in so
many transactions."""

CHANGED = 0.7
"""Where one judgement finds less than this part of another, other publishers send now."""

SELDOM = 64
"""A spacing that stands is judged so often, at most, before another one is tried again."""


class Gathering:
    """When the open transaction goes to the writer; times are in seconds of one clock."""

    __slots__ = (
        "_begun", "_commits", "_level", "_longer", "_pause", "_rate", "_records", "_settled",
        "_since", "_to_go",
    )  # fmt: skip

    def __init__(self) -> None:
        self._begun = -inf
        self._settle(0, -inf)
        self._judge_from(-inf)

    def begun(self, records: int, now: float) -> None:
        """A transaction with so many records goes to the writer."""
        if not records:
            return
        paused = now - self._begun > JUDGED_S
        self._begun = now
        if paused:
            self._settle(0, 0.0)
            self._judge_from(now)
            return
        self._records += records
        self._commits += 1
        took_s = now - self._since
        if took_s >= JUDGED_S or (took_s > 0 and self._is_clear(took_s)):
            self._judge(self._records / took_s)
            self._judge_from(now)

    def left_s(self, now: float) -> float:
        """How long it is until the next one may go, or is looked at again."""
        left_s = self._begun + SPACINGS_S[self._level] - now
        return 0.0 if left_s < TIMER_S else min(left_s, LOOK_S)

    def goes_on(self, records: int, now: float) -> bool:
        """Whether to look again in `left_s`, with so many records until now."""
        if not self.left_s(now):
            return False
        if records < ENOUGH:
            return True
        # They come so fast that a shorter spacing is as good.
        self._settle(self._level - 1, 0.0)
        self._judge_from(now)
        return False

    def _settle(self, level: int, rate: float) -> None:
        """Use this spacing, at which so many records come per second, as far as is known."""
        # Its place among all; and that of the one that was used before a trial.
        self._level = self._settled = level
        self._rate = rate
        # How often it is judged before the next trial, of how many times; and whether that one is
        # to be longer.
        self._to_go = self._pause = 1
        self._longer = True

    def _judge_from(self, now: float) -> None:
        self._since = now
        self._records = self._commits = 0

    def _is_clear(self, took_s: float) -> bool:
        """Whether enough records came to judge, or so few that a trial costs records."""
        if self._records >= JUDGED_RECORDS and self._commits >= JUDGED_COMMITS:
            return True
        if self._level == self._settled or self._commits < LOST_COMMITS:
            return False
        wanted = self._rate * LOST * took_s
        return wanted >= LOST_RECORDS and self._records < wanted / 2

    def _judge(self, rate: float) -> None:
        if self._level != self._settled:
            longer = self._level > self._settled
            most, least = (self._rate, rate) if longer else (rate, self._rate)
            if (least >= LOST * most) == longer:
                self._settle(self._level, rate)
                self._longer = longer
            else:
                self._level = self._settled
                self._to_go = self._pause = min(2 * self._pause, SELDOM)
            return
        if min(rate, self._rate) < CHANGED * max(rate, self._rate):
            self._to_go = self._pause = 1
        self._rate = rate
        self._to_go -= 1
        if not self._to_go:
            self._try()

    def _try(self) -> None:
        """Use another spacing for a while: in turn a longer one and a shorter one."""
        longer = self._level + 1
        can_be_longer = longer < len(SPACINGS_S) and self._rate * SPACINGS_S[longer] < ENOUGH
        if can_be_longer and (self._longer or not self._level):
            self._level = longer
        elif self._level:
            self._level -= 1
        else:
            self._to_go = self._pause
        self._longer = not self._longer
