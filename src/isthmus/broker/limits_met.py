"""Where clients met a limit: counted exactly, and said in the log where nothing else says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isthmus.metrics.log_limit import LogLimit


class LimitsMet:
    """Refusals by limit.

    `counts` maps the name of a setting in `broker.limits` to how often something was refused, or a
    client was made to wait, because of it.
    """

    __slots__ = ("_lines", "counts")

    def __init__(self, lines: LogLimit) -> None:
        self._lines = lines
        self.counts: dict[str, int] = {}

    def count(self, limit: str) -> None:
        """Count one."""
        self.counts[limit] = self.counts.get(limit, 0) + 1

    def say(self, limit: str, identity: str, text: str) -> None:
        """Count one, and log `text` once a minute for each `identity`: who it was."""
        self.count(limit)
        key = f"broker.limits.{limit}"
        self._lines.line(key, identity, f"{text}; see {key}")
