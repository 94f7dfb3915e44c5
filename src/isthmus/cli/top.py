"""`isthmus top`: what a running process does, drawn again and again, with rates."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isthmus.cli.running_process import FileArgument, PidOption
from isthmus.cli.status import ConfigOption, DataOption, ask_status, which

if TYPE_CHECKING:
    from collections.abc import Iterable

HOME, END_OF_LINE, REST = "\x1b[H", "\x1b[K", "\x1b[J"
"""To the upper left corner; clear to the end of the line, of the screen."""


def top(
    file: FileArgument = None,
    config: ConfigOption = None,
    pid: PidOption = None,
    data: DataOption = None,
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.1, metavar="SECONDS", help="Between two looks.")
    ] = 1.0,
    count: Annotated[
        int | None,
        typer.Option("-n", "--count", min=1, show_default=False, help="End after so many looks."),
    ] = None,
) -> None:
    """Show what a running process does, with messages per second, until Ctrl-C.

    In a terminal it is drawn in place, elsewhere one block after the other. Which process is meant
    is said as for `isthmus status`.

    \b
    Exit status: 0 ended by Ctrl-C or -n; 2 no process was found, or it answers no more.
    """  # noqa: D301
    from isthmus.cli.status_table import table
    from isthmus.log import escape

    socket = which(file, config, pid, data)
    before: dict[str, Any] | None = None
    looks = 0
    try:
        while True:
            answer = ask_status(socket)
            _draw([escape(line) for line in table(answer, before or answer)])
            before = answer
            looks += 1
            if looks == count:
                return
            time.sleep(interval_s)
    except KeyboardInterrupt:
        return


def _draw(lines: Iterable[str]) -> None:
    if not sys.stdout.isatty():
        print(*lines, sep="\n", end="\n\n", flush=True)
        return
    columns, rows = shutil.get_terminal_size()
    shown = [line[:columns] for line in lines][: rows - 1]
    print(HOME + "".join(f"{line}{END_OF_LINE}\n" for line in shown) + REST, end="", flush=True)
