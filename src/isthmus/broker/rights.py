"""What a client may publish and read: the access list, and what nobody may."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.auth.principal import Principal
from isthmus.delivery.outlet import Outlet
from isthmus.mqtt.topics import matches

if TYPE_CHECKING:
    from isthmus.auth.acl import AccessList
    from isthmus.delivery.endpoint import Origin
    from isthmus.delivery.receipt import Receipt
    from isthmus.metrics.drops import Drops

REMEMBERED_ANSWERS = 16_384
"""Answers of the access list per generation; there are two."""

REMEMBERED_BYTES = 256
"""Answers for longer topics are not kept: they are rare, and would fill memory."""

SYS_PREFIX = b"$SYS/"
SYS_WRITABLE = b"$SYS/broker/connection/+/state"
"""The one topic below $SYS that clients may write: the notifications of other brokers' bridges."""


class Rights:
    """The rights of the broker's clients.

    Without an access list everybody may publish and read everything except to write below `$SYS/`.
    """

    __slots__ = ("_old", "_young", "access", "check_retain_source", "topic_levels")

    def __init__(
        self, access: AccessList | None, topic_levels: int, *, check_retain_source: bool = True
    ) -> None:
        self.access = access
        self.check_retain_source = check_retain_source
        self.topic_levels = topic_levels
        self._young: dict[tuple[str | None, str, bytes], bool] = {}
        self._old: dict[tuple[str | None, str, bytes], bool] = {}

    def refusal(self, principal: Principal, topic: bytes) -> int:
        """The reason code that forbids `principal` to publish to `topic`, or 0."""
        if topic.count(b"/") >= self.topic_levels:
            return 0x90
        if topic.startswith(SYS_PREFIX) and not matches(SYS_WRITABLE, topic):
            return 0x87
        if self.access is not None and not self.access.may_write(principal, topic):
            return 0x87
        return 0

    def may_read(self, principal: Principal, topic: bytes) -> bool:
        """Whether messages of `topic` may be delivered to `principal`."""
        access = self.access
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

    def may_still_write(self, writer: Origin, topic: bytes) -> bool:
        """Whether the publisher of a retained message may publish it now.

        Without that, what somebody wrote who has lost the right since would stay (CVE-2018-12546).
        """
        if self.access is None or not self.check_retain_source:
            return True
        return self.access.may_write(Principal(writer.username or None, writer.client_id), topic)

    def subscribe_refusal(self, principal: Principal, filter_: bytes) -> int:
        """The reason code that forbids `principal` to subscribe to `filter_`, or 0."""
        if filter_.count(b"/") >= self.topic_levels:
            return 0x8F
        if self.access is not None and not self.access.may_subscribe(principal, filter_):
            return 0x87
        return 0


class RefusedOutlet(Outlet):
    """Where messages go that their publisher may not send: nowhere, counted.

    An MQTT 5 publisher gets the reason code in its acknowledgement. An MQTT 3 publisher gets a
    positive one, as MQTT-3.3.5-2 wants for messages that are not authorised.
    """

    __slots__ = ("_drops", "_reason", "_topic", "code")

    def __init__(self, drops: Drops, topic: bytes, code: int) -> None:
        super().__init__()
        self._drops = drops
        self._topic = topic
        self._reason = "denied" if code == 0x87 else "bad_topic"
        self.code = code

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Count the message as dropped."""
        del flags, properties, payload
        self._drops.add(self._reason, self._topic)
        if receipt is not None and receipt.source.v5:
            receipt.refuse(len(receipt.ids) - 1, self.code)
