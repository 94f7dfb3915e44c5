"""The options that make a message: the same for `isthmus pub` and `isthmus request`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from isthmus.mqtt.packets import Publish
    from isthmus.mqtt.properties import Properties


@dataclass(frozen=True, kw_only=True)
class MessageOptions:
    """Topic, payload, QoS and properties, as typed; nothing is checked yet."""

    topic_option: Annotated[
        str | None, typer.Option("-t", "--topic", metavar="TOPIC", help="Instead of the argument.")
    ] = None
    message: Annotated[
        str | None,
        typer.Option("-m", "--message", metavar="PAYLOAD", help="Instead of the argument."),
    ] = None
    file: Annotated[
        str | None,
        typer.Option("-f", "--file", metavar="FILE", help="Send this file; - is stdin."),
    ] = None
    stdin: Annotated[
        bool, typer.Option("-s", "--stdin-file", help="Send all of stdin as one message.")
    ] = False
    null: Annotated[
        bool,
        typer.Option("-n", "--null", help="Send an empty payload; with -r it clears a topic."),
    ] = False
    qos: Annotated[
        int, typer.Option("-q", "--qos", min=0, max=2, metavar="0|1|2", help="Quality of service.")
    ] = 0
    retain: Annotated[
        bool, typer.Option("-r", "--retain", help="Ask the broker to keep it for new subscribers.")
    ] = False
    content_type: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Such as application/json.")
    ] = None
    payload_format: Annotated[
        str | None,
        typer.Option(metavar="bytes|utf8", help="What the payload is said to be."),
    ] = None
    message_expiry: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="The broker drops it when it is that old: 60 (seconds), 10m, 1h."
        ),
    ] = None
    correlation: Annotated[
        str | None,
        typer.Option("--correlation", "--correlation-data", metavar="TEXT", help="For responses."),
    ] = None
    user_property: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", show_default=False, help="May be repeated."),
    ] = None

    def named(self, topic: str | None, payload: str | None) -> tuple[str | None, str | None]:
        """Topic and payload from the arguments, where -t makes the first one the payload.

        Raises:
            typer.BadParameter: two topics, or two payloads.
        """
        if self.topic_option is None:
            return topic, payload
        if payload is not None:
            raise typer.BadParameter("give the topic once: TOPIC or -t", param_hint="-t")
        return self.topic_option, topic

    def ways(self, payload: str | None) -> int:
        """In how many ways the payload is given."""
        given = (payload, self.message, self.file)
        return sum(one is not None for one in given) + self.stdin + self.null

    def read(self, payload: str | None) -> bytes:
        """The payload: of an argument, an option, a file.

        Raises:
            typer.BadParameter: the file cannot be read.
        """
        if self.file is not None:
            return _read(self.file, "-f")
        if self.stdin:
            return _read("-", "-s")
        return os.fsencode(payload if payload is not None else self.message or "")

    def properties(self, found: Properties, response_topic: str | None) -> Properties:
        """The properties of PUBLISH: `found`, given with -D, and those with options of their own.

        Raises:
            typer.BadParameter: a value does not fit, or one is given twice.
        """
        from isthmus.cli.greeting import seconds
        from isthmus.cli.property_option import put_all

        formats = {"bytes": 0, "utf8": 1, "utf-8": 1, "0": 0, "1": 1}
        if self.payload_format is not None and self.payload_format.lower() not in formats:
            raise typer.BadParameter("must be bytes or utf8", param_hint="--payload-format")
        put_all(
            found,
            "publish",
            {
                "--payload-format": formats.get((self.payload_format or "").lower()),
                "--message-expiry": seconds(self.message_expiry, "--message-expiry"),
                "--content-type": self.content_type,
                "--response-topic": response_topic,
                "--correlation": self.correlation,
                "--user-property": self.user_property,
            },
        )
        return found

    def publish(self, topic: str | None, properties: Properties) -> Publish:
        """The message without its payload.

        Raises:
            typer.BadParameter: this is no topic to publish on.
        """
        from isthmus.mqtt.packet_type import PacketType
        from isthmus.mqtt.packets import Publish
        from isthmus.mqtt.properties import encode

        name = b"" if topic is None else topic_name(topic, "TOPIC")
        block = encode(properties, PacketType.PUBLISH)
        return Publish(name, b"", self.qos, self.retain, properties=block)


def topic_name(text: str, option: str) -> bytes:
    """The bytes of a topic to publish on.

    Raises:
        typer.BadParameter: it is none.
    """
    from isthmus.errors import MQTTError
    from isthmus.mqtt.topics import check_name

    name = os.fsencode(text)
    try:
        check_name(name)
    except MQTTError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    return name


def topic_filter(text: str, option: str) -> bytes:
    """The bytes of a topic filter.

    Raises:
        typer.BadParameter: it is none.
    """
    from isthmus.errors import MQTTError
    from isthmus.mqtt.topics import check_filter

    filter_ = os.fsencode(text)
    try:
        check_filter(filter_)
    except MQTTError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    return filter_


def _read(file: str, option: str) -> bytes:
    from isthmus.cli.stdin import MAX_PAYLOAD_BYTES

    try:
        if file == "-":
            data = sys.stdin.buffer.read(MAX_PAYLOAD_BYTES + 1)
        else:
            with Path(file).open("rb") as source:
                data = source.read(MAX_PAYLOAD_BYTES + 1)
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint=option) from None
    if len(data) > MAX_PAYLOAD_BYTES:
        raise typer.BadParameter(f"{file}: is too large for MQTT (256 MiB)", param_hint=option)
    return data
