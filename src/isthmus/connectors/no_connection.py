"""The way of messages whose route names a connection that is not here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.delivery.outlet import Outlet

if TYPE_CHECKING:
    from isthmus.delivery.receipt import Receipt
    from isthmus.metrics.drops import Drops

NO_CONNECTION = 0x83
"""What an MQTT 5 publisher is told whose message names a connection that is not here."""


class NoConnectionOutlet(Outlet):
    """Where messages go whose route names a connection that is not here: nowhere, counted."""

    __slots__ = ("_drops", "_shown", "connection")

    def __init__(self, drops: Drops, connection: bytes, *, echo_key: object) -> None:
        super().__init__(echo_key)
        self._drops = drops
        self._shown = f"client id {connection.decode(errors='backslashreplace')}"
        self.connection = connection

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Count the message, and refuse it; see `Outlet.send`."""
        del flags, properties, payload
        self._drops.add("no_such_connection", self._shown)
        if receipt is not None:
            receipt.refuse(len(receipt.ids) - 1, NO_CONNECTION)
