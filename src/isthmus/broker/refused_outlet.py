"""Where messages go that their publisher may not send."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.delivery.outlet import Outlet

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.delivery.receipt import Receipt
    from isthmus.metrics.drops import Drops


class RefusedOutlet(Outlet):
    """Where messages go that their publisher may not send: nowhere, counted.

    An MQTT 5 publisher gets the reason code in its acknowledgement. An MQTT 3 publisher gets a
    positive one, as MQTT-3.3.5-2 wants for messages that are not authorised. `meet_limit` is called
    for each message where a limit is the cause. `publisher` is what the log says about who it was.
    """

    __slots__ = ("_drops", "_meet_limit", "_publisher", "_reason", "_topic", "code")

    def __init__(
        self,
        drops: Drops,
        topic: bytes,
        code: int,
        publisher: str,
        meet_limit: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._drops = drops
        self._meet_limit = meet_limit
        self._publisher = publisher
        self._topic = topic
        self._reason = "denied" if code == 0x87 else "bad_topic"
        self.code = code

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Count the message as dropped."""
        del flags, properties, payload
        self._drops.add(self._reason, self._topic, publisher=self._publisher)
        if self._meet_limit is not None:
            self._meet_limit()
        if receipt is not None and receipt.source.v5:
            receipt.refuse(len(receipt.ids) - 1, self.code)
