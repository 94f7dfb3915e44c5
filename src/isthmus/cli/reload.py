"""`isthmus reload`: have a running process read its configuration again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isthmus.errors import ConfigError

DEFAULT_FILE = Path("isthmus.yaml")


def reload(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            show_default=False,
            help="The configuration that the process was started with.",
        ),
    ] = None,
    pid: Annotated[
        int | None,
        typer.Option("--pid", min=1, metavar="PID", show_default=False, help="Its number instead."),
    ] = None,
) -> None:
    """Have a running process read its configuration again, and say what it changed.

    Only the difference is applied: clients and connectors that it leaves alone stay connected, and
    nothing that waits is lost. If the file is wrong, nothing changes. SIGHUP does the same.

    Without FILE and --pid it is the one process of this user that runs, or that of isthmus.yaml.

    \b
    Exit status: 0 done; 1 no such process, or an address cannot be listened on; 2 the configuration
    is wrong.
    """  # noqa: D301
    from isthmus.app.asking import ask

    answer = ask(_socket(file, pid), {"request": "reload"})
    for problem in answer.get("errors", ()):
        typer.echo(f"isthmus: {problem}", err=True)
    for line in answer.get("changes", ()):
        typer.echo(line)
    if answer.get("status"):
        raise typer.Exit(int(answer["status"]))


def _socket(file: Path | None, pid: int | None) -> Path:
    from isthmus.app.asking import NAME, ControlError, find

    if pid is not None:
        found = find(pid=pid)
        wanted = f"with the number {pid}"
    elif file is not None:
        found = find(configuration=file) or _in_data_folder(file, NAME)
        wanted = f"of {file}"
    else:
        found = find()
        wanted = "here"
        if len(found) != 1 and DEFAULT_FILE.exists():
            return _socket(DEFAULT_FILE, None)
    if not found:
        raise ControlError(
            f"there is no process {wanted} that this user may reach; is it running, and as you?"
        )
    if len(found) > 1:
        numbers = ", ".join(path.name.partition("-")[0] for path in found)
        raise ControlError(f"there are several processes {wanted}; name one by --pid: {numbers}")
    return found[0]


def _in_data_folder(file: Path, name: str) -> list[Path]:
    """The socket in the data folder that a file names; its values may be wrong, its text not.

    Raises:
        ConfigError: the file cannot be read.
    """
    from isthmus.app.configuration import is_mosquitto, read_configuration
    from isthmus.config.loader import load

    if is_mosquitto(file):
        data: object = read_configuration(file).settings.broker.data
    else:
        broker = load(file).data.get("broker")
        data = broker.get("data") if isinstance(broker, dict) else None
    if not isinstance(data, str | Path) or not str(data):
        return []
    try:
        path = file.parent.absolute() / Path(data).expanduser() / name
    except RuntimeError:
        raise ConfigError(
            f"{file}: broker.data: has a '~' that stands for no home folder"
        ) from None
    return [path] if path.exists() else []
