"""Checks of logins that wait for a thread, shared out fairly.

A flood of wrong logins must not keep good clients waiting. So credentials that were good before go
first, which nobody can claim who does not know them, and all others take turns by where they come
from: a flood from one address delays only its own. When the queue is full, who has most in it loses
one.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

T = TypeVar("T")

MAX_WAITING = 1000
"""Checks that may wait, unless the owner says so: more than two threads get done before the clients
lose patience."""


class Check(Generic[T]):
    """One question, shared by all who ask it at the same time.

    `work` finds the answer, on a thread. `waiters` say whether they have gone; `source` is where
    the first of them is.
    """

    __slots__ = ("answer", "key", "source", "waiters", "work")

    def __init__(
        self,
        key: bytes,
        work: Callable[[], T],
        source: str,
        answer: asyncio.Future[T | None],
    ) -> None:
        self.key = key
        self.work = work
        self.source = source
        self.answer = answer
        self.waiters: list[Callable[[], bool]] = []


class CheckQueue(Generic[T]):
    """Checks in the order in which they get a thread; at most `maximum` from strangers."""

    __slots__ = ("_known", "_sources", "_strangers", "maximum")

    def __init__(self, maximum: int = MAX_WAITING) -> None:
        self.maximum = maximum
        self._known: deque[Check[T]] = deque()
        self._sources: dict[str, deque[Check[T]]] = {}  # in the order of their turns
        self._strangers = 0

    def __len__(self) -> int:
        return len(self._known) + self._strangers

    def add(self, check: Check[T], *, known: bool) -> Check[T] | None:
        """Take `check`; the one that loses its place, which may be `check` itself, or None."""
        if known:
            self._known.append(check)
            return None
        loser = None
        if self._strangers >= self.maximum:
            own = len(self._sources.get(check.source, ()))
            longest = max(self._sources.values(), key=len)
            if own + 1 >= len(longest):
                return check
            loser = longest[-1]
            self.discard(loser)
        self._sources.setdefault(check.source, deque()).append(check)
        self._strangers += 1
        return loser

    def pop(self) -> Check[T] | None:
        """Take out the one whose turn it is; None if there is none."""
        if self._known:
            return self._known.popleft()
        if not self._sources:
            return None
        source = next(iter(self._sources))
        waiting = self._sources.pop(source)
        check = waiting.popleft()
        if waiting:
            self._sources[source] = waiting  # behind all others
        self._strangers -= 1
        return check

    def discard(self, check: Check[T]) -> None:
        """Take `check` out, if it is there."""
        waiting = self._sources.get(check.source)
        if waiting is not None and check in waiting:
            waiting.remove(check)
            self._strangers -= 1
            if not waiting:
                del self._sources[check.source]
        elif check in self._known:
            self._known.remove(check)
