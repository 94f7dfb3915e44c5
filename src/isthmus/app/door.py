"""A door: the listeners that share one `auth`, and who may come in there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import Field

from isthmus.auth.settings import AuthSettings
from isthmus.config.problems import Loc, Problem
from isthmus.net.settings import ListenerSettings


class BrokerListenerSettings(ListenerSettings):
    """One address on which clients may connect."""

    auth: AuthSettings | None = Field(
        default=None,
        description="Users and rights of this listener alone, in place of the root's `auth`. "
        "Its users are other users than those of the same name elsewhere.",
    )


class Door(NamedTuple):
    """The listeners, by index, of one `auth`, which stands at `loc`.

    `realm` tells its users from those of other doors; "" are those of the root.
    """

    realm: str
    loc: Loc
    auth: AuthSettings
    listeners: dict[int, BrokerListenerSettings]

    @property
    def anonymous_allowed(self) -> bool:
        """Whether clients without a user name may connect."""
        if self.auth.allow_anonymous is not None:
            return self.auth.allow_anonymous
        near = all(listener.loopback for listener in self.listeners.values())
        return near and not self.auth.verifies

    def problems(self) -> Iterator[Problem]:
        """Yield what does not fit together."""
        auth, loc = self.auth, self.loc
        if auth.allow_anonymous and not auth.insecure_public_anonymous:
            for index, listener in self.listeners.items():
                if not listener.loopback and not _only_certificates(listener):
                    yield Problem(
                        ("listeners", index, "bind"),
                        f"'{listener.bind}' is open to others, and 'auth.allow_anonymous: true' "
                        "lets everybody in; set 'auth.password_file', or bind to 127.0.0.1",
                    )
        if self.listeners and not auth.verifies and not self.anonymous_allowed:
            reason = (
                "'allow_anonymous' is false"
                if auth.allow_anonymous is False
                else "a listener is open to others"
            )
            yield Problem(
                (*loc, "password_file"),
                f"is required, as {reason}: without it nobody could connect",
            )
        if auth.identity != "username" and not any(map(_asks, self.listeners.values())):
            yield Problem(
                (*loc, "identity"),
                f"'{auth.identity}' needs client certificates: "
                "set 'tls.client_ca' on a listener that uses it",
            )


def _asks(listener: ListenerSettings) -> bool:
    return listener.tls is not None and listener.tls.client_ca is not None


def _only_certificates(listener: ListenerSettings) -> bool:
    return listener.tls is not None and listener.tls.require_client_certificate
