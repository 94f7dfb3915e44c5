"""The rights of a user, kept by a route."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from isthmus.auth.principal import Principal

if TYPE_CHECKING:
    from isthmus.routing.leg import Leg


class Rights(Protocol):
    """Who may do what at the broker."""

    def may_read(self, principal: Principal, topic: bytes) -> bool:
        """Whether messages of `topic` may be delivered to `principal`."""

    def refusal(self, principal: Principal, topic: bytes) -> int:
        """The reason code that forbids `principal` to publish to `topic`, or 0."""


class CheckedAs:
    """What one user may take from the broker and publish there, for one direction of a route.

    What happens at the far end of a connector is not the broker's to allow. Patterns with `%c` see
    `route:NAME` as the client id.
    """

    __slots__ = ("_reads", "_rights", "_writes", "principal")

    def __init__(self, leg: Leg, rights: Rights, local: str) -> None:
        """`local` is the name of the broker as an endpoint."""
        self.principal = Principal(leg.settings.check_as, f"route:{leg.route}")
        self._rights = rights
        self._reads = leg.source == local
        self._writes = leg.target == local

    def refusal(self, topic: bytes, mapped: bytes) -> tuple[int, str]:
        """The reason code that forbids to publish `topic` as `mapped`, or 0, and why."""
        user = self.principal.username
        if self._reads and not self._rights.may_read(self.principal, topic):
            return 0x87, f"{user} may not read {topic.decode()}"
        code = self._rights.refusal(self.principal, mapped) if self._writes else 0
        return code, f"{user} may not write {mapped.decode()}" if code else ""
