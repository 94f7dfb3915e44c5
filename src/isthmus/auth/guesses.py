"""How fast passwords can be guessed: wrong logins of one address, and at one user.

Where a rate is used up, no password is checked, so that a guesser learns nothing, and the client
is told to come back later (0x97, MQTT 3: 3): its password may be right. Good clients must not be
locked out by a neighbour that tries a wrong password for ever. So

- only wrong logins take something; those that come together may all be right, and are asked about
  again when their turn has come;
- the same wrong password again is no guess, and takes nothing;
- a user who was let in from an address has a rate of its own there. Whoever guesses at it from the
  same address is held to that one.

Memory: `REMEMBERED` entries twice in each of three tables, with digests as keys, as names are long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from isthmus import clock
from isthmus.auth.digest import Digest
from isthmus.auth.login import Login
from isthmus.errors import ProtocolViolation
from isthmus.net.gate import BURST_S, REMEMBERED
from isthmus.net.recent import Recent
from isthmus.net.token_bucket import TokenBucket

PER_ADDRESS = "failed_login_rate"
PER_USER = "failed_login_rate_per_user"

QUOTA_EXCEEDED = 0x97


class Guesses:
    """The wrong logins of one door. Belongs to the event loop.

    Without `limit` there is no limit. `now` gives monotonic seconds.
    """

    __slots__ = ("_buckets", "_digest", "_good", "_now", "_rates", "_wrong")

    def __init__(self, *, now: Callable[[], float] = clock.monotonic) -> None:
        self._now = now
        self._digest = Digest()
        self._rates: dict[str, float | None] = {PER_ADDRESS: None, PER_USER: None}
        self._buckets: Recent[TokenBucket] = Recent(REMEMBERED)
        self._good: Recent[bool] = Recent(REMEMBERED)
        self._wrong: Recent[bool] = Recent(REMEMBERED)

    @property
    def tables(self) -> tuple[Recent[TokenBucket] | Recent[bool], ...]:
        """All that takes memory here."""
        return self._buckets, self._good, self._wrong

    def limit(self, *, per_address: float | None, per_user: float | None) -> None:
        """Take these rates, per second; None is no limit."""
        rates = {PER_ADDRESS: per_address, PER_USER: per_user}
        if rates != self._rates:
            self._rates = rates
            self._buckets.clear()

    def used_up(self, login: Login) -> str:
        """The name of the limit that leaves no room for this login, or ""."""
        if self._wrong.get(self._credentials(login)):
            return ""
        now = self._now()
        for limit, _, key in self._held_to(login):
            bucket = self._buckets.get(key)
            if bucket is not None and bucket.ready_at(now) > now:
                return limit
        return ""

    def check(self, login: Login) -> None:
        """Let a login pass that may be a wrong one.

        Raises:
            ProtocolViolation: There were too many wrong ones.
        """
        if limit := self.used_up(login):
            raise too_many(limit)

    def settle(self, login: Login, *, allowed: bool) -> None:
        """Count what has been checked."""
        if allowed:
            self._good.put(self._pair(login), True)
            return
        credentials = self._credentials(login)
        if self._wrong.get(credentials):
            return
        if login.password is not None:
            self._wrong.put(credentials, True)
        now = self._now()
        for _, rate, key in self._held_to(login):
            bucket = self._buckets.get(key) or TokenBucket(rate, now, BURST_S)
            bucket.spend(1, now, BURST_S)
            self._buckets.put(key, bucket)

    def __len__(self) -> int:
        """How many entries take memory here."""
        return sum(map(len, self.tables))

    def _held_to(self, login: Login) -> Iterator[tuple[str, float, bytes]]:
        """The limits of this login: name, rate, and the key of its bucket."""
        pair = self._pair(login)
        if self._good.get(pair):
            keys = {PER_ADDRESS: pair}
        else:
            keys = {PER_ADDRESS: self._digest("address", login.source)}
            if login.username is not None:
                keys[PER_USER] = self._digest("user", login.username)
        for limit, key in keys.items():
            rate = self._rates[limit]
            if rate is not None:
                yield limit, rate, key

    def _pair(self, login: Login) -> bytes:
        return self._digest("pair", login.source, login.username)

    def _credentials(self, login: Login) -> bytes:
        return self._digest("credentials", login.username, login.password)


class Turn:
    """Asked when the turn of a login has come, as the `gone` of a client is.

    `gone` and `limit` say afterwards why nothing was checked, if nothing was.
    """

    __slots__ = ("_gone", "_guesses", "_login", "gone", "limit")

    def __init__(self, guesses: Guesses, login: Login, gone: Callable[[], bool]) -> None:
        self._guesses = guesses
        self._login = login
        self._gone = gone
        self.gone = False
        self.limit = ""

    def __call__(self) -> bool:
        """Whether the login is not to be checked."""
        self.gone = self._gone()
        self.limit = self._guesses.used_up(self._login)
        return self.gone or bool(self.limit)


def too_many(limit: str) -> ProtocolViolation:
    """What a client is told where `limit` is used up."""
    where = "from this address" if limit == PER_ADDRESS else "of this user"
    return ProtocolViolation(f"too many wrong logins {where}", QUOTA_EXCEEDED, limit=limit)
