"""Wills on disk: those of sessions that end with their connection, and those that are published.

Where the process dies, connection and session have ended, and the next one publishes them at its
start (MQTT-3.1.2-8 of 3.1.1). A lasting session has its will in its own row, see `SessionTable`,
until it is due; then it is here until its message is safe.
"""

from __future__ import annotations

import base64
import json
import logging
from typing import TYPE_CHECKING, Any

from isthmus.auth.grants import EVERYTHING
from isthmus.auth.principal import Principal
from isthmus.delivery.message import Message
from isthmus.delivery.receipt import PUBACK, Settler, open_receipt
from isthmus.store.schema import WILLS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isthmus.delivery.receipt import Receipt
    from isthmus.store.statement import Row
    from isthmus.store.store import Store

log = logging.getLogger("isthmus.broker")

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What is raised for a row of JSON that is damaged."""


class KeptWill(Settler):
    """A will on disk, and where its message comes from when it is published.

    `key` is that of its row: the client id and a number, as a client may be back with another will
    before the message of the first is safe.
    """

    __slots__ = ("_table", "key", "message", "principal")

    def __init__(
        self, table: WillTable, key: bytes, principal: Principal, message: Message
    ) -> None:
        super().__init__()
        self.v5 = True  # it can be told codes
        self.bridges = True  # it does not go away as a connection does
        self._table = table
        self.key = key
        self.principal = principal
        self.message = message

    def settled(self, receipt: Receipt) -> None:
        """The message is safe, or is refused where it should go."""
        del receipt
        self._table.forget(self)


class WillTable:
    """Writes the wills of sessions that end with their connection, and all that are published.

    Nobody waits for that. A change of a row goes to disk in the order of all changes, so nothing
    that a client has published is there without its will.
    """

    __slots__ = ("_connected", "_next", "_table", "_wills")

    def __init__(self, store: Store) -> None:
        self._table = store.table(WILLS)
        self._wills: dict[bytes, KeptWill] = {}
        self._connected: dict[str, KeptWill] = {}
        self._next = 1

    def stored(self) -> list[KeptWill]:
        """What is on disk, for the start; forget each when it has been published.

        Raises:
            StoreError: It cannot be read.
        """
        for key, state in self._table.rows():
            try:
                client_id, _, number = key.rpartition(b"\0")
                found = json.loads(state)
                principal = restored_owner(client_id, found)
                will = KeptWill(self, key, principal, restored_will(found["will"]))
                self._next = max(self._next, int(number) + 1)
            except UNREADABLE:
                log.exception("the will of %r on disk is damaged, and is forgotten", key)
                self._table.remove(key)
            else:
                self._wills[key] = will
        self._table.refill = self._rows
        return list(self._wills.values())

    def begin(self, principal: Principal, message: Message | None) -> None:
        """A session has begun: keep its will, None for none."""
        self.end(principal.client_id)
        if message is not None:
            self._connected[principal.client_id] = self.add(principal, message)

    def end(self, client_id: str) -> None:
        """A session has ended: its will is not due any more."""
        will = self._connected.pop(client_id, None)
        if will is not None:
            self.forget(will)

    def add(self, principal: Principal, message: Message) -> KeptWill:
        """Keep a will until it is forgotten, whatever its client does."""
        key = principal.client_id.encode() + b"\0%d" % self._next
        self._next += 1
        will = self._wills[key] = KeptWill(self, key, principal, message)
        self._table.set(_row(will), known=False)
        return will

    def publication(self, principal: Principal, message: Message) -> Receipt | None:
        """A will is about to be published: what waits until it is safe, None for QoS 0.

        The caller has one hold on it, and takes the will from where it has been until now in the
        same turn of the loop. If the process dies before it is safe, it is published once more.
        """
        if not message.qos:
            return None
        receipt = open_receipt(self.add(principal, message), PUBACK)
        receipt.ids.append(b"\0\0")
        return receipt

    def forget(self, will: KeptWill) -> None:
        """Take a will off the disk."""
        del self._wills[will.key]
        self._table.remove(will.key)

    def _rows(self) -> Iterator[Row]:
        return map(_row, self._wills.values())


def _row(will: KeptWill) -> Row:
    state = {**owner_state(will.principal), "will": will_state(will.message)}
    return will.key, json.dumps(state, separators=(",", ":")).encode()


def owner_state(principal: Principal) -> dict[str, Any]:
    """Whose something is, for the disk; the client id stands beside it."""
    return {
        "user": principal.username,
        "realm": principal.realm,
        "granted": principal.grants is not None,
    }


def restored_owner(client_id: bytes, state: dict[str, Any]) -> Principal:
    """Whose it is, from the disk: what a login allowed is not known there.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: It is damaged.
    """
    if not (isinstance(state["user"], str | None) and isinstance(state["realm"], str)):
        raise ValueError("a user has no name")
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
    """A will from the disk.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: It is damaged.
    """
    message = Message(
        state["topic"].encode(),
        base64.b64decode(state["payload"]),
        state["qos"],
        state["retain"],
        base64.b64decode(state["properties"]),
    )
    message.check()
    return message
