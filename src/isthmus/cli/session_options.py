"""The options of the session behind a connection: what CONNECT says besides who it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Session, will and properties, as typed; nothing is checked yet."""

    persistent: Annotated[
        bool,
        typer.Option(
            "-c",
            "--persistent",
            help="Use the session that the broker keeps for this client id, and leave it there; "
            "needs -i.",
        ),
    ] = False
    session_expiry: Annotated[
        str | None,
        typer.Option(
            "-x",
            "--session-expiry",
            metavar="SECONDS",
            help="How long the broker keeps the session after the end, never to keep it for good."
            "  [default: 0, with -c never]",
        ),
    ] = None
    receive_maximum: Annotated[
        int | None,
        typer.Option(
            min=1, max=65_535, metavar="N", help="Messages that may be on their way to us at once."
        ),
    ] = None
    max_packet_size: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Largest packet that the broker may send."),
    ] = None
    topic_alias_maximum: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, metavar="N", help="Topic aliases that it may use."),
    ] = None
    request_response_information: Annotated[
        bool,
        typer.Option("--request-response-information", help="Ask for a basis of response topics."),
    ] = False
    no_problem_information: Annotated[
        bool,
        typer.Option("--no-problem-information", help="Ask for refusals without explanations."),
    ] = False
    will_topic: Annotated[
        str | None,
        typer.Option(
            metavar="TOPIC", help="Where the broker publishes if we vanish without a goodbye."
        ),
    ] = None
    will_payload: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What it publishes there.  [default: nothing]"),
    ] = None
    will_qos: Annotated[int, typer.Option(min=0, max=2, metavar="0|1|2")] = 0
    will_retain: Annotated[bool, typer.Option("--will-retain")] = False
    will_delay: Annotated[
        str | None,
        typer.Option(metavar="SECONDS", help="How long it waits for us to come back first."),
    ] = None
    disconnect_with_will: Annotated[
        bool,
        typer.Option("--disconnect-with-will", help="Say goodbye, and have the will published."),
    ] = False
    properties: Annotated[
        list[str] | None,
        typer.Option(
            "-D",
            "--property",
            metavar="PACKET NAME VALUE",
            show_default=False,
            help="A property of MQTT 5, as Mosquitto names them: -D connect receive-maximum 10, "
            "-D publish user-property KEY VALUE. May be repeated.",
        ),
    ] = None
    debug: Annotated[bool, typer.Option("-d", "--debug", help="Tell on stderr what happens.")] = (
        False
    )
