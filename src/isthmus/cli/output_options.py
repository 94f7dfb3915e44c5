"""The options that say how messages are printed: the same for `isthmus sub` and `request`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from isthmus.cli.layout import Layout


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What is printed of a message, as typed; nothing is checked yet."""

    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Print the topic before each payload.")
    ] = False
    json: Annotated[
        bool,
        typer.Option("--json", help="Print each message as a line of JSON, with all about it."),
    ] = False
    format: Annotated[
        str | None,
        typer.Option(
            "-F",
            "--format",
            metavar="FORMAT",
            help="As mosquitto_sub: %t topic, %p payload, %q QoS, %r retain, %l length, %m packet "
            "id, %x hexadecimal, %I time, %j JSON, %P user properties and so on; @H:@M:@S.",
        ),
    ] = None
    no_newline: Annotated[bool, typer.Option("-N", help="Print no line break after a message.")] = (
        False
    )

    def layout(self) -> Layout:
        """How a message is written.

        Raises:
            typer.BadParameter: there are two answers, or the format is none.
        """
        from isthmus.cli.layout import json_line, parse_format, payload_alone, with_topic

        if self.verbose + self.json + (self.format is not None) > 1:
            raise typer.BadParameter("choose one of -v, -F and --json", param_hint="-F")
        if self.format is not None:
            try:
                return parse_format(self.format)
            except ValueError as error:
                raise typer.BadParameter(str(error), param_hint="-F") from None
        if self.json:
            return json_line
        return with_topic if self.verbose else payload_alone

    @property
    def end(self) -> bytes:
        """What stands behind a message."""
        return b"" if self.no_newline else b"\n"
