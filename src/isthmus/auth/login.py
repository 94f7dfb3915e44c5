"""What a client shows when it connects, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from isthmus.auth.grants import Grants


class Login(NamedTuple):
    """What a CONNECT and its connection say; nothing of it is verified but the certificate.

    `client_id` is as the client sent it, "" if it leaves the choice to the broker. `source` says
    where the client is: clients of one source share their turns where something has to wait.
    `certificate` is the verified client certificate as `ssl` decodes it.
    """

    client_id: str
    username: str | None
    password: bytes | None
    source: str = ""
    certificate: Mapping[str, Any] | None = None


class Verdict(NamedTuple):
    """The decision of one source about one login.

    `username` is the verified name, None for anonymous clients; of a login that is refused it is
    the name that was tried, if the source knows it. `grants` are rights that came with the login
    and stand in place of the access list. `expires_at` (seconds since the epoch) is when the
    connection has to end. `by` names the source and `proof` is what it knew of the user: both tell
    later whether the verdict still holds.
    """

    allowed: bool
    username: str | None = None
    grants: Grants | None = None
    expires_at: float | None = None
    by: str = ""
    proof: object = None


DENIED = Verdict(allowed=False)
ANONYMOUS = Verdict(allowed=True)


def is_time(value: object) -> bool:
    """Whether a value of JSON is a time in seconds since the epoch that can be reckoned with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
