"""Retained messages: the last message with the retain flag of each topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.delivery.message import Message
from isthmus.delivery.outlet import Outlet
from isthmus.mqtt.properties import message_expiry, with_message_expiry
from isthmus.mqtt.topic_tree import TopicIndex

if TYPE_CHECKING:
    from isthmus.delivery.receipt import Receipt
    from isthmus.metrics.drops import Drops


class RetainedMessages:
    """The retained message of each topic, at most `maximum` of them.

    `changed(topic)` is called when a topic gains or loses its message.
    """

    __slots__ = ("_drops", "_index", "maximum")

    def __init__(self, maximum: int, drops: Drops) -> None:
        self.maximum = maximum
        self._drops = drops
        self._index: TopicIndex[Message] = TopicIndex()

    def __len__(self) -> int:
        return len(self._index)

    def set(self, topic: bytes, flags: int, properties: bytes, payload: bytes) -> None:
        """Replace the message of `topic`; an empty payload removes it (MQTT-3.3.1-6)."""
        if not payload:
            self._index.remove(topic)
            return
        if len(self._index) >= self.maximum and self._index.get(topic) is None:
            self._drops.add("retained_full", topic.decode())
            return
        lifetime = message_expiry(properties) if properties else None
        expires = None if lifetime is None else clock.monotonic() + lifetime
        self._index.set(topic, Message(topic, payload, flags >> 1 & 3, True, properties, expires))

    def get(self, topic: bytes) -> Message | None:
        """The message of `topic`, with its expiry aged; None if there is none or it has expired."""
        message = self._index.get(topic)
        return None if message is None else self._aged(message)

    def match(self, filter_: bytes) -> list[Message]:
        """The messages whose topics match `filter_`, with their expiry aged."""
        found = (self._aged(message) for _, message in self._index.match(filter_))
        return [message for message in found if message is not None]

    def _aged(self, message: Message) -> Message | None:
        if message.expires is None:
            return message
        left = message.expires - clock.monotonic()
        if left <= 0:
            self._index.remove(message.topic)
            return None
        return Message(
            message.topic,
            message.payload,
            message.qos,
            True,
            with_message_expiry(message.properties, max(1, int(left))),
            message.expires,
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
        """Store the message; memory is as safe as it gets without a store."""
        del receipt
        self._retained.set(self._topic, self._flags[flags], properties, payload)

    def with_flags(self, table: tuple[int, ...]) -> RetainOutlet | None:
        """The same for flags mapped by `table`; None if none of them retains."""
        flags = tuple(self._flags[flag] for flag in table)
        if not any(flag & 1 for flag in flags):
            return None
        return RetainOutlet(self._retained, self._topic, flags)
