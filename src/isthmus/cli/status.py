"""`isthmus status`: what a running process does now, as a table or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from isthmus.cli.running_process import FileArgument, PidOption, socket_of
from isthmus.errors import ConfigError

NO_PROCESS = 2
"""The exit status where nobody answers."""

ANSWER_TIMEOUT_S = 5.0
"""A process that needs longer to read its counters is in trouble; whoever asks should know."""

ConfigOption = Annotated[
    Path | None,
    typer.Option("-c", "--config", metavar="FILE", show_default=False, help="The same as FILE."),
]

DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", show_default=False, help="Its data folder instead."),
]


def status(
    file: FileArgument = None,
    config: ConfigOption = None,
    pid: PidOption = None,
    data: DataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Print what a running process does: its connectors, routes, totals, drops and its store.

    Without FILE, --pid and --data it is that of isthmus.yaml where this folder has one, else the
    one process of this user that runs.

    \b
    Exit status: 0 all connectors are connected; 1 one is not, or the store cannot be written; 2 no
    process was found, or it does not answer.
    """  # noqa: D301
    from isthmus.cli.status_table import is_well, table
    from isthmus.log import escape

    answer = ask_status(which(file, config, pid, data))
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        for line in table(answer):
            typer.echo(escape(line))
    if not is_well(answer):
        raise typer.Exit(1)


def which(file: Path | None, config: Path | None, pid: int | None, data: Path | None) -> Path:
    """The control socket of the process that the options name; ends the command without one.

    Raises:
        ConfigError: they name several, or FILE cannot be read.
    """
    if sum(option is not None for option in (file, config, pid, data)) > 1:
        raise ConfigError("name the process once: by FILE, --config, --pid or --data")
    from isthmus.app.asking import ControlError

    try:
        return socket_of(file=file or config, pid=pid, data=data)
    except ControlError as error:
        raise _nobody(str(error)) from None


def ask_status(socket: Path) -> dict[str, Any]:
    """What the process at `socket` says; ends the command where it does not answer."""
    from isthmus.app.asking import ControlError, ask

    try:
        answer = ask(socket, {"request": "status"}, timeout_s=ANSWER_TIMEOUT_S)
    except ControlError as error:
        raise _nobody(str(error)) from None
    if answer.pop("status", None):
        raise _nobody(" ".join(map(str, answer.get("errors", ()))))
    return answer


def _nobody(why: str) -> typer.Exit:
    typer.echo(f"isthmus: {why}", err=True)
    return typer.Exit(NO_PROCESS)
