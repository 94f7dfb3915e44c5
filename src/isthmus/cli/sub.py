"""`isthmus sub`: print messages."""

from __future__ import annotations

from typing import Annotated

import typer

from isthmus.cli.options import FarOptions, with_options
from isthmus.cli.output_options import OutputOptions
from isthmus.cli.session_options import SessionOptions

_HANDLINGS = {"always": 0, "new": 1, "never": 2, "0": 0, "1": 1, "2": 2}


@with_options(output=OutputOptions, far=FarOptions, session=SessionOptions)
def sub(
    output: OutputOptions,
    far: FarOptions,
    session: SessionOptions,
    filters: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILTER", show_default=False, help="Topic filters."),
    ] = None,
    topics: Annotated[
        list[str] | None,
        typer.Option(
            "-t",
            "--topic",
            metavar="FILTER",
            show_default=False,
            help="The same; may be repeated. $share/GROUP/FILTER is a shared subscription.",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "-T",
            "--filter-out",
            metavar="FILTER",
            show_default=False,
            help="Do not print what matches this; may be repeated.",
        ),
    ] = None,
    unsubscribe: Annotated[
        list[str] | None,
        typer.Option(
            "-U",
            "--unsubscribe",
            metavar="FILTER",
            show_default=False,
            help="Unsubscribe from this first, in a session of -c; may be repeated.",
        ),
    ] = None,
    qos: Annotated[
        int,
        typer.Option(
            "-q", "--qos", min=0, max=2, metavar="0|1|2", help="Highest quality of service."
        ),
    ] = 0,
    no_local: Annotated[
        bool, typer.Option("--no-local", help="Leave out what this client itself publishes.")
    ] = False,
    retain_as_published: Annotated[
        bool,
        typer.Option("--retain-as-published", help="Keep the retain flag of new messages."),
    ] = False,
    retain_handling: Annotated[
        str | None,
        typer.Option(
            metavar="always|new|never",
            help="Retained messages: always, if the subscription is new, or never.",
        ),
    ] = None,
    subscription_identifier: Annotated[
        int | None,
        typer.Option(min=1, max=268_435_455, metavar="N", help="A number to tell messages by."),
    ] = None,
    user_property: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", show_default=False, help="Of SUBSCRIBE."),
    ] = None,
    fresh_only: Annotated[
        bool, typer.Option("-R", "--no-retained", help="Print no retained messages.")
    ] = False,
    retained_only: Annotated[
        bool,
        typer.Option("--retained-only", help="Print retained messages; end at the first other."),
    ] = False,
    remove_retained: Annotated[
        bool,
        typer.Option("--remove-retained", help="Clear each retained message after printing it."),
    ] = False,
    only_subscribe: Annotated[
        bool, typer.Option("-E", help="Subscribe, print nothing and end; for sessions of -c.")
    ] = False,
    count: Annotated[
        int | None,
        typer.Option("-C", "--count", min=1, metavar="N", help="End after this many messages."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "-W", min=0.1, metavar="SECONDS", help="End after this time, with exit status 27."
        ),
    ] = None,
) -> None:
    """Print messages as they arrive.

    Payloads are written byte for byte, each with a line break. A lost connection is made again.

    \b
      isthmus sub --url 127.0.0.1:1883 -v 'sensor/#'
      isthmus sub -h broker.example.com --tls -t a/b -t 'c/+' -q 1
      isthmus sub -t state -C 1 -W 5
      isthmus sub --json 'sensor/#'

    \b
    Exit status: 0 the messages of -C were printed, or Ctrl-C without -C; 1 no connection, or
    refused; 2 wrong usage; 27 the time of -W is over.
    """  # noqa: D301
    from isthmus.cli.far_side import run_command
    from isthmus.cli.greeting import greet
    from isthmus.cli.listener import Wanted, listen
    from isthmus.cli.message_options import topic_filter
    from isthmus.cli.property_option import put_all
    from isthmus.mqtt.packets import SubscribeOptions

    names = [*(topics or ()), *(filters or ())]
    if not names and not (unsubscribe and only_subscribe):
        raise typer.BadParameter("is missing", param_hint="FILTER")
    if fresh_only and (retained_only or remove_retained):
        raise typer.BadParameter(
            "leaves out the retained messages that you ask for", param_hint="-R"
        )
    wanted_filters = [topic_filter(text, "FILTER") for text in names]
    if no_local and any(filter_.startswith(b"$share/") for filter_ in wanted_filters):
        raise typer.BadParameter(
            "is not allowed for shared subscriptions (MQTT-3.8.3-4)", param_hint="--no-local"
        )
    if retain_handling is not None and retain_handling not in _HANDLINGS:
        raise typer.BadParameter("must be always, new or never", param_hint="--retain-handling")
    layout = output.layout()
    greeting, found = greet("isthmus-sub", far, session, ("subscribe", "unsubscribe"))
    put_all(
        found["subscribe"],
        "subscribe",
        {
            "--subscription-identifier": subscription_identifier,
            "--user-property": user_property,
        },
    )
    options = SubscribeOptions(
        qos, no_local, retain_as_published, _HANDLINGS[retain_handling or "always"]
    )
    wanted = Wanted(
        filters=[(filter_, options) for filter_ in wanted_filters],
        unsubscribe_from=[topic_filter(text, "-U") for text in unsubscribe or ()],
        subscribe=found["subscribe"],
        unsubscribe=found["unsubscribe"],
        without=[topic_filter(text, "-T") for text in without or ()],
        fresh_only=fresh_only,
        retained_only=retained_only,
        remove_retained=remove_retained,
        only_subscribe=only_subscribe,
    )
    greeting = greeting.needing_v5(found["subscribe"] or options != SubscribeOptions(qos))
    status = run_command(
        listen(greeting, wanted, layout, end=output.end, count=count, timeout_s=timeout),
        debug=session.debug,
    )
    # Stopping it is how a command without an end of its own ends.
    raise typer.Exit(0 if status > 128 and count is None else status)
