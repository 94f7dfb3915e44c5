"""`isthmus request`: publish a message and print the response."""

from __future__ import annotations

from typing import Annotated

import typer

from isthmus.cli.message_options import MessageOptions
from isthmus.cli.options import FarOptions, with_options
from isthmus.cli.output_options import OutputOptions
from isthmus.cli.session_options import SessionOptions

DEFAULT_TIMEOUT_S = 30.0


@with_options(message=MessageOptions, output=OutputOptions, far=FarOptions, session=SessionOptions)
def request(
    message: MessageOptions,
    output: OutputOptions,
    far: FarOptions,
    session: SessionOptions,
    topic: Annotated[
        str | None, typer.Argument(metavar="TOPIC", show_default=False, help="Where to ask.")
    ] = None,
    payload: Annotated[
        str | None, typer.Argument(metavar="PAYLOAD", show_default=False, help="What to send.")
    ] = None,
    response_topic: Annotated[
        str | None,
        typer.Option(
            "-e",
            "--response-topic",
            metavar="TOPIC",
            help="Where responses are awaited.  [default: below the basis that the broker names, "
            "or isthmus/response, the client id]",
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("-C", "--count", min=1, metavar="N", help="End after N responses.")
    ] = 1,
    timeout: Annotated[
        float,
        typer.Option("-W", min=0.1, metavar="SECONDS", help="Wait so long, then exit with 27."),
    ] = DEFAULT_TIMEOUT_S,
) -> None:
    """Publish a message and print the response to it.

    The message carries a response topic and correlation data (random bytes, unless --correlation
    names them). A message on the response topic with other correlation data is not the response.
    With MQTT 3, which has neither, the next message on the topic of -e is taken.

    \b
      isthmus request device/7/command status
      isthmus request -t device/7/command -m status -e answers/me -W 5

    \b
    Exit status: 0 the response was printed; 1 no connection, lost, or refused; 2 wrong usage;
    27 the time of -W is over.
    """  # noqa: D301
    topic, payload = message.named(topic, payload)
    if topic is None:
        raise typer.BadParameter("is missing", param_hint="TOPIC")
    if message.ways(payload) != 1:
        raise typer.BadParameter(
            "say once what to send: PAYLOAD, -m, -f, -s or -n", param_hint="PAYLOAD"
        )
    from dataclasses import replace

    from isthmus.cli.far_side import run_command, version_of
    from isthmus.cli.greeting import greet
    from isthmus.cli.message_options import topic_name
    from isthmus.cli.requester import ask

    layout = output.layout()
    if response_topic is None:
        if version_of(far) in ("3.1", "3.1.1"):
            raise typer.BadParameter(
                "is needed with MQTT 3, where a request cannot say where its responses go: "
                "-e TOPIC is where they are awaited; or use -V 5",
                param_hint="-e",
            )
        session = replace(session, request_response_information=True)
    greeting, found = greet("isthmus-request", far, session, ("publish", "subscribe"))
    properties = message.properties(found["publish"], None)
    greeting = greeting.needing_v5(properties or found["subscribe"] or response_topic is None)
    question = message.publish(topic, {})
    question.payload = message.read(payload)
    status = run_command(
        ask(
            greeting,
            question,
            properties,
            None if response_topic is None else topic_name(response_topic, "-e"),
            layout,
            subscribe=found["subscribe"],
            end=output.end,
            count=count,
            timeout_s=timeout,
        ),
        debug=session.debug,
    )
    raise typer.Exit(status)
