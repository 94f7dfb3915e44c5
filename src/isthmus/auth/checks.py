"""Slow questions about logins, answered by a few threads while the loop goes on.

A good hash costs tenths of a second of CPU by design, and a web service takes as long as it likes.
Three things keep a reconnect storm from paying that for every client: good answers of a moment ago
are remembered (under an HMAC with a key of this process, never with the credentials), equal
questions that arrive together share one check, and what waits for a thread is bounded and fair
(`check_queue.py`). Bad answers are not remembered; a guess costs its full price every time.
Nothing is done for a client that has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

from isthmus import clock
from isthmus.auth.check_queue import MAX_WAITING, Check, CheckQueue
from isthmus.auth.digest import Digest
from isthmus.errors import ProtocolViolation
from isthmus.net.recent import Recent

T = TypeVar("T")

REMEMBERED = 16_384
"""Good answers per generation; there are two, young and old."""

SERVER_BUSY = 0x89
"""The reason code for a login that finds no place in the queue (3 in MQTT 3)."""


class Checks(Generic[T]):
    """Questions of one kind. Not thread-safe: it belongs to the event loop.

    Args:
        threads: How many checks run at the same time.
        keep_s: How long an answer is remembered, in seconds; 0 is not at all.
        waiting: How many checks of strangers may wait.
        now: Monotonic seconds.

    `key` makes what stands for a question of its parts.
    """

    def __init__(
        self,
        threads: int,
        keep_s: Callable[[T], float],
        *,
        waiting: int = MAX_WAITING,
        now: Callable[[], float] = clock.monotonic,
    ) -> None:
        self.queue: CheckQueue[T] = CheckQueue(waiting)
        self._threads = threads
        self._keep_s = keep_s
        self._now = now
        self.key = Digest()
        self._kept: Recent[tuple[float, T]] = Recent(REMEMBERED)
        self._pending: dict[bytes, Check[T]] = {}
        self._running = 0
        self._pool: ThreadPoolExecutor | None = None

    def remembered(self, key: bytes) -> T | None:
        """The answer to this question, if it is still good."""
        found = self._kept.get(key)
        return found[1] if found is not None and self._now() < found[0] else None

    def conclude(self, key: bytes, answer: T) -> T:
        """Remember an answer if it is one to be remembered; returns it."""
        keep_s = self._keep_s(answer)
        if keep_s > 0:
            self._kept.put(key, (self._now() + keep_s, answer))
        return answer

    async def ask(
        self, key: bytes, work: Callable[[], T], *, source: str, gone: Callable[[], bool]
    ) -> T | None:
        """Have `work` done on a thread, once for all who ask the same. Cancelling it is safe.

        Returns None if all who asked have gone, or the checks were closed.

        Raises:
            ProtocolViolation: Too many wait already (0x89).
        """
        check = self._pending.get(key)
        if check is None:
            answer: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
            check = Check(key, work, source, answer)
            check.waiters.append(gone)
            self._enqueue(check)
        else:
            check.waiters.append(gone)
        try:
            # One of several that wait may be cancelled; the check goes on for the others.
            return await asyncio.shield(check.answer)
        finally:
            check.waiters.remove(gone)
            if not check.waiters:
                self.queue.discard(check)
                self._forget(check)

    def close(self) -> None:
        """End the threads. Who waits for a check that has not begun gets None."""
        self._pending = {}
        while (check := self.queue.pop()) is not None:
            check.answer.set_result(None)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _enqueue(self, check: Check[T]) -> None:
        key = check.key
        self._pending[key] = check
        # Also credentials whose time is over were good once.
        loser = self.queue.add(check, known=self._kept.get(key) is not None)
        if loser is not None:
            self._forget(loser)
            loser.answer.set_exception(
                ProtocolViolation("too many logins wait for their turn", SERVER_BUSY)
            )
        self._start()

    def _start(self) -> None:
        """Give a thread to those whose turn it is."""
        while self._running < self._threads and (check := self.queue.pop()) is not None:
            if all(gone() for gone in check.waiters):
                self._forget(check)
                check.answer.set_result(None)
                continue
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="isthmus-auth")
            self._running += 1
            done = asyncio.get_running_loop().run_in_executor(self._pool, check.work)
            done.add_done_callback(partial(self._done, check))

    def _done(self, check: Check[T], done: asyncio.Future[T]) -> None:
        self._running -= 1
        self._forget(check)
        answer = check.answer
        if done.cancelled():
            answer.set_result(None)
        elif (error := done.exception()) is not None:
            answer.set_exception(error)
            answer.exception()  # perhaps nobody waits any more, which is no fault
        else:
            answer.set_result(self.conclude(check.key, done.result()))
        self._start()

    def _forget(self, check: Check[T]) -> None:
        if self._pending.get(check.key) is check:
            del self._pending[check.key]
