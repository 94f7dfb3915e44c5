"""One network connection of a command: an MQTT client that hides nothing of the protocol.

A connector passes messages on as fast as it can, and leaves out what is of no use to a router. A
command wants to see all of it: each reason code, DUP, packet and subscription identifiers. So this
client stands on the same state machine, window and links, and not on a connector.

It takes what it is sent only as far as its owner does: a message that `deliver` did not take gets
no acknowledgement, so a broker that keeps the session sends it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from isthmus import clock
from isthmus.cli.subscription_ids import SubscriptionIds
from isthmus.connectors.dialects import DialectChoice
from isthmus.errors import (
    ConnectError,
    LinkClosed,
    LocalProtocolError,
    MQTTError,
    ProtocolViolation,
)
from isthmus.log import escape
from isthmus.mqtt.connection import Connection, State
from isthmus.mqtt.inflight import MAX_RECEIVE_MAXIMUM, Window
from isthmus.mqtt.packet_type import Role
from isthmus.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscribeOptions,
    Unsuback,
    Unsubscribe,
)
from isthmus.mqtt.properties import Properties, PropertyId
from isthmus.mqtt.reasons import describe
from isthmus.net.dial import dial
from isthmus.net.socket_options import SocketOptions
from isthmus.net.tls_failures import explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.cli.greeting import Greeting
    from isthmus.connectors.dialects import Dialect
    from isthmus.connectors.settings import ConnectorSettings
    from isthmus.mqtt.codec import Event
    from isthmus.net.link import Link
    from isthmus.net.reactor import Reactor
    from isthmus.net.timers import Timer

log = logging.getLogger("isthmus.cli")

NOBODY_SUBSCRIBED = 0x10


class Received(NamedTuple):
    """A message as it came; `properties` is its encoded block, `at` the wall time in seconds."""

    topic: bytes
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int
    properties: bytes
    subscription_ids: tuple[int, ...]
    at: float


Deliver: TypeAlias = "Callable[[list[Received]], int]"
"""Gets messages in their order and says how many of them, from the first, it took.

Those are acknowledged. If it did not take all, nothing more is delivered.
"""


def take_none(messages: list[Received]) -> int:
    """Leave what a session holds to whoever comes to print it."""
    del messages
    return 0


class Client:
    """A client from CONNECT to close.

    Attributes:
        opened: Becomes the CONNACK, or ConnectError.
        ended: Becomes the reason why the connection ended.
        goodbye_code: The code of the broker's DISCONNECT, None without one.
        on_settled: Called when an acknowledgement has come.
        settled: Messages of QoS 1 and 2 whose exchange is over.
        refused: Why messages were refused, in words -> how many.
        unheard: Messages of which the broker said that nobody is subscribed.
    """

    def __init__(
        self,
        link: Link,
        settings: ConnectorSettings,
        max_inflight: int,
        deliver: Deliver,
        received_qos2: set[bytes],
        ids: SubscriptionIds | None,
    ) -> None:
        """Use an open link.

        `received_qos2` are the identifiers of QoS 2 messages of this session that were taken and
        are not released yet. With `ids`, subscription identifiers are found too.
        """
        loop = asyncio.get_running_loop()
        self.link = link
        self.connection = Connection(
            Role.CLIENT,
            max_packet_size=settings.max_packet_size,
            topic_alias_maximum=settings.topic_alias_maximum,
            now=link.reactor.now,
            out=link.out,
        )
        self.window = Window(max_inflight)
        self.opened: asyncio.Future[Connack] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()
        self.goodbye_code: int | None = None
        self.on_settled: Callable[[], None] | None = None
        self.settled = 0
        self.refused: Counter[str] = Counter()
        self.unheard = 0
        self._deliver = deliver
        self._received_qos2 = received_qos2
        self._ids = ids
        self._clean_start = True
        self._answers: dict[int, asyncio.Future[list[int]]] = {}
        self._full = False
        self._timer: Timer | None = None
        link.on_close = self._closed
        link.on_data = self._receive

    # -- what the owner asks for -----------------------------------------------------------------

    @property
    def v5(self) -> bool:
        """Whether MQTT 5 is spoken."""
        return self.connection.version == 5

    @property
    def room(self) -> int:
        """How many more QoS 1 and 2 messages may be on their way now."""
        return self.window.limit - len(self.window)

    @property
    def idle(self) -> bool:
        """Whether everything is acknowledged, and with QoS 0 has left this machine's memory."""
        return not (len(self.window) or self.link.blocked or self.link.out)

    def connect(self, packet: Connect) -> None:
        """Send CONNECT."""
        self._clean_start = packet.clean_start
        self._send(packet)

    def publish(self, message: Publish) -> None:
        """Send a message; the owner looks after `room`. Its packet identifier is set here.

        Raises:
            LocalProtocolError: the broker does not take it, or it is no legal message.
        """
        if not message.qos:
            self._send(message)
            return
        packet_id = self.window.next_id()
        message.packet_id = int.from_bytes(packet_id, "big")
        try:
            self._send(message)
        except LocalProtocolError:
            self.window.free.append(packet_id)
            raise
        self.window.entries[packet_id] = (bytes((0x30 | message.qos << 1,)),)

    async def subscribe(
        self, filters: list[tuple[bytes, SubscribeOptions]], properties: Properties
    ) -> list[int]:
        """Subscribe; the codes, one per filter.

        Raises:
            LocalProtocolError: the broker does not take this.
            LinkClosed: the connection ended before the answer.
        """
        return await self._ask(lambda number: Subscribe(number, filters, properties))

    async def unsubscribe(self, filters: list[bytes], properties: Properties) -> list[int]:
        """Unsubscribe; the codes, none below MQTT 5."""
        return await self._ask(lambda number: Unsubscribe(number, filters, properties))

    def disconnect(self, properties: Properties, code: int = 0) -> None:
        """Say goodbye and close, after all that was written has been sent."""
        if not self.ended.done():
            if self.connection.state is State.CONNECTED:
                self._send(Disconnect(code, properties) if self.v5 else Disconnect())
            self._leave("stopped")

    # -- from the link ---------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        ids = iter(self._ids.feed(data)) if self._ids is not None else iter(())
        batch: list[Received] = []
        for event in self.connection.receive(data, clock.monotonic()):
            if isinstance(event, tuple):
                flags, topic, packet_id, properties, payload = event
                batch.append(
                    Received(
                        topic,
                        payload,
                        flags >> 1 & 3,
                        bool(flags & 1),
                        bool(flags & 8),
                        int.from_bytes(packet_id, "big"),
                        properties,
                        next(ids, ()),
                        clock.wall(),
                    )
                )
                continue
            if batch:
                self._take(batch)
                batch = []
            self._handle(event)
        if batch:
            self._take(batch)

    def _take(self, batch: list[Received]) -> None:
        """Deliver what is not known already, and acknowledge what was taken, in order."""
        if self._full:
            return
        fresh = [
            one
            for one in batch
            if one.qos < 2 or one.packet_id.to_bytes(2, "big") not in self._received_qos2
        ]
        taken = self._deliver(fresh) if fresh else 0
        left = len(fresh) - taken
        if left:
            self._full = True
            batch = batch[: batch.index(fresh[taken])]
        for one in batch:
            if one.qos == 1:
                self._send(Puback(one.packet_id))
            elif one.qos == 2:
                self._received_qos2.add(one.packet_id.to_bytes(2, "big"))
                self._send(Pubrec(one.packet_id))

    def _handle(self, event: Event) -> None:
        if isinstance(event, list):
            for packet_id in event:
                self._acknowledged(packet_id, 0, "")
        elif isinstance(event, Puback):
            self._acknowledged(event.packet_id.to_bytes(2, "big"), event.code, _reason(event))
        elif isinstance(event, Pubrec):
            self._recorded(event)
        elif isinstance(event, Pubcomp):
            if self.window.completed(event.packet_id.to_bytes(2, "big")):
                self._settle()
        elif isinstance(event, Pubrel):
            self._received_qos2.discard(event.packet_id.to_bytes(2, "big"))
            self._send(Pubcomp(event.packet_id))
        elif isinstance(event, Suback | Unsuback):
            answer = self._answers.pop(event.packet_id, None)
            if answer is not None and not answer.done():
                self.window.reserved.discard(event.packet_id.to_bytes(2, "big"))
                answer.set_result(event.codes)
        elif isinstance(event, Connack):
            self._connected(event)
        elif isinstance(event, Disconnect):
            said = _said(event.code, _reason(event))
            self.goodbye_code = event.code
            self._leave(f"the broker disconnected: {describe(event.code)}{said}")
        elif isinstance(event, MQTTError):
            self._fail(event)
        elif isinstance(event, Auth):
            text = "the broker asks for AUTH, which this command cannot do"
            self._refuse(ConnectError("connack", text, reason=0x8C))
            self._fail(ProtocolViolation(text, 0x8C))

    def _acknowledged(self, packet_id: bytes, code: int, text: str) -> None:
        entry = self.window.entries.get(packet_id)
        if entry is None:
            return
        if entry[0][0] & 4:
            self._fail(ProtocolViolation("PUBACK for a QoS 2 message"))
            return
        del self.window.entries[packet_id]
        self._judge(code, text)
        self._settle()

    def _recorded(self, event: Pubrec) -> None:
        packet_id = event.packet_id.to_bytes(2, "big")
        if event.code >= 0x80:
            if self.window.entries.pop(packet_id, None) is not None:
                self._judge(event.code, _reason(event))
                self._settle()
            return
        try:
            entry = self.window.recorded(packet_id)
        except ProtocolViolation as error:
            self._fail(error)
            return
        if entry is not None:
            self._judge(event.code, _reason(event))
        self._send(Pubrel(event.packet_id))

    def _judge(self, code: int, text: str) -> None:
        if code >= 0x80:
            self.refused[f"refused by the broker: {describe(code)}{_said(code, text)}"] += 1
        elif code == NOBODY_SUBSCRIBED:
            self.unheard += 1
            log.info("acknowledged: %s", describe(code))

    def _settle(self) -> None:
        self.settled += 1
        if self.on_settled is not None:
            self.on_settled()

    def _connected(self, packet: Connack) -> None:
        if packet.code:
            text = _reason(packet)
            meaning = describe(packet.code, self.connection.version or 5)
            self._refuse(
                ConnectError(
                    "connack",
                    meaning,
                    reason=packet.code,
                    hint=f"the broker says: {escape(text)}" if text not in meaning else "",
                )
            )
            self._leave("refused by the broker")
            return
        if not packet.session_present:
            self._received_qos2.clear()
        elif self._clean_start:
            text = "the broker says that it has a session, and a clean one was asked for"
            self._fail(ProtocolViolation(text, None, "MQTT-3.2.2-5"))
            return
        assigned = packet.properties.get(PropertyId.ASSIGNED_CLIENT_IDENTIFIER)
        if assigned is not None:
            log.info("the broker gave us the client id %s", assigned)
        self.window.limit = min(self.window.limit, self.connection.peer.receive_maximum)
        self.opened.set_result(packet)
        self._watch_keep_alive()

    def _refuse(self, error: ConnectError) -> None:
        if not self.opened.done():
            self.opened.set_exception(error)
            self.opened.exception()  # the waiter may be gone

    # -- sending, keep alive and end -------------------------------------------------------------

    async def _ask(self, packet: Callable[[int], Subscribe | Unsubscribe]) -> list[int]:
        packet_id = self.window.next_id()
        number = int.from_bytes(packet_id, "big")
        self.window.reserved.add(packet_id)
        try:
            self._send(packet(number))
        except LocalProtocolError:
            self.window.reserved.discard(packet_id)
            raise
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        codes: list[int] = await answer
        return codes

    def _send(self, packet: Packet) -> None:
        if self.connection.state is State.CLOSED:
            return  # the broker's DISCONNECT came in the same read as what is answered here
        if not self.link.out:
            self.link.touch()
        self.connection.send(packet)

    def _watch_keep_alive(self) -> None:
        deadline = self.connection.deadline()
        if deadline is not None:
            self._timer = self.link.reactor.wheel.at(deadline, self._check_keep_alive)

    def _check_keep_alive(self) -> None:
        if self.ended.done():
            return
        if not self.link.out:
            self.link.touch()
        error = self.connection.tick(clock.monotonic())
        if error is not None:
            self._fail(error)
        else:
            self._watch_keep_alive()

    def _fail(self, error: MQTTError) -> None:
        """The broker broke the protocol: answer as the version allows, and close."""
        if not self.ended.done():
            if not self.link.out:
                self.link.touch()
            self.connection.answer(error)
            self._leave(str(error))

    def _leave(self, reason: str) -> None:
        self._end(reason)
        self.link.close(reason)

    def _closed(self, reason: str) -> None:
        self._end(reason)

    def _end(self, reason: str) -> None:
        self.connection.close()
        if self._timer is not None:
            self._timer.cancel()
        self._refuse(self._closed_early(reason))
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(LinkClosed(reason))
                answer.exception()  # the waiter may be gone
        if not self.ended.done():
            self.ended.set_result(reason)

    def _closed_early(self, reason: str) -> ConnectError:
        error = getattr(self.link, "error", None)
        if error is not None:
            # With TLS 1.3 a broker refuses our certificate after our side is through.
            text, hint = explain(error)
            return ConnectError("tls", text, hint=hint)
        return ConnectError("connack", f"the connection was closed before CONNACK: {reason}")


class Dialer:
    """Opens connections of one session; it learns which version of MQTT is spoken there."""

    def __init__(
        self,
        reactor: Reactor,
        greeting: Greeting,
        *,
        deliver: Deliver = take_none,
        max_inflight: int = MAX_RECEIVE_MAXIMUM,
        subscription_ids: bool = False,
    ) -> None:
        self._reactor = reactor
        self._greeting = greeting
        self._deliver = deliver
        self._max_inflight = max_inflight
        self._subscription_ids = subscription_ids
        self._received_qos2: set[bytes] = set()
        self._choice = DialectChoice(greeting.settings)
        self._again = False

    async def open(self) -> Client:
        """A client with its CONNACK.

        Raises:
            ConnectError: it cannot be connected; all versions that may be used were tried.
        """
        while True:
            dialect = self._choice.first
            try:
                return await self._open(dialect)
            except ConnectError as error:
                another = self._choice.failed(error)
                if not another:
                    raise
                if self._greeting.v5_only:
                    raise ConnectError(
                        error.step,
                        f"{error}; what you ask for needs MQTT 5",
                        hint=error.hint,
                        reason=error.reason,
                    ) from None
                log.info("%s: %s; trying %s", dialect, error, self._choice.first)

    async def _open(self, dialect: Dialect) -> Client:
        settings = self._greeting.settings
        address = settings.address
        deadline = clock.monotonic() + settings.connect_timeout
        link = await dial(
            self._reactor,
            address.host,
            address.port,
            tls=self._greeting.identity.tls if address.encrypted else None,
            timeout_s=settings.connect_timeout,
            options=SocketOptions(settings.bind_address, None, None),
            websocket=address.path,
            proxy=settings.proxy_address,
            max_packet_size=settings.max_packet_size,
        )
        client = Client(
            link,
            settings,
            self._max_inflight,
            self._deliver,
            self._received_qos2,
            SubscriptionIds() if self._subscription_ids and dialect.version == 5 else None,
        )
        try:
            client.connect(self._greeting.connect(dialect, again=self._again))
            async with asyncio.timeout(max(0.1, deadline - clock.monotonic())):
                await asyncio.shield(client.opened)
        except TimeoutError:
            link.abort("no CONNACK in time")
            text = f"no CONNACK within {settings.connect_timeout:g} s"
            raise ConnectError("timeout", text) from None
        except asyncio.CancelledError:
            client.disconnect({})
            raise
        self._again = True
        log.info("connected to %s with %s", address, dialect)
        return client


def _reason(packet: Connack | Puback | Pubrec | Disconnect) -> str:
    return str(packet.properties.get(PropertyId.REASON_STRING, ""))


def _said(code: int, text: str) -> str:
    """What the broker says beside `code`, if it is more than our own sentence for that."""
    return f" ({escape(text)})" if text and text not in describe(code) else ""
