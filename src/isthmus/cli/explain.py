"""`isthmus explain`: what happens to one message, hop by hop, without starting anything."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer


def explain(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Configuration (.yaml, .toml, .json); - is YAML on stdin."
        ),
    ],
    topic: Annotated[
        str, typer.Option("-t", "--topic", metavar="TOPIC", help="Topic of the message.")
    ],
    source: Annotated[
        str,
        typer.Option("--from", metavar="ENDPOINT", help="Where it comes from: local, a connector."),
    ] = "local",
    qos: Annotated[int, typer.Option("-q", "--qos", min=0, max=2, help="Its QoS.")] = 1,
    retain: Annotated[bool, typer.Option("-r", "--retain", help="It has the retain flag.")] = False,
    client_id: Annotated[
        str, typer.Option("-i", "--client-id", metavar="ID", help="Client id of its publisher.")
    ] = "",
    username: Annotated[
        str | None,
        typer.Option("-u", "--username", metavar="NAME", help="User name of its publisher."),
    ] = None,
) -> None:
    """Say what happens to one message: routes, topics, QoS, and when it is acknowledged.

    Nothing is started, connected or written. Who has subscribed at the broker is not known.

    \b
    Exit status: 0 done; 2 the configuration cannot be used, or there is no such topic or endpoint.
    """  # noqa: D301
    from isthmus.app.message_path import message_path
    from isthmus.cli.check import loaded
    from isthmus.delivery.message import Message
    from isthmus.errors import ConfigError, MQTTError
    from isthmus.log import escape
    from isthmus.mqtt.topics import check_name

    settings = loaded(file).settings
    name = topic.encode(errors="surrogateescape")
    try:
        check_name(name)
    except MQTTError as error:
        raise ConfigError(f"--topic: {error}") from None
    message = Message(name, b"", qos, retain)
    for line in asyncio.run(message_path(settings, message, source, client_id, username)):
        typer.echo(escape(line))
