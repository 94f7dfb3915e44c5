"""`isthmus sub`: print messages."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from isthmus.cli.options import FarOptions, with_far_options


@with_far_options
def sub(
    far: FarOptions,
    filters: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILTER", show_default=False, help="Topic filters."),
    ] = None,
    topics: Annotated[
        list[str] | None,
        typer.Option("-t", "--topic", metavar="FILTER", help="The same; may be repeated."),
    ] = None,
    qos: Annotated[
        int,
        typer.Option(
            "-q", "--qos", min=0, max=2, metavar="0|1|2", help="Highest quality of service."
        ),
    ] = 0,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Print the topic before each payload.")
    ] = False,
    no_newline: Annotated[
        bool, typer.Option("-N", help="Print no line break after a payload.")
    ] = False,
    count: Annotated[
        int | None,
        typer.Option("-C", "--count", min=1, metavar="N", help="End after this many messages."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "-W", min=0.1, metavar="SECONDS", help="End after this time, with exit status 1."
        ),
    ] = None,
    debug: Annotated[
        bool, typer.Option("-d", "--debug", help="Tell on stderr what happens.")
    ] = False,
) -> None:
    """Print messages as they arrive.

    Payloads are written byte for byte, each with a line break. A lost connection is made again.

    \b
      isthmus sub --url 127.0.0.1:1883 -v 'sensor/#'
      isthmus sub -h broker.example.com --tls -t a/b -t 'c/+' -q 1
      isthmus sub -t state -C 1 -W 5

    \b
    Exit status: 0 the messages of -C were printed, or Ctrl-C without -C;
    1 no connection, refused, or the time of -W is over; 2 wrong usage.
    """  # noqa: D301
    from isthmus.cli.far_side import connector_settings, run_command
    from isthmus.cli.printer import print_messages
    from isthmus.errors import MQTTError
    from isthmus.mqtt.topics import check_filter

    wanted = [os.fsencode(text) for text in [*(topics or ()), *(filters or ())]]
    if not wanted:
        raise typer.BadParameter("is missing", param_hint="FILTER")
    for filter_ in wanted:
        try:
            check_filter(filter_)
        except MQTTError as error:
            raise typer.BadParameter(str(error), param_hint="FILTER") from None
    status = run_command(
        print_messages(
            connector_settings(far),
            wanted,
            qos=qos,
            verbose=verbose,
            end=b"" if no_newline else b"\n",
            count=count,
            timeout_s=timeout,
        ),
        debug=debug,
    )
    # Stopping it is how a command without an end of its own ends.
    raise typer.Exit(0 if status > 128 and count is None else status)
