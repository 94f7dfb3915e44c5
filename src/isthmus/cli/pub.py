"""`isthmus pub`: publish messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli.message_options import MessageOptions
from isthmus.cli.options import FarOptions, with_options
from isthmus.cli.session_options import SessionOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from isthmus.mqtt.packets import Publish

DEFAULT_TIMEOUT_S = 30.0


@with_options(message=MessageOptions, far=FarOptions, session=SessionOptions)
def pub(
    message: MessageOptions,
    far: FarOptions,
    session: SessionOptions,
    topic: Annotated[
        str | None, typer.Argument(metavar="TOPIC", show_default=False, help="Where to publish.")
    ] = None,
    payload: Annotated[
        str | None, typer.Argument(metavar="PAYLOAD", show_default=False, help="What to publish.")
    ] = None,
    lines: Annotated[
        bool,
        typer.Option(
            "-l", "--lines", "--stdin-line", help="Publish each line of stdin that is not empty."
        ),
    ] = False,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Publish each line of stdin, a JSON object: topic, payload, payload_encoding "
            "(text or base64), qos, retain, properties. What it leaves out the options say. It is "
            "what `isthmus sub --json` prints.",
        ),
    ] = False,
    response_topic: Annotated[
        str | None, typer.Option(metavar="TOPIC", help="Where responses go.")
    ] = None,
    repeat: Annotated[
        int, typer.Option(min=1, metavar="N", help="Publish the same message N times.")
    ] = 1,
    repeat_delay: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="SECONDS", help="Time between them, instead of --rate."),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(metavar="RATE", help="Most messages per time: 100 (per second), 30/m, 10/h."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            "-W", min=0.1, metavar="SECONDS", help="Give up when nothing moves for this time."
        ),
    ] = DEFAULT_TIMEOUT_S,
) -> None:
    """Publish messages.

    With QoS 1 or 2 it ends with success only after the broker has acknowledged everything.

    \b
      isthmus pub sensor/1/temperature 37.5 --url 127.0.0.1:1883
      isthmus pub -h broker.example.com --tls -u edge-7 --password-file pw -t a/b -m text -q 1
      tail -f log | isthmus pub -t site-7/log -l
      isthmus pub -t load -m x --repeat 1000 --rate 100/s

    \b
    Exit status: 0 done; 1 no connection, lost, or refused; 2 wrong usage; 27 time of -W over.
    """  # noqa: D301
    topic, payload = message.named(topic, payload)
    if topic is None and not json:
        raise typer.BadParameter("is missing", param_hint="TOPIC")
    if message.ways(payload) + lines + json != 1:
        raise typer.BadParameter(
            "say once what to publish: PAYLOAD, -m, -f, -s, -l, --json or -n", param_hint="PAYLOAD"
        )
    if repeat > 1 and (lines or json):
        raise typer.BadParameter("repeats one message, and not lines", param_hint="--repeat")
    from isthmus.cli.far_side import run_command
    from isthmus.cli.greeting import greet
    from isthmus.cli.publisher import publish

    greeting, found = greet("isthmus-pub", far, session, ("publish",))
    properties = message.properties(found["publish"], response_topic)
    greeting = greeting.needing_v5(properties)
    template = message.publish(topic, properties)
    if lines:
        messages = _lines(template)
    elif json:
        messages = _json_lines(template)
    else:
        template.payload = message.read(payload)
        messages = _repeated(template, repeat)
    status = run_command(
        publish(greeting, messages, interval_s=_interval_s(rate, repeat_delay), timeout_s=timeout),
        debug=session.debug,
    )
    raise typer.Exit(status)


def _interval_s(rate: str | None, delay_s: float | None) -> float:
    """Seconds from one message to the next; 0 for as fast as it goes."""
    from isthmus.config.units import parse_rate

    if rate is None:
        return delay_s or 0.0
    if delay_s is not None:
        raise typer.BadParameter("cannot be combined with --repeat-delay", param_hint="--rate")
    try:
        per_s = parse_rate(float(rate) if rate.replace(".", "", 1).isdecimal() else rate)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--rate") from None
    if not per_s:
        raise typer.BadParameter("must be more than 0", param_hint="--rate")
    return 1 / per_s


async def _repeated(message: Publish, times: int) -> AsyncIterator[list[Publish]]:
    for _ in range(times):
        yield [message]


async def _lines(template: Publish) -> AsyncIterator[list[Publish]]:
    from dataclasses import replace

    from isthmus.cli.stdin import stdin_lines

    async for batch in stdin_lines():
        yield [replace(template, payload=payload) for _, payload in batch]


async def _json_lines(template: Publish) -> AsyncIterator[list[Publish]]:
    from isthmus.cli.far_side import CommandError
    from isthmus.cli.json_message import NoMessage, read_message
    from isthmus.cli.stdin import stdin_lines

    async for batch in stdin_lines():
        found = []
        for number, line in batch:
            try:
                found.append(read_message(line, template))
            except NoMessage as error:
                # What stands before it is published, or nobody could say how far it came.
                yield found
                raise CommandError(f"line {number} of standard input: {error}") from None
        yield found
