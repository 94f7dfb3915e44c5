"""Passwords of a file as a source of identities."""

from __future__ import annotations

from collections.abc import Callable

from isthmus import clock
from isthmus.auth.check_queue import MAX_WAITING
from isthmus.auth.checks import Checks
from isthmus.auth.login import DENIED, Login, Verdict
from isthmus.auth.passwords import PasswordFile
from isthmus.auth.source import Unsure

REMEMBER_S = 60.0
"""How long credentials that were good are good without being hashed again."""

THREADS = 2
"""Checks at the same time, unless the owner says so; more take CPU from the messages."""


class PasswordSource:
    """Knows the users of a file.

    `alone` says that no other source is asked after this one. Then it knows everybody, and a name
    that is not in the file costs the same work as one that is, so that time does not tell who
    exists. At most `threads` passwords are checked at a time, and `waiting` of strangers wait.
    """

    name = "password_file"

    def __init__(
        self,
        passwords: PasswordFile,
        *,
        alone: bool = True,
        threads: int = THREADS,
        waiting: int = MAX_WAITING,
        now: Callable[[], float] = clock.monotonic,
    ) -> None:
        self.passwords = passwords
        self._alone = alone
        self.checks: Checks[Verdict] = Checks(
            threads,
            lambda verdict: REMEMBER_S if verdict.allowed else 0.0,
            waiting=waiting,
            now=now,
        )

    def is_guess(self, login: Login) -> bool:
        """Whether there is a password to be checked."""
        username, password = login.username, login.password
        if not password or not self._knows(username):
            return False
        return self.checks.remembered(self.checks.key(username, password)) is None

    def at_once(self, login: Login) -> Verdict | Unsure:
        """Answer what needs no hash, or a cheap one."""
        username, password = login.username, login.password
        if username is None or not self._knows(username):
            return Unsure.UNKNOWN
        if not password:
            return DENIED
        key = self.checks.key(username, password)
        known = self.checks.remembered(key)
        if known is not None:
            return known
        if self.passwords.is_slow(username):
            return Unsure.WAIT
        return self.checks.conclude(key, self._verify(username, password))

    async def ask(self, login: Login, gone: Callable[[], bool]) -> Verdict | Unsure:
        """Answer with a hash that is slow by design."""
        username, password = login.username, login.password
        assert username is not None
        assert password is not None
        verdict = await self.checks.ask(
            self.checks.key(username, password),
            lambda: self._verify(username, password),
            source=login.source,
            gone=gone,
        )
        return verdict or DENIED

    def still_good(self, verdict: Verdict) -> bool:
        """Whether the user is there with the same hash."""
        username = verdict.username
        return username is not None and self.passwords.entry(username) == verdict.proof

    def start(self) -> None:
        """Nothing runs in the background."""

    def close(self) -> None:
        """End the threads."""
        self.checks.close()

    def _knows(self, username: str | None) -> bool:
        return username is not None and (self._alone or username in self.passwords)

    def _verify(self, username: str, password: bytes) -> Verdict:
        if not self.passwords.verify(username, password):
            return DENIED
        return Verdict(True, username, by=self.name, proof=self.passwords.entry(username))
