"""A pool that is another one than before the process started, and no topic out of order.

With another pool most topics go by another member. A new message could overtake what waits on disk
for the member that its topic had before. So what comes after such a change is written to disk, and
none of it is sent before all that waited then is acknowledged. That is a *stage*; where the pool
has changed again before that, there are several, one after the other.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from isthmus import clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.delivery.backlog import Backlog

log = logging.getLogger("isthmus.delivery")

STUCK_S = 2.0
"""How long what waits for a member that is down holds up the others, while one is connected."""

OPEN = 1 << 62
"""The gate of a backlog that waits for no other one."""


class Barrier:
    """Holds back what of `backlogs` is behind the first of `stages`.

    There is at least one. A stage has by the name of a log the first record that is behind it, 1
    where it does not name the log. `changed` is told the stages that are left when one has ended.

    A member that is down holds up the others for `STUCK_S`, as with a change of the pool while the
    process runs. The order of the topics that it had is then no longer kept.
    """

    def __init__(
        self,
        backlogs: list[Backlog],
        stages: list[dict[str, int]],
        changed: Callable[[list[dict[str, int]]], None],
    ) -> None:
        self._backlogs = backlogs
        self.stages = stages
        self._changed = changed
        self._stuck_since: float | None = None
        for backlog in backlogs:
            backlog.barrier = self
        self._set_gates()
        self.look()

    def _set_gates(self) -> None:
        for backlog in self._backlogs:
            backlog.gate = self.stages[0].get(backlog.log.name, 1) if self.stages else OPEN

    def look(self) -> None:
        """Something was acknowledged, or time has passed: perhaps the rest may go."""
        before = len(self.stages)
        while self.stages:
            ahead = [
                backlog
                for backlog in self._backlogs
                if len(backlog.log) and backlog.log.done_below < min(backlog.gate, backlog.log.next)
            ]
            if ahead and not self._is_stuck(ahead):
                break
            self.stages.pop(0)
            self._set_gates()
        if len(self.stages) == before:
            return
        self._changed(self.stages)
        backlogs = list(self._backlogs)
        if not self.stages:
            self._backlogs.clear()
            for backlog in backlogs:
                backlog.barrier = None
        for backlog in backlogs:
            if backlog.lane.link is not None:
                backlog.lane.look_for_room()

    def _is_stuck(self, ahead: list[Backlog]) -> bool:
        connected = [backlog for backlog in self._backlogs if backlog.lane.link is not None]
        if not connected or any(backlog in ahead for backlog in connected):
            self._stuck_since = None
            return False
        now = clock.monotonic()
        if self._stuck_since is None:
            self._stuck_since = now
        if now - self._stuck_since < STUCK_S:
            return False
        self._stuck_since = None
        log.warning(
            "what waits on disk for a connection that is down (%s) holds up the others no longer: "
            "new messages of its topics may arrive before it",
            ", ".join(sorted({backlog.lane.name for backlog in ahead})),
        )
        return True
