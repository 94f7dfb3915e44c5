"""A request and its responses over one connection (MQTT 5, section 4.10)."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from isthmus.cli.client import Dialer
from isthmus.cli.far_side import FAILED, TIMED_OUT, CommandError, complain, opened, reacting
from isthmus.cli.printer import Printer
from isthmus.cli.publisher import Publisher
from isthmus.errors import LinkClosed, LocalProtocolError
from isthmus.mqtt.packet_type import PacketType
from isthmus.mqtt.packets import Publish, SubscribeOptions
from isthmus.mqtt.properties import Properties, PropertyId, decode, encode
from isthmus.mqtt.reasons import describe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from isthmus.cli.client import Client, Received
    from isthmus.cli.greeting import Greeting
    from isthmus.cli.layout import Layout

log = logging.getLogger("isthmus.cli")

CORRELATION_BYTES = 8
"""Nobody guesses them, and two requests do not share them."""


async def ask(
    greeting: Greeting,
    question: Publish,
    properties: Properties,
    response_topic: bytes | None,
    layout: Layout,
    *,
    subscribe: Properties,
    end: bytes,
    count: int,
    timeout_s: float,
) -> int:
    """Publish `question` and print `count` responses; the exit status.

    `properties` are those of the question; response topic and correlation data are added. The
    response topic may be None with MQTT 5.

    Raises:
        CommandError: no connection, it was lost, or the broker refuses something.
    """
    if greeting.settings.version == "5":
        properties.setdefault(PropertyId.CORRELATION_DATA, secrets.token_bytes(CORRELATION_BYTES))
    printer = Printer(layout, end, count, Responses(properties).holds)
    try:
        async with asyncio.timeout(timeout_s), reacting() as reactor:
            dialer = Dialer(reactor, greeting, deliver=printer.deliver, subscription_ids=True)
            client = await opened(dialer, greeting)
            try:
                topic = response_topic or _own_topic(client, greeting)
                await _subscribe(client, topic, question.qos, subscribe)
                question = _addressed(client, question, properties, topic)
                return await _ask(client, question, printer, timeout_s)
            finally:
                client.disconnect(greeting.goodbye, greeting.goodbye_code)
    except TimeoutError:
        complain(f"{printer.printed} response(s) within {timeout_s:g} s")
        return TIMED_OUT


class Responses:
    """Tells responses from what else comes on their topic."""

    def __init__(self, properties: Properties) -> None:
        self._correlation = properties.get(PropertyId.CORRELATION_DATA)

    def holds(self, message: Received) -> bool:
        """Whether a message is a response: it has our correlation data, or none at all.

        Without any, the responder knows nothing of correlation, and the topic has to do. What is
        retained there answers an older request.
        """
        if message.retain:
            return False
        block = message.properties
        found = decode(block, 0, len(block), PacketType.PUBLISH) if block else {}
        correlation = found.get(PropertyId.CORRELATION_DATA)
        if correlation in (None, self._correlation):
            return True
        log.info("a message with other correlation data is no response to this request")
        return False


def _own_topic(client: Client, greeting: Greeting) -> bytes:
    """A response topic that nobody else uses."""
    peer = client.connection.peer
    client_id = peer.assigned_client_identifier or greeting.identity.client_id
    basis = peer.response_information or "isthmus/response"
    # Somebody's own id may hold what a topic to publish on must not.
    name = "".join("_" if letter in "+#/\0" else letter for letter in client_id)
    return f"{basis.rstrip('/')}/{name}".encode()


def _addressed(client: Client, question: Publish, properties: Properties, topic: bytes) -> Publish:
    if not client.v5:
        return question
    properties = {**properties, PropertyId.RESPONSE_TOPIC: topic}
    try:
        return replace(question, properties=encode(properties, PacketType.PUBLISH))
    except LocalProtocolError as error:
        raise CommandError(f"cannot ask for a response: {error}") from None


async def _subscribe(client: Client, topic: bytes, qos: int, properties: Properties) -> None:
    options = SubscribeOptions(qos)
    try:
        codes = await client.subscribe([(topic, options)], properties)
    except LocalProtocolError as error:
        raise CommandError(f"cannot subscribe: {error}") from None
    except LinkClosed as error:
        raise CommandError(f"the connection was lost: {error}") from None
    if codes[0] >= 0x80:
        raise CommandError(
            f"the broker refused to subscribe {topic.decode()}: {describe(codes[0])}; "
            "name another response topic with -e"
        )
    log.info("subscribed to %s", topic.decode())


async def _ask(client: Client, question: Publish, printer: Printer, timeout_s: float) -> int:
    publisher = Publisher(client, timeout_s)

    async def once() -> AsyncIterator[list[Publish]]:
        yield [question]

    async def ask_and_wait() -> None:
        await publisher.publish_all(once())
        if publisher.report():
            printer.done.cancel()
            return
        if client.unheard:
            complain(f"nobody is subscribed to {question.topic.decode()} now")
        await printer.done

    await publisher.guard(ask_and_wait())
    return FAILED if printer.done.cancelled() else printer.done.result()
