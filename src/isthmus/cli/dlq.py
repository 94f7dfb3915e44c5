"""`isthmus dlq`: the dead letters of connectors, in a running process or in its data folder."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from isthmus.cli.running_process import PidOption
from isthmus.errors import ConfigError, IsthmusError

if TYPE_CHECKING:
    from collections.abc import Iterator

FAILED = 1
"""The exit status where there is no such dead letter, or some could not be published."""

dlq = typer.Typer(
    name="dlq",
    help="List, show, replay or drop dead letters: messages that could not be delivered.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ConnectorArgument = Annotated[str, typer.Argument(metavar="CONNECTOR", help="Its name.")]
NumberArgument = Annotated[
    int | None, typer.Argument(metavar="NUMBER", min=1, show_default=False, help="As in the list.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All of this connector.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "-c", "--config", metavar="FILE", show_default=False,
        help="The configuration of the process or the data folder; else isthmus.yaml, if it is "
        "here, else the one process that runs.",
    ),
]  # fmt: skip
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", show_default=False,
        help="The data folder; read by this command itself where no process runs.",
    ),
]  # fmt: skip


class Desk(Protocol):
    """Who has the dead letters: a process, or the file."""

    def logs(self) -> list[dict[str, Any]]:
        """By connector how many there are, and their bytes."""

    def letters(self, connector: str) -> Iterator[dict[str, Any]]:
        """What is known about each one."""

    def letter(self, connector: str, number: int) -> bytes:
        """One, as it is stored."""

    def drop(self, connector: str, number: int | None) -> int:
        """Delete one or all; how many there were."""


class NoSuchLetter(IsthmusError):
    """What was asked for is not there."""


@dlq.callback()
def options() -> None:
    """List, show, replay or drop dead letters: messages that could not be delivered."""


@dlq.command("list")
def listing(
    connector: Annotated[
        str | None,
        typer.Argument(metavar="CONNECTOR", show_default=False, help="Only those of this one."),
    ] = None,
    config: ConfigOption = None,
    pid: PidOption = None,
    data: DataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print lines of JSON.")] = False,
) -> None:
    """List dead letters: connector, number, time, reason, topic, bytes.

    \b
    Exit status: 0 done; 1 there is no such connector; 2 neither a process nor a store was found.
    """  # noqa: D301
    from isthmus.log import escape

    with _desk(config, pid, data) as desk:
        names = [log["connector"] for log in desk.logs()]
        if connector is not None and connector not in names:
            raise NoSuchLetter(f"there are no dead letters of a connector '{connector}'")
        found = False
        for name in names if connector is None else [connector]:
            for letter in desk.letters(name):
                found = True
                if as_json:
                    typer.echo(json.dumps({"connector": name, **letter}, ensure_ascii=False))
                elif "damaged" in letter:
                    typer.echo(f"{name} {letter['number']} cannot be read")
                else:
                    what = " ".join(str(letter[key]) for key in ("number", "at", "reason", "topic"))
                    typer.echo(escape(f"{name} {what} {letter['size']}"))
    if not found:
        typer.echo("isthmus: no dead letters", err=True)  # the list itself is for programs too


@dlq.command()
def show(
    connector: ConnectorArgument,
    number: Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="As in the list.")],
    config: ConfigOption = None,
    pid: PidOption = None,
    data: DataOption = None,
) -> None:
    """Print one dead letter as JSON, with payload and properties.

    \b
    Exit status: 0 done; 1 there is none, or it cannot be read; 2 neither a process nor a store was
    found.
    """  # noqa: D301
    from isthmus.cli.stored_message import UNREADABLE, letter_fields
    from isthmus.delivery.dead_letter import unseal

    with _desk(config, pid, data) as desk:
        found = desk.letter(connector, number)
    try:
        fields = letter_fields(unseal(found))
    except UNREADABLE as error:
        raise NoSuchLetter(f"dead letter {number} of {connector} cannot be read: {error}") from None
    typer.echo(
        json.dumps({"connector": connector, "number": number, **fields}, indent=2,
                   ensure_ascii=False)
    )  # fmt: skip


@dlq.command()
def replay(
    connector: ConnectorArgument,
    number: NumberArgument = None,
    everything: AllOption = False,
    config: ConfigOption = None,
    pid: PidOption = None,
    data: DataOption = None,
) -> None:
    """Publish one dead letter, or all of a connector, again by the same connector.

    Each one is done when its message is safe: acknowledged by the far side, or on disk. What is
    refused again stays, or comes back under a new number. This needs a running process.

    \b
    Exit status: 0 done; 1 some stay, or there is none; 2 no process was found.
    """  # noqa: D301
    _one_or_all(number, everything=everything)
    with _desk(config, pid, data) as desk:
        if not isinstance(desk, Running):
            raise ConfigError("to replay dead letters, Isthmus has to run: only it is connected")
        count, kept = desk.replay(connector, number)
    typer.echo(f"{count} message(s) published again")
    for letter in kept:
        anew = f", as number {letter['now']}" if "now" in letter else ""
        stays = f"{connector} {letter['number']} stays{anew}: {letter['why']}"
        typer.echo(f"isthmus: {stays}", err=True)
    if kept:
        raise typer.Exit(FAILED)


@dlq.command()
def drop(
    connector: ConnectorArgument,
    number: NumberArgument = None,
    everything: AllOption = False,
    config: ConfigOption = None,
    pid: PidOption = None,
    data: DataOption = None,
) -> None:
    """Delete one dead letter, or all of a connector.

    \b
    Exit status: 0 done; 1 there is none; 2 neither a process nor a store was found.
    """  # noqa: D301
    _one_or_all(number, everything=everything)
    with _desk(config, pid, data) as desk:
        typer.echo(f"{desk.drop(connector, number)} message(s) deleted")


def _one_or_all(number: int | None, *, everything: bool) -> None:
    if (number is None) != everything:
        raise ConfigError("name one dead letter by its number, or all of them by --all")


class Running:
    """The dead letters of a running process, which is asked over its control socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def logs(self) -> list[dict[str, Any]]:
        """See `Desk`."""
        found: list[dict[str, Any]] = self._ask(do="logs")["logs"]
        return found

    def letters(self, connector: str) -> Iterator[dict[str, Any]]:
        """See `Desk`."""
        first: int | None = 1
        while first is not None:
            answer = self._ask(do="list", connector=connector, **{"from": first})
            yield from answer["letters"]
            first = answer["next"]

    def letter(self, connector: str, number: int) -> bytes:
        """See `Desk`."""
        import base64

        answer = self._ask(do="show", connector=connector, number=number)
        return base64.b64decode(answer["letter"])

    def drop(self, connector: str, number: int | None) -> int:
        """See `Desk`."""
        return int(self._ask(do="drop", connector=connector, number=number)["dropped"])

    def replay(self, connector: str, number: int | None) -> tuple[int, list[dict[str, Any]]]:
        """Publish one or all again: how many there were, and those that stay."""
        count, kept = 0, []
        request: dict[str, Any] = {"do": "replay", "connector": connector, "number": number}
        while True:
            answer = self._ask(**request)
            count += answer["replayed"]
            kept += answer["kept"]
            if answer["next"] is None:
                return count, kept
            # What is refused again comes back at the end, and is not tried twice.
            request.setdefault("last", answer["last"])
            request["from"] = answer["next"]

    def _ask(self, **request: Any) -> dict[str, Any]:
        from isthmus.app.asking import ask

        answer = ask(self._socket, {"request": "dlq", **request})
        if answer.get("status"):
            raise NoSuchLetter("\n".join(map(str, answer.get("errors", ("it has no answer",)))))
        return answer


class InFile:
    """The dead letters in a data folder that no process uses."""

    def __init__(self, folder: Path) -> None:
        from isthmus.store.idle_store import IdleStore

        self.store = IdleStore(folder)

    def logs(self) -> list[dict[str, Any]]:
        """See `Desk`."""
        from isthmus.delivery.dead_letter import PREFIX

        return [
            {"connector": log.name.removeprefix(PREFIX), "bytes": log.bytes}
            for log in self.store.logs()
            if log.name.startswith(PREFIX)
        ]

    def letters(self, connector: str) -> Iterator[dict[str, Any]]:
        """See `Desk`."""
        from isthmus.delivery.dead_letter import summary

        for seq, _, record in self.store.waiting(self._log(connector)):
            yield {"number": seq, "damaged": True} if record is None else summary(seq, record)

    def letter(self, connector: str, number: int) -> bytes:
        """See `Desk`."""
        for seq, _, record in self.store.waiting(self._log(connector)):
            if seq == number and record is not None:
                return record
        raise NoSuchLetter(f"there is no dead letter number {number}")

    def drop(self, connector: str, number: int | None) -> int:
        """See `Desk`."""
        log = self._log(connector)
        every = range(log.done_below, log.next) if number is None else (number,)
        wanted = {seq for seq in every if seq < log.next and log.waits(seq)}
        if number is not None and not wanted:
            raise NoSuchLetter(f"there is no dead letter number {number}")
        self.store.finish(log, wanted)
        return len(wanted)

    def _log(self, connector: str) -> Any:
        from isthmus.delivery.dead_letter import log_name

        for log in self.store.logs():
            if log.name == log_name(connector):
                return log
        raise NoSuchLetter(f"there are no dead letters of a connector '{connector}'")


@contextmanager
def _desk(config: Path | None, pid: int | None, data: Path | None) -> Iterator[Desk]:
    """The running process that the options name, or else the data folder that they name.

    Raises:
        ConfigError: they name several.
    """
    if sum(option is not None for option in (config, pid, data)) > 1:
        raise ConfigError("name the process once: by --config, --pid or --data")
    from isthmus.app.asking import ControlError, listens
    from isthmus.cli.running_process import socket_of

    try:
        socket = socket_of(file=config, pid=pid, data=data)
        if not listens(socket):
            raise ControlError(f"nobody listens at {socket}")
    except ControlError as error:
        folder = data if data is not None or pid is not None else _data_folder(config)
        if folder is None:
            typer.echo(f"isthmus: {error}", err=True)
            raise typer.Exit(2) from None
        from isthmus.store.database import no_store

        if missing := no_store(folder):
            if data is None:
                typer.echo(f"isthmus: {error}", err=True)
            typer.echo(f"isthmus: {missing}", err=True)
            raise typer.Exit(2) from None
        desk = InFile(folder)
        with desk.store:
            yield desk
        return
    yield Running(socket)


def _data_folder(config: Path | None) -> Path | None:
    """The data folder that a configuration names; that of isthmus.yaml where none is given.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    from isthmus.app.configuration import read_configuration
    from isthmus.cli.running_process import DEFAULT_FILE

    file = config or DEFAULT_FILE
    if config is None and not file.exists():
        return None
    return read_configuration(file).settings.broker.data
