"""Who stands behind a connection, as far as rights are concerned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isthmus.auth.grants import Grants


@dataclass(frozen=True, slots=True)
class Principal:
    """The identity that rights are given to. It belongs to the session, not to one packet.

    `username` is None for anonymous clients, and has been verified otherwise; `client_id` is what
    the client is really called, also when the broker assigned it. `realm` tells apart users of the
    same name that were verified with different `auth` settings; "" are those of the root. `grants`
    are rights that came with the login, None where the access list decides.
    """

    username: str | None
    client_id: str
    realm: str = ""
    grants: Grants | None = field(default=None, compare=False)

    @property
    def shown(self) -> str:
        """How the log names it."""
        user = "" if self.username is None else f", user {self.username!r}"
        return f"client {self.client_id!r}{user}"

    def is_user_of(self, other: Principal) -> bool:
        """Whether both are the same user, whatever their client ids."""
        return self.username == other.username and self.realm == other.realm
