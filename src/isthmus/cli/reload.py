"""`isthmus reload`: have a running process read its configuration again."""

from __future__ import annotations

import typer

from isthmus.cli.running_process import FileArgument, PidOption, socket_of


def reload(
    file: FileArgument = None,
    pid: PidOption = None,
) -> None:
    """Have a running process read its configuration again; say which one, and what it changed.

    Only the difference is applied: clients and connectors that it leaves alone stay connected, and
    nothing that waits is lost. If the file is wrong, nothing changes. SIGHUP does the same.

    Without FILE and --pid it is that of isthmus.yaml where this folder has one, else the one
    process of this user that runs.

    \b
    Exit status: 0 done; 1 no such process, or an address cannot be listened on; 2 the configuration
    is wrong.
    """  # noqa: D301
    from isthmus.app.asking import ask
    from isthmus.log import escape

    answer = ask(socket_of(file=file, pid=pid), {"request": "reload"})
    process = answer.get("process")
    if isinstance(process, dict):
        read = process.get("file") or "without a file"
        words = escape(f"process {process.get('pid')}, which runs {read}:")
        if answer.get("status"):
            typer.echo(f"isthmus: {words}", err=True)
        else:
            typer.echo(words)
    for problem in answer.get("errors", ()):
        typer.echo(f"isthmus: {problem}", err=True)
    for line in answer.get("changes", ()):
        typer.echo(line)
    if answer.get("status"):
        raise typer.Exit(int(answer["status"]))
