"""Progress: how far logs have got, written ahead of a transaction for which there is no room."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from isthmus.store import schema
from isthmus.store.log_changes import LAST, finished, sizes_of, tell
from isthmus.store.statement import Statement, statements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isthmus.store.log import Log, Step
    from isthmus.store.log_changes import LogChanges


class Progress:
    """What is done in logs, without their new records; and logs that are deleted."""

    def __init__(self) -> None:
        self._steps: dict[Log, Step] = {}
        self._dropped: dict[Log, None] = {}

    def note(self, changes: Sequence[LogChanges]) -> bool:
        """See what `changes` have of it; whether there is something that was not here before.

        While something is on its way from one log to another that stays, no log is deleted: what
        it had may not be on disk anywhere else. Of a log that has never had a record on disk there
        is nothing to say; its name may be that of one which is deleted, and still has its row.
        """
        gone = dict.fromkeys(log for part in changes for log in part.dropped)
        changed = dict.fromkeys(
            log for part in changes for log in part.changed if log.stored > 1 and log not in gone
        )
        dropped = {} if any(log.moves(gone) for log in (*changed, *gone)) else gone
        steps = {log: log.step(dropped) for log in changed}
        if dropped == self._dropped and all(
            log in self._steps and self._steps[log].state == step.state
            for log, step in steps.items()
        ):
            return False
        self._steps, self._dropped = steps, dropped
        return True

    def statements(self) -> list[Statement]:
        """How far the logs have got; before what is deleted."""
        rows = [tuple(step.state) for step in self._steps.values()]
        found = statements(schema.SET_LOGS, 7, rows)
        return found + statements(schema.EMPTY_LOGS, 1, [(log.id,) for log in self._dropped])

    def spans(self) -> list[tuple[int, int, int]]:
        """What may be deleted then: of which log, the first and the end."""
        found = [span for log, step in self._steps.items() for span in finished(log, step.state)]
        return found + [(log.id, 0, LAST) for log in self._dropped]

    @property
    def question(self) -> str:
        """The statement that asks for the sizes of the logs."""
        return sizes_of(self._steps)

    def committed(self, sizes: dict[int, int]) -> None:
        """All of it is on disk; `sizes` are the bytes of the logs there, by their numbers."""
        for log in self._dropped:
            log.dropped()
        for log, step in self._steps.items():
            tell(log, partial(log.stepped, step, sizes[log.id]))
