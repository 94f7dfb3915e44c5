"""Who wants to hear what becomes of a connector: commands now, status and events later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from isthmus.connectors.member import Member
    from isthmus.errors import ConnectError


class Watcher(Protocol):
    """Called in the loop, between messages; must not block and must not raise."""

    def connected(self, member: Member) -> None:
        """The far side accepted this member's CONNECT."""

    def failed(self, member: Member, error: ConnectError) -> None:
        """One attempt to connect has failed; `error` says at which step. The member goes on."""

    def lost(self, member: Member, reason: str) -> None:
        """A connection that was open has ended."""

    def granted(self, answers: dict[bytes, int]) -> None:
        """The far side answered SUBSCRIBE: a SUBACK code for each filter."""
