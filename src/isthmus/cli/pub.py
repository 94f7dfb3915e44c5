"""`isthmus pub`: publish messages."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from isthmus.cli.options import FarOptions, with_far_options

DEFAULT_TIMEOUT_S = 30.0


@with_far_options
def pub(
    far: FarOptions,
    topic: Annotated[
        str | None, typer.Argument(metavar="TOPIC", show_default=False, help="Where to publish.")
    ] = None,
    payload: Annotated[
        str | None, typer.Argument(metavar="PAYLOAD", show_default=False, help="What to publish.")
    ] = None,
    topic_option: Annotated[
        str | None, typer.Option("-t", "--topic", metavar="TOPIC", help="Instead of the argument.")
    ] = None,
    message: Annotated[
        str | None,
        typer.Option("-m", "--message", metavar="PAYLOAD", help="Instead of the argument."),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "-f", "--file", metavar="FILE", help="Publish this file as one message; - is stdin."
        ),
    ] = None,
    lines: Annotated[
        bool,
        typer.Option("-l", "--lines", help="Publish each line of stdin that is not empty."),
    ] = False,
    null: Annotated[
        bool,
        typer.Option("-n", "--null", help="Publish an empty payload; with -r it clears a topic."),
    ] = False,
    qos: Annotated[
        int, typer.Option("-q", "--qos", min=0, max=2, metavar="0|1|2", help="Quality of service.")
    ] = 0,
    retain: Annotated[
        bool, typer.Option("-r", "--retain", help="Ask the broker to keep it for new subscribers.")
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(
            "-W", min=0.1, metavar="SECONDS", help="Give up when nothing moves for this time."
        ),
    ] = DEFAULT_TIMEOUT_S,
    debug: Annotated[
        bool, typer.Option("-d", "--debug", help="Tell on stderr what happens.")
    ] = False,
) -> None:
    """Publish messages.

    With QoS 1 or 2 it ends with success only after the broker has acknowledged everything.

    \b
      isthmus pub sensor/1/temperature 37.5 --url 127.0.0.1:1883
      isthmus pub -h broker.example.com --tls -u edge-7 --password-file pw -t a/b -m text -q 1
      tail -f log | isthmus pub -t site-7/log -l

    \b
    Exit status: 0 done; 1 no connection, refused, or no answer in time; 2 wrong usage.
    """  # noqa: D301
    if topic_option is not None:
        if payload is not None:
            raise typer.BadParameter("give the topic once: TOPIC or -t", param_hint="-t")
        topic, payload = topic_option, topic
    if topic is None:
        raise typer.BadParameter("is missing", param_hint="TOPIC")
    given = [payload is not None, message is not None, file is not None, lines, null]
    if sum(given) != 1:
        raise typer.BadParameter(
            "say once what to publish: PAYLOAD, -m, -f, -l or -n", param_hint="PAYLOAD"
        )
    from isthmus.cli.far_side import connector_settings, run_command
    from isthmus.cli.publisher import publish
    from isthmus.cli.stdin import once, stdin_lines
    from isthmus.errors import MQTTError
    from isthmus.mqtt.topics import check_name

    settings = connector_settings(far)
    name = os.fsencode(topic)
    try:
        check_name(name)
    except MQTTError as error:
        raise typer.BadParameter(str(error), param_hint="TOPIC") from None
    if lines:
        payloads = stdin_lines()
    elif file is not None:
        payloads = once(_read(file))
    else:
        payloads = once(os.fsencode(payload if payload is not None else message or ""))
    status = run_command(
        publish(settings, name, payloads, qos=qos, retain=retain, timeout_s=timeout),
        debug=debug,
    )
    raise typer.Exit(status)


def _read(file: str) -> bytes:
    from isthmus.cli.stdin import MAX_PAYLOAD_BYTES

    try:
        if file == "-":
            data = sys.stdin.buffer.read(MAX_PAYLOAD_BYTES + 1)
        else:
            with Path(file).open("rb") as source:
                data = source.read(MAX_PAYLOAD_BYTES + 1)
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="-f") from None
    if len(data) > MAX_PAYLOAD_BYTES:
        raise typer.BadParameter(f"{file}: is too large for MQTT (256 MiB)", param_hint="-f")
    return data
