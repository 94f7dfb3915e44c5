"""What clients may publish and read: the access list, what came with a login, what nobody may."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from isthmus.mqtt.topics import matches
from isthmus.mqtt.wire import MAX_STRING

if TYPE_CHECKING:
    from isthmus.auth.acl import AccessList
    from isthmus.auth.grants import Grants
    from isthmus.auth.principal import Principal

REMEMBERED_ANSWERS = 16_384
"""Answers of the access list per generation; there are two."""

REMEMBERED_BYTES = 256
"""Answers for longer topics are not kept: they are rare, and would fill memory."""

SYS_PREFIX = b"$SYS/"
SYS_WRITABLE = b"$SYS/broker/connection/+/state"
"""The one topic below $SYS that clients may write: the notifications of other brokers' bridges."""


class Rights:
    """The rights of the clients that log in under the same settings.

    Without an access list everybody may publish and read everything except to write below `$SYS/`.
    """

    __slots__ = ("_access", "_old", "_young", "topic_levels")

    def __init__(self, access: AccessList | None, topic_levels: int) -> None:
        self._access = access
        self.topic_levels = topic_levels
        self._young: dict[tuple[str | None, str, bytes], bool] = {}
        self._old: dict[tuple[str | None, str, bytes], bool] = {}

    def replace(self, access: AccessList | None) -> None:
        """Take another access list; plans that were made with the old one have to be forgotten."""
        self._access = access
        self._young = {}
        self._old = {}

    def too_deep(self, name: bytes) -> bool:
        """Whether a topic or filter has more than `topic_levels` levels."""
        return name.count(b"/") >= self.topic_levels

    def refusal(self, principal: Principal, topic: bytes) -> int:
        """The reason code that forbids `principal` to publish to `topic`, or 0."""
        if self.too_deep(topic) or len(topic) > MAX_STRING:
            return 0x90
        if topic.startswith(SYS_PREFIX) and not matches(SYS_WRITABLE, topic):
            return 0x87
        decides = self._decides(principal)
        if decides is not None and not decides.may_write(principal, topic):
            return 0x87
        return 0

    def may_read(self, principal: Principal, topic: bytes) -> bool:
        """Whether messages of `topic` may be delivered to `principal`."""
        if principal.grants is not None:
            return principal.grants.may_read(principal, topic)
        access = self._access
        if access is None:
            return True
        # Asked each time a plan is made; the answer is one for all clients of a user, unless a
        # pattern names the client.
        client_id = principal.client_id if access.depends_on_client(principal) else ""
        key = (principal.username, client_id, topic)
        answer = self._young.get(key)
        if answer is None:
            answer = self._old.get(key)
            if answer is None:
                answer = access.may_read(principal, topic)
            if len(topic) <= REMEMBERED_BYTES:
                if len(self._young) >= REMEMBERED_ANSWERS:
                    self._old = self._young
                    self._young = {}
                self._young[key] = answer
        return answer

    def subscribe_refusal(self, principal: Principal, filter_: bytes) -> int:
        """The reason code that forbids `principal` to subscribe to `filter_`, or 0."""
        if self.too_deep(filter_) or len(filter_) > MAX_STRING:
            return 0x8F
        decides = self._decides(principal)
        if decides is not None and not decides.may_subscribe(principal, filter_):
            return 0x87
        return 0

    def _decides(self, principal: Principal) -> Grants | None:
        return self._access if principal.grants is None else principal.grants


class Writer(NamedTuple):
    """Who published a retained message, and whose rights say whether it may stay readable.

    Without that, what somebody wrote who has lost the right since would stay (CVE-2018-12546).
    """

    principal: Principal
    rights: Rights

    def may_write(self, topic: bytes) -> bool:
        """Whether the publisher may publish to `topic` now."""
        return not self.rights.refusal(self.principal, topic)
