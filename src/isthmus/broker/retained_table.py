"""Retained messages on disk: what becomes of one when it goes to the store and comes back."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.auth.principal import Principal
from isthmus.auth.rights import SYS_PREFIX, Writer
from isthmus.delivery.message import Message
from isthmus.delivery.queue import orphaned
from isthmus.mqtt.properties import message_expiry

log = logging.getLogger("isthmus.broker")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from isthmus.auth.rights import Rights
    from isthmus.delivery.receipt import Receipt
    from isthmus.store.statement import Row
    from isthmus.store.table import Table


class RetainedTable:
    """Keeps the retained messages of the broker, all but its own below `$SYS/`.

    The end of a message's life is kept as wall-clock time, the only one that goes on without a
    process; where that was set back meanwhile, no message gets longer than its own interval. A
    message whose publisher had rights of its own from a login (claims of a token, an
    answer of a web service) comes back as one that needs no rights: what that login allowed is not
    known any more.
    """

    __slots__ = ("_messages", "_steps", "_table")

    def __init__(self, table: Table) -> None:
        self._table = table
        self._steps = clock.Steps()
        self._messages: Callable[[], Iterable[Message]] = tuple

    def messages(
        self, rights: Callable[[str], Rights] | None, longest_s: float | None
    ) -> Iterator[Message]:
        """What is kept, for the start; what has expired is deleted.

        `rights` are those of a realm, None where nobody asks whether the publisher still has them;
        `longest_s` is how many seconds from now a message is kept at most.

        Raises:
            StoreError: It cannot be read.
        """
        now, wall = clock.monotonic(), clock.wall()
        damaged = 0
        for row in self._table.rows():
            topic, qos, properties, payload, expires, username, client_id, realm = row
            try:
                _check(row)
            except ValueError:
                damaged += 1
                self._table.remove(topic)
                continue
            if expires is not None and expires <= wall:
                self._table.remove(topic)
                continue
            writer = None
            if client_id is not None and rights is not None:
                name = None if username is None else _text(username)
                principal = Principal(name, _text(client_id), _text(realm))
                writer = Writer(principal, rights(principal.realm))
            lives = [] if expires is None else [expires - wall]
            if lives and (interval := message_expiry(properties)) is not None:
                lives.append(interval)
            if longest_s is not None:
                lives.append(longest_s)
            ends = now + min(lives) if lives else None
            message = Message(topic, payload, qos, True, properties, ends, writer)
            if expires is None and ends is not None:
                # Its life begins now, and must not begin again at each start.
                self._table.set(
                    (topic, qos, properties, payload, wall + ends - now, username, client_id, realm)
                )
            yield message
        if damaged:
            log.error("%d retained message(s) on disk are damaged, and are forgotten", damaged)

    def back(self, messages: Callable[[], Iterable[Message]]) -> None:
        """Where the messages are to be had, should they have to be written once more."""
        self._messages = messages
        self._table.refill = self._rows

    def _rows(self) -> Iterator[Row]:
        for message in self._messages():
            if not message.topic.startswith(SYS_PREFIX):
                yield _row(message)

    def set(self, message: Message, *, known: bool) -> None:
        """Keep the message of a topic; `known` says that the topic had one before."""
        if not message.topic.startswith(SYS_PREFIX):
            self._table.set(_row(message), known=known)
            if message.expires is not None:
                self._look_at_the_clock()

    def _look_at_the_clock(self) -> None:
        """Write the ends of all lives anew where the wall clock was set meanwhile.

        A small computer may learn the time only after it has started: what it wrote before would
        seem long expired.
        """
        if self._steps.stepped():
            for message in self._messages():
                if message.expires is not None and not message.topic.startswith(SYS_PREFIX):
                    self._table.set(_row(message))

    def settle(self) -> None:
        """At the end: see that what is on disk is right by the clock of now."""
        self._look_at_the_clock()

    def remove(self, topic: bytes) -> None:
        """Forget the message of a topic."""
        if not topic.startswith(SYS_PREFIX):
            self._table.remove(topic)

    def hold(self, topic: bytes, receipt: Receipt) -> None:
        """Have an acknowledgement wait until what was changed of `topic` is on disk."""
        # There is one hold for all messages of a read that go to disk together.
        if self._table.pending(topic) and self._table.then(
            receipt.release, lambda: not orphaned(receipt)
        ):
            receipt.holds += 1
            receipt.tied += 1


def _check(row: Row) -> None:
    """Raise what is the matter with a row that was never written so."""
    topic, qos, properties, payload, expires, username, client_id, realm = row
    Message(topic, payload, qos, True, properties).check()
    writer = [] if client_id is None else [client_id, realm]
    texts = [*writer, *([] if username is None else [username])]
    if not all(isinstance(found, bytes) for found in texts):
        raise ValueError("a retained message has a writer of a wrong kind")
    if not (expires is None or isinstance(expires, float)):
        raise ValueError("a retained message ends at no time")
    for text in texts:
        _text(text)


def _bytes(text: str) -> bytes:
    # The path of a unix socket, which names a realm, may be no UTF-8.
    return text.encode(errors="surrogatepass")


def _text(data: bytes) -> str:
    return data.decode(errors="surrogatepass")


def _row(message: Message) -> Row:
    ends = message.expires
    if ends is not None:
        ends += clock.wall() - clock.monotonic()
    username: bytes | None = None
    client_id: bytes | None = None
    realm: bytes | None = None
    if message.writer is not None and message.writer.principal.grants is None:
        principal = message.writer.principal
        username = None if principal.username is None else _bytes(principal.username)
        client_id, realm = _bytes(principal.client_id), _bytes(principal.realm)
    return (
        message.topic,
        message.qos,
        message.properties,
        message.payload,
        ends,
        username,
        client_id,
        realm,
    )
