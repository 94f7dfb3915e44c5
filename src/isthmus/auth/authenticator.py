"""Whether a client is who it says, without stopping the event loop for it.

A good hash costs tenths of a second of CPU by design. Three things keep a reconnect storm from
paying that for every client: credentials verified a moment ago are remembered (as an HMAC with a
key of this process, never as they are), equal questions that arrive together share one check, and
slow checks run on a few threads while the loop goes on. Wrong credentials are not remembered; a
guess costs its full price every time. What waits for a thread is bounded and fair
(`check_queue.py`), and nothing is computed for a client that has gone.
"""

import asyncio
import hmac
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from isthmus import clock
from isthmus.auth.check_queue import Check, CheckQueue
from isthmus.auth.passwords import PasswordFile
from isthmus.errors import ProtocolViolation

REMEMBER_S = 60.0
"""A changed or revoked password works this long at most, unless `replace` is called."""

REMEMBERED = 16_384
"""Verified credentials per generation; there are two, young and old."""

THREADS = 2
"""Checks at the same time; more would only take CPU from the messages."""

SERVER_BUSY = 0x89
"""The reason code for a login that finds no place in the queue (3 in MQTT 3)."""


def never() -> bool:
    """Stands for `gone` where nobody can tell."""
    return False


class Authenticator:
    """Decides who may connect. Not thread-safe: it belongs to the event loop.

    Without a password file there is nothing to verify a name with: then everybody is as good as
    anonymous, and `identity` is None for all.
    """

    def __init__(
        self,
        passwords: PasswordFile | None,
        *,
        allow_anonymous: bool,
        now: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._passwords = passwords
        self._allow_anonymous = allow_anonymous
        self._now = now
        self._key = secrets.token_bytes(32)
        self._young: dict[bytes, float] = {}
        self._old: dict[bytes, float] = {}
        self._pending: dict[bytes, Check] = {}
        self._queue = CheckQueue()
        self._running = 0
        self._pool: ThreadPoolExecutor | None = None

    def identity(self, username: str | None) -> str | None:
        """Return the user name that rights may be given to, after a successful check."""
        return username if self._passwords is not None else None

    def cached(self, username: str | None, password: bytes | None) -> bool | None:
        """Answer at once where no hash is needed: yes, no, or None for `authenticate`."""
        if self._passwords is None:
            return self._allow_anonymous
        if username is None:
            # A password without a user name (MQTT 5) is a token that nothing here can verify.
            return self._allow_anonymous and password is None
        if not password:
            return False
        return True if self._remembers(self._digest(username, password)) else None

    async def authenticate(
        self,
        username: str | None,
        password: bytes | None,
        *,
        source: str = "",
        gone: Callable[[], bool] = never,
    ) -> bool:
        """Whether the client may connect. Cancelling it is safe.

        `source` says where the client is; clients of one source share their turns. `gone` is asked
        when the turn has come: for a client that has gone nothing is computed, and the answer is
        no.

        Raises:
            ProtocolViolation: Too many wait already (0x89).
        """
        while True:
            passwords = self._passwords
            answer = self.cached(username, password)
            if answer is not None or passwords is None or username is None or password is None:
                return bool(answer)
            digest = self._digest(username, password)
            if not passwords.is_slow(username):
                return self._conclude(digest, passwords.verify(username, password))
            check = self._pending.get(digest)
            if check is None:
                check = Check(
                    digest,
                    passwords,
                    username,
                    password,
                    source=source,
                    answer=asyncio.get_running_loop().create_future(),
                )
                self._enqueue(check, gone)
            else:
                check.waiters.append(gone)
            try:
                # One of several that wait may be cancelled; the check goes on for the others.
                verified = await asyncio.shield(check.answer)
            finally:
                check.waiters.remove(gone)
                if not check.waiters:
                    self._queue.discard(check)
                    self._forget(check)
            if self._passwords is passwords:
                return verified
            # `replace` came in between: what was right a moment ago may be revoked now.

    def replace(self, passwords: PasswordFile | None, *, allow_anonymous: bool) -> None:
        """Take a new password file; all that was verified with the old one is forgotten."""
        self._passwords = passwords
        self._allow_anonymous = allow_anonymous
        # A check that still runs knows the old file: with a new key its answer is remembered
        # under a digest that nobody asks for.
        self._key = secrets.token_bytes(32)
        self._young.clear()
        self._old.clear()
        self._pending = {}
        while (check := self._queue.pop()) is not None:
            check.answer.set_result(False)  # who waits for it asks again

    def close(self) -> None:
        """End the threads. Who waits for a check that has not begun gets a CancelledError."""
        while (check := self._queue.pop()) is not None:
            check.answer.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _enqueue(self, check: Check, gone: Callable[[], bool]) -> None:
        digest = check.digest
        check.waiters.append(gone)
        self._pending[digest] = check
        # Also credentials whose minute is over were good once.
        loser = self._queue.add(check, known=digest in self._young or digest in self._old)
        if loser is not None:
            self._forget(loser)
            loser.answer.set_exception(
                ProtocolViolation("too many logins wait for their turn", SERVER_BUSY)
            )
        self._start()

    def _start(self) -> None:
        """Give a thread to those whose turn it is."""
        while self._running < THREADS and (check := self._queue.pop()) is not None:
            if all(gone() for gone in check.waiters):
                self._forget(check)
                check.answer.set_result(False)
                continue
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="isthmus-auth")
            self._running += 1
            done = asyncio.get_running_loop().run_in_executor(
                self._pool, check.passwords.verify, check.username, check.password
            )
            done.add_done_callback(partial(self._done, check))

    def _done(self, check: Check, done: asyncio.Future[bool]) -> None:
        self._running -= 1
        self._forget(check)
        answer = check.answer
        if done.cancelled():
            answer.cancel()
        elif (error := done.exception()) is not None:
            answer.set_exception(error)
        else:
            answer.set_result(self._conclude(check.digest, done.result()))
        self._start()

    def _forget(self, check: Check) -> None:
        if self._pending.get(check.digest) is check:
            del self._pending[check.digest]

    def _conclude(self, digest: bytes, verified: bool) -> bool:
        if verified:
            if len(self._young) >= REMEMBERED:
                self._old = self._young
                self._young = {}
            self._young[digest] = self._now() + REMEMBER_S
        return verified

    def _remembers(self, digest: bytes) -> bool:
        until = self._young.get(digest)
        if until is None:
            until = self._old.get(digest, 0.0)
        return self._now() < until

    def _digest(self, username: str, password: bytes) -> bytes:
        name = username.encode(errors="surrogatepass")
        return hmac.digest(self._key, b"%d:%b%b" % (len(name), name, password), "sha256")
