"""Wills on disk: those of sessions that end with their connection, while the connection lasts.

Where the process dies, connection and session have ended, and the next one publishes them at its
start (MQTT-3.1.2-8 of 3.1.1). A lasting session has its will in its own row; see `SessionTable`.
"""

from __future__ import annotations

import base64
import json
import logging
from typing import TYPE_CHECKING, Any

from isthmus.auth.grants import EVERYTHING
from isthmus.auth.principal import Principal
from isthmus.delivery.message import Message
from isthmus.delivery.receipt import Settler, open_receipt
from isthmus.delivery.source import PUBACK
from isthmus.store.schema import WILLS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isthmus.delivery.receipt import Receipt
    from isthmus.store.statement import Row
    from isthmus.store.store import Store

log = logging.getLogger("isthmus.broker")


class KeptWill(Settler):
    """A will on disk, and where its message comes from when it is published.

    `published` says that this has begun: it is over when the message is safe.
    """

    __slots__ = ("_table", "message", "principal", "published")

    def __init__(self, table: WillTable, principal: Principal, message: Message) -> None:
        super().__init__()
        self.v5 = True  # it can be told codes
        self.bridges = True  # it does not go away as a connection does
        self._table = table
        self.principal = principal
        self.message = message
        self.published = False

    def settled(self, receipt: Receipt) -> None:
        """The message is safe, or is refused where it should go."""
        del receipt
        self._table.forget(self)

    def remembers(self, packet_id: bytes) -> bool:
        """It is not sent anew by itself."""
        del packet_id
        return True

    def close_reason(self, reason: str) -> None:
        """There is no connection to close."""

    def press(self) -> None:
        """It is one message only."""


class WillTable:
    """Writes the wills that would else be in memory only.

    Nobody waits for that. A change of a row goes to disk in the order of all changes, so nothing
    that a client has published is there without its will.
    """

    __slots__ = ("_table", "_wills")

    def __init__(self, store: Store) -> None:
        self._table = store.table(WILLS)
        self._wills: dict[str, KeptWill] = {}

    def stored(self) -> list[KeptWill]:
        """What is on disk, for the start.

        Raises:
            StoreError: It cannot be read.
        """
        for key, state in self._table.rows():
            try:
                found = json.loads(state)
                principal = restored_owner(key, found)
                will = KeptWill(self, principal, restored_will(found["will"]))
            except (ValueError, KeyError, TypeError):
                log.exception("the will of %r on disk is damaged, and is forgotten", key)
                self._table.remove(key)
            else:
                self._wills[principal.client_id] = will
        self._table.refill = self._rows
        return list(self._wills.values())

    def begin(self, principal: Principal, message: Message | None) -> None:
        """A session has begun: keep its will, None for none, in place of what its client left."""
        client_id = principal.client_id
        before = self._wills.get(client_id)
        if message is not None:
            will = self._wills[client_id] = KeptWill(self, principal, message)
            self._table.set(_row(will), known=before is not None)
        elif before is not None:
            self.forget(before)

    def end(self, client_id: str) -> None:
        """A session has ended: its will is not due any more, unless it is being published."""
        will = self._wills.get(client_id)
        if will is not None and not will.published:
            self.forget(will)

    def publication(self, client_id: str, message: Message) -> Receipt | None:
        """`message` is about to be published: what waits until it is safe, None for nothing.

        The caller has one hold on it. If the process dies before, it is published once more.
        """
        will = self._wills.get(client_id)
        if will is None or will.message is not message:
            return None
        if not message.qos:
            self.forget(will)
            return None
        will.published = True
        receipt = open_receipt(will, PUBACK)
        receipt.ids.append(b"\0\0")
        return receipt

    def forget(self, will: KeptWill) -> None:
        """Take a will off the disk, unless another has its place."""
        client_id = will.principal.client_id
        if self._wills.get(client_id) is will:
            del self._wills[client_id]
            self._table.remove(client_id.encode())

    def _rows(self) -> Iterator[Row]:
        return map(_row, self._wills.values())


def _row(will: KeptWill) -> Row:
    state = {**owner_state(will.principal), "will": will_state(will.message)}
    key = will.principal.client_id.encode()
    return key, json.dumps(state, separators=(",", ":")).encode()


def owner_state(principal: Principal) -> dict[str, Any]:
    """Whose something is, for the disk; the client id stands beside it."""
    return {
        "user": principal.username,
        "realm": principal.realm,
        "granted": principal.grants is not None,
    }


def restored_owner(client_id: bytes, state: dict[str, Any]) -> Principal:
    """Whose it is, from the disk: what a login allowed is not known there."""
    return Principal(
        state["user"],
        client_id.decode(),
        state["realm"],
        EVERYTHING if state["granted"] else None,
    )


def will_state(message: Message) -> dict[str, Any]:
    """A will, for the disk."""
    return {
        "topic": message.topic.decode(),
        "payload": base64.b64encode(message.payload).decode(),
        "qos": message.qos,
        "retain": message.retain,
        "properties": base64.b64encode(message.properties).decode(),
    }


def restored_will(state: dict[str, Any]) -> Message:
    """A will from the disk."""
    return Message(
        state["topic"].encode(),
        base64.b64decode(state["payload"]),
        state["qos"],
        state["retain"],
        base64.b64decode(state["properties"]),
    )
