"""Retained messages: the last message with the retain flag of each topic."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.delivery.message import Message
from isthmus.delivery.outlet import Outlet
from isthmus.mqtt.properties import message_expiry, with_message_expiry
from isthmus.mqtt.topic_tree import TopicIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from isthmus.auth.rights import Rights, Writer
    from isthmus.broker.retained_table import RetainedTable
    from isthmus.delivery.receipt import Receipt
    from isthmus.metrics.drops import Drops


log = logging.getLogger("isthmus.broker")

MESSAGE_OVERHEAD_BYTES = 400
"""What a retained message costs besides its bytes: the record, its places in the index."""


class RetainedMessages:
    """The retained message of each topic: at most `maximum`, and at most `max_bytes` in all.

    `size` is the bytes that they take: topics, properties, payloads, and `MESSAGE_OVERHEAD_BYTES`
    for each. `longest_s` is how many seconds a message is kept at most, None for good. `newest` is
    the number of the message that was set last. `table` keeps them on disk, None where they are
    in memory only.
    """

    __slots__ = ("_drops", "_index", "longest_s", "max_bytes", "maximum", "newest", "size", "table")

    def __init__(
        self, maximum: int, max_bytes: int, drops: Drops, *, longest_s: float | None = None
    ) -> None:
        self.longest_s = longest_s
        self.maximum = maximum
        self.max_bytes = max_bytes
        self.newest = 0
        self.size = 0
        self.table: RetainedTable | None = None
        self._drops = drops
        self._index: TopicIndex[Message] = TopicIndex()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def of_clients(self) -> int:
        """How many there are without those that the broker itself publishes, below `$SYS/`."""
        return len(self._index) - len(self._index.match(b"$SYS/#"))

    def __iter__(self) -> Iterator[Message]:
        """The messages as they were set; some may have expired."""
        return iter(self._index)

    def restore(self, table: RetainedTable, rights: Callable[[str], Rights] | None) -> None:
        """Take what `table` has, and keep everything there from now on.

        `rights` are those of the users of a realm, None where nobody asks for them. All messages
        are taken, even if there are more than there may be now: they have been acknowledged.

        Raises:
            StoreError: It cannot be read.
        """
        for message in table.messages(rights, self.longest_s):
            self.newest += 1
            message.number = self.newest
            self._index.set(message)
            self.size += _size(message)
        self.table = table
        table.back(self.__iter__)
        if len(self) > self.maximum or self.size > self.max_bytes:
            log.warning(
                "%d retained messages of %d bytes are on disk, and the limits are %d and %d: no "
                "new ones are taken before there is room",
                len(self),
                self.size,
                self.maximum,
                self.max_bytes,
            )

    def set(
        self,
        topic: bytes,
        flags: int,
        properties: bytes,
        payload: bytes,
        writer: Writer | None = None,
    ) -> bool:
        """Replace the message of `topic`; an empty payload removes it (MQTT-3.3.1-6).

        False if there is no room. Then the topic has no message any more: the one that it had is
        not the last one, and must not pass for it.
        """
        if not payload:
            self._remove(topic)
            return True
        before = self._index.get(topic)
        if before is None and len(self._index) >= self.maximum:
            self._drops.add("retained_messages", topic)
            return False
        lifetime: float | None = message_expiry(properties) if properties else None
        if self.longest_s is not None:
            lifetime = self.longest_s if lifetime is None else min(lifetime, self.longest_s)
        expires = None if lifetime is None else clock.monotonic() + lifetime
        number = self.newest + 1
        message = Message(topic, payload, flags >> 1 & 3, True, properties, expires, writer, number)
        size = self.size + _size(message) - (0 if before is None else _size(before))
        if size > max(self.max_bytes, self.size if before is not None else 0):
            self._drops.add("retained_bytes", topic)
            self._remove(topic)
            return False
        self._index.set(message)
        self.newest = number
        self.size = size
        if self.table is not None:
            self.table.set(message, known=before is not None)
        return True

    def get(self, topic: bytes) -> Message | None:
        """The message of `topic`, with its expiry aged; None if there is none or it has expired."""
        message = self._index.get(topic)
        return None if message is None else self._aged(message)

    def may_match(self, filter_: bytes) -> bool:
        """Whether there may be messages that match `filter_`; costs no walk."""
        return self._index.may_match(filter_)

    def topics(self, filter_: bytes) -> list[bytes]:
        """The topics with a message that match `filter_`."""
        return [message.topic for message in self._index.match(filter_)]

    def _remove(self, topic: bytes) -> None:
        message = self._index.remove(topic)
        if message is not None:
            self.size -= _size(message)
            if self.table is not None:
                self.table.remove(topic)

    def _aged(self, message: Message) -> Message | None:
        if message.expires is None:
            return message
        left = message.expires - clock.monotonic()
        if left <= 0:
            self._remove(message.topic)
            return None
        return Message(
            message.topic,
            message.payload,
            message.qos,
            True,
            with_message_expiry(message.properties, max(1, int(left))),
            message.expires,
            message.writer,
            message.number,
        )


def _size(message: Message) -> int:
    return (
        len(message.topic) + len(message.properties) + len(message.payload) + MESSAGE_OVERHEAD_BYTES
    )


class RetainOutlet(Outlet):
    """Stores the messages of one topic that have the retain flag after `flags` is applied."""

    __slots__ = ("_flags", "_retained", "_topic")

    def __init__(self, retained: RetainedMessages, topic: bytes, flags: tuple[int, ...]) -> None:
        super().__init__(retains=not flags[0] & 1)
        self._retained = retained
        self._topic = topic
        self._flags = flags

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Store the message; on disk, where there is a table, before it is acknowledged.

        Where there is no room, an MQTT 5 publisher of QoS 1 or 2 is told so with 0x97. MQTT 3 has
        no word for it but to close.
        """
        stored = self._retained.set(
            self._topic, self._flags[flags], properties, payload, self.writer
        )
        if receipt is None:
            return
        if self._retained.table is not None:
            self._retained.table.hold(self._topic, receipt)
        if not stored and receipt.source.v5:
            receipt.refuse(len(receipt.ids) - 1, 0x97)

    def with_flags(self, table: tuple[int, ...]) -> RetainOutlet | None:
        """The same for flags mapped by `table`; None if none of them retains."""
        flags = tuple(self._flags[flag] for flag in table)
        if not any(flag & 1 for flag in flags):
            return None
        return RetainOutlet(self._retained, self._topic, flags)
