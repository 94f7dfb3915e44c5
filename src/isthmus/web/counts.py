"""What happened on the HTTP port since the start, in plain counters."""

from __future__ import annotations


class Counts:
    """Counters of one HTTP port; `open` is now.

    `answers` are those sent, by status. Connections that were closed without one: `crowded` as
    there were too many, `slow` as a request took too long. `malformed` ones were no HTTP.
    """

    __slots__ = ("answers", "crowded", "malformed", "open", "slow")

    def __init__(self) -> None:
        self.answers: dict[int, int] = {}
        self.crowded = 0
        self.malformed = 0
        self.open = 0
        self.slow = 0
