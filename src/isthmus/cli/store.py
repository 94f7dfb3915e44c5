"""`isthmus store`: the data folder of a process that is not running."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isthmus.cli.output_file import OutputOption, result_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isthmus.store.idle_store import IdleStore, KeptLog

WRONG = 1
"""The exit status where something in the store is not as it should be."""

RETAINED = "retained"
"""What `--log` calls the retained messages."""

store = typer.Typer(
    name="store",
    help="Check, compact or export the data folder of a process that is not running.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="The data folder, 'broker.data', or a file of it.")
]


@store.callback()
def options() -> None:
    """Check, compact or export the data folder of a process that is not running."""


@store.command()
def check(folder: FolderArgument) -> None:
    """Read the whole store in DIR, and say what is in it and what is wrong with it.

    Nothing is changed.

    \b
    Exit status: 0 everything is there; 1 something is wrong, or a process has the store open.
    """  # noqa: D301
    from isthmus.amounts import size
    from isthmus.store.check import check as look_at

    with opened(folder) as found:
        findings = look_at(found)
        typer.echo(
            f"{found.path}: tables of version {findings.version}, {size(found.size)}, "
            f"{findings.batches} batch(es)"
        )
    for log in findings.logs:
        typer.echo(f"log {log.name}: {log.waiting} message(s), {size(log.size)}")
    typer.echo(f"retained: {findings.retained} message(s)")
    for aside in sorted(found.path.parent.glob(f"{found.path.name}.damaged-*")):
        typer.echo(f"moved aside, as it was damaged: {aside.name}")
    for problem in findings.problems:
        typer.echo(f"isthmus: {found.path}: {problem}", err=True)
    if findings.problems:
        raise typer.Exit(WRONG)
    typer.echo("everything is there")


@store.command()
def compact(folder: FolderArgument) -> None:
    """Give the room of deleted messages in DIR back to the disk.

    It needs as much free room there as the store has, while it works.

    \b
    Exit status: 0 done; 1 it is damaged, there is no room, or a process has it open.
    """  # noqa: D301
    from isthmus.amounts import size

    with opened(folder) as found:
        before, after = found.compact()
        typer.echo(
            f"{found.path}: {size(before)} before, {size(after)} now, "
            f"{size(max(0, before - after))} given back"
        )


@store.command()
def export(
    folder: FolderArgument,
    log: Annotated[
        list[str] | None,
        typer.Option(
            "--log",
            metavar="NAME",
            show_default=False,
            help="Only this log, or 'retained'; as often as you like.",
        ),
    ] = None,
    output: OutputOption = None,
) -> None:
    """Write all messages that wait in DIR, and the retained ones, as lines of JSON.

    What cannot be read is a line with "damaged": true. Nothing is changed.

    \b
    Exit status: 0 done; 1 some could not be read, or a process has the store open; 2 no such log,
    or the result cannot be written.
    """  # noqa: D301
    with opened(folder) as found:
        logs = found.logs()
        known = [one.name for one in logs] + [RETAINED]
        unknown = [name for name in log or () if name not in known]
        if unknown:
            typer.echo(
                f"isthmus: no log {', '.join(unknown)}; there are {', '.join(known)}", err=True
            )
            raise typer.Exit(2)
        wanted = [one for one in logs if log is None or one.name in log]
        damaged = 0
        with result_file(output) as file:
            for line in _lines(found, wanted, retained=log is None or RETAINED in log):
                damaged += "damaged" in line
                text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
                file.write(text.encode(errors="surrogatepass") + b"\n")
    if damaged:
        typer.echo(f"isthmus: {damaged} message(s) could not be read", err=True)
        raise typer.Exit(WRONG)


@contextmanager
def opened(folder: Path) -> Iterator[IdleStore]:
    """The store in `folder`, which no process has open.

    Raises:
        StoreError: there is none, it is in use, or it cannot be read.
    """
    from isthmus.store.idle_store import IdleStore

    with IdleStore(folder) as found:
        yield found


def _lines(store: IdleStore, logs: list[KeptLog], *, retained: bool) -> Iterator[dict[str, Any]]:
    from isthmus.cli.stored_message import UNREADABLE, fields, letter_fields, message_fields
    from isthmus.clock import iso
    from isthmus.delivery.dead_letter import PREFIX, unseal

    def of_record(log: str, record: bytes) -> dict[str, Any]:
        return letter_fields(unseal(record)) if log.startswith(PREFIX) else message_fields(record)

    for log in logs:
        for seq, at, record in store.waiting(log):
            line: dict[str, Any] = {"log": log.name, "seq": seq}
            if record is not None:
                try:
                    line |= {**of_record(log.name, record), "written_at": iso(at)}
                except UNREADABLE:
                    record = None
            if record is None:
                line["damaged"] = True
            yield line
    if not retained:
        return
    for topic, qos, properties, payload, expires, *_ in store.retained():
        try:
            yield {
                "log": RETAINED,
                **fields(topic, qos, properties, payload, expires, retain=True),
            }
        except UNREADABLE:
            yield {"log": RETAINED, "damaged": True}
