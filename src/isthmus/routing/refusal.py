"""Messages that a route takes and cannot pass on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.delivery.outlet import Outlet

if TYPE_CHECKING:
    from isthmus.delivery.receipt import Receipt
    from isthmus.metrics.drops import Drops


class RefusedOutlet(Outlet):
    """Where messages go that must not or cannot be passed on: nowhere, counted under `reason`.

    An MQTT 5 publisher of QoS 1 or 2 is told `code`. MQTT 3 has no word for it and gets a positive
    acknowledgement, as MQTT-3.3.5-2 has it for messages that are not authorised. What would not
    have gone to `echo_key` anyway is not refused; see `Outlet`.
    """

    __slots__ = ("_drops", "code", "detail", "reason")

    def __init__(
        self, drops: Drops, reason: str, detail: str, code: int, *, echo_key: object = None
    ) -> None:
        super().__init__(echo_key)
        self._drops = drops
        self.reason = reason
        self.detail = detail
        self.code = code

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Count the message and refuse it."""
        del flags, properties, payload
        self._drops.add(self.reason, self.detail)
        if receipt is not None and receipt.source.v5:
            receipt.refuse(len(receipt.ids) - 1, self.code)
