"""Publishing from a command: a connector, one receipt per message, and an end that is certain."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.cli.far_side import FAILED, CommandError, complain, complaint, far_side
from isthmus.connectors.probe import Opening
from isthmus.delivery.message import Message
from isthmus.delivery.receipt import Receipt, Settler, open_receipt
from isthmus.errors import ConnectError
from isthmus.mqtt.reasons import describe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from isthmus.connectors.connector import Connector
    from isthmus.connectors.member import Member
    from isthmus.connectors.settings import ConnectorSettings

LOOK_S = 0.02
"""How often what gives no sign is looked at: bytes that leave, PUBCOMP."""

ACKNOWLEDGEMENT = b"\0\0"
"""Receipts of this side are sent to nobody."""

_REASONS = {
    "too_large": "larger than the far side takes",
    "slow_consumer": "the far side does not read",
    "link_down": "the connection was lost",
    "expired": "expired",
}


async def publish(
    settings: ConnectorSettings,
    topic: bytes,
    payloads: AsyncIterator[list[bytes]],
    *,
    qos: int,
    retain: bool,
    timeout_s: float,
) -> int:
    """Publish all payloads on `topic` and return the exit status.

    Raises:
        CommandError: no connection, or no progress for `timeout_s`.
    """
    async with far_side("isthmus-pub", settings) as connector:
        publisher = Publisher(connector, timeout_s)
        connector.watcher = publisher
        connector.start()
        try:
            member = await publisher.wait()
        except ConnectError as error:
            raise CommandError(complaint(error, settings)) from None
        publisher.use(member, qos=qos, retain=retain)
        async for batch in payloads:
            for payload in batch:
                await publisher.publish(Message(topic, payload, qos, retain))
        await publisher.finish()
        return publisher.report()


class Publisher(Opening, Settler):
    """Sends messages and follows them until they are safe. It watches its connector."""

    def __init__(self, connector: Connector, timeout_s: float) -> None:
        Opening.__init__(self, connector)
        Settler.__init__(self)
        self.v5 = True
        self._connector = connector
        self._timeout_s = timeout_s
        self._published = 0
        self._settled = 0
        self._lost = ""
        self._changed = asyncio.Event()
        self._room = connector.settings.max_inflight

    def use(self, member: Member, *, qos: int, retain: bool) -> None:
        """Begin, over the connection of `member`, if the far side can do what is asked for."""
        assert member.client is not None
        peer = member.client.connection.peer
        self._link = member.client.link
        if qos > peer.maximum_qos:
            raise CommandError(f"the far side takes messages with QoS {peer.maximum_qos} at most")
        if retain and not peer.retain_available:
            raise CommandError("the far side does not retain messages")

    async def publish(self, message: Message) -> None:
        """Send one message as soon as there is room for it."""
        if self._crowded():
            await self._until(lambda: not self._crowded())
        self._published += 1
        if message.qos:
            receipt = open_receipt(self, ACKNOWLEDGEMENT)
            receipt.ids.append(ACKNOWLEDGEMENT)
            self._connector.publish(message, receipt)
            receipt.release()
        else:
            self._connector.publish(message)

    async def finish(self) -> None:
        """Wait until every message is safe, or with QoS 0 has left this machine's memory."""
        await self._until(
            lambda: not self._connector.unsettled and not self._link.blocked and not self._link.out
        )

    def report(self) -> int:
        """Say what was not taken; the exit status."""
        for reason, count in self._connector.drops.counts.items():
            text = _REASONS.get(reason, reason)
            if reason.startswith("refused_"):
                text = f"refused by the far side: {describe(int(reason[8:], 16))}"
            number = "the message was" if self._published == 1 else f"{count} message(s) were"
            complain(f"{number} not delivered: {text}")
        return FAILED if self._connector.drops.counts else 0

    # -- what the connector tells ----------------------------------------------------------------

    def remembers(self, packet_id: bytes) -> bool:
        """There are no repetitions from standard input."""
        del packet_id
        return True

    def close_reason(self, reason: str) -> None:
        """The queue is full although it is filled only as far as there is room: give up."""
        self._lost = reason
        self._changed.set()

    def press(self) -> None:
        """Nothing to do: what is read from standard input waits for room anyway."""

    def settled(self, receipt: Receipt) -> None:
        """A message is safe, or refused."""
        del receipt
        self._settled += 1
        self._changed.set()

    def lost(self, member: Member, reason: str) -> None:
        """Trying again could publish twice without anybody knowing, so this is the end."""
        del member
        self._lost = reason
        self._changed.set()

    # -- inside ----------------------------------------------------------------------------------

    def _crowded(self) -> bool:
        return bool(self._lost) or self._link.blocked or self._connector.unsettled >= self._room

    async def _until(self, condition: object) -> None:
        """Wait for a condition as long as something moves."""
        assert callable(condition)
        before: object = None
        deadline = 0.0
        while not condition() or self._lost:
            if self._lost:
                raise CommandError(f"the connection was lost: {self._lost}{self._unknown()}")
            moved = (self._settled, self._link.bytes_out)
            if moved != before:
                before = moved
                deadline = clock.monotonic() + self._timeout_s
            elif clock.monotonic() >= deadline:
                raise CommandError(f"no progress for {self._timeout_s:g} s{self._unknown()}")
            self._changed.clear()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _unknown(self) -> str:
        left = self._connector.unsettled
        return f"; {left} message(s) were not acknowledged" if left else ""
