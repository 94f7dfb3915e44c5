"""The log as messages on `$SYS/broker/log/`, named as Mosquitto names them: `log.to: [topic]`.

Debug entries are never published, as each message would make more of them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from isthmus.delivery.message import Message
from isthmus.log import ELSEWHERE
from isthmus.mqtt.packets import PacketType
from isthmus.mqtt.properties import PropertyId, encode

if TYPE_CHECKING:
    from isthmus.broker.broker import Broker

PREFIX = b"$SYS/broker/log/"

LETTERS = {
    logging.INFO: b"N",
    logging.WARNING: b"W",
    logging.ERROR: b"E",
    logging.CRITICAL: b"E",
}
"""The last level of the topic."""

EXPIRY = encode({PropertyId.MESSAGE_EXPIRY_INTERVAL: 20}, PacketType.PUBLISH)

WAITING_MAX = 1000
"""Entries that wait for the event loop; more at once are not published."""


class LogTopics(logging.Handler):
    """Publishes the entries of the log, from `start` to `stop`.

    QoS 2, not retained, and for 20 s, as in Mosquitto: whoever subscribes gets what happens from
    then on, and a session that was away does not fill with old entries.
    """

    def __init__(self, broker: Broker) -> None:
        super().__init__(logging.INFO)
        self.name = ELSEWHERE
        self._broker = broker
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[Message] = []
        self._logger = logging.getLogger("isthmus")

    def start(self, formatter: logging.Formatter) -> None:
        """Publish from now on, as `formatter` writes entries."""
        self.setFormatter(formatter)
        self._loop = asyncio.get_running_loop()
        self._logger.addHandler(self)

    def stop(self) -> None:
        """Publish no more."""
        self._loop = None
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Publish an entry soon: it may be about a message that is being delivered right now."""
        if self._loop is None or len(self._waiting) >= WAITING_MAX:
            return
        topic = PREFIX + LETTERS.get(record.levelno, b"N")
        text = self.format(record).encode(errors="replace")
        self._waiting.append(Message(topic, text, 2, properties=EXPIRY))
        if len(self._waiting) == 1:
            self._loop.call_soon_threadsafe(self._publish)

    def _publish(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self._loop is not None:
            for message in waiting:
                self._broker.publish(message)
