"""Which running process a command means: by its configuration, its number or its data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isthmus.errors import ConfigError

DEFAULT_FILE = Path("isthmus.yaml")

DESCRIBE_TIMEOUT_S = 1.0
"""For each of several processes to say which file it runs."""

FileArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE",
        show_default=False,
        help="The configuration that the process was started with.",
    ),
]

PidOption = Annotated[
    int | None,
    typer.Option("--pid", min=1, metavar="PID", show_default=False, help="Its number instead."),
]


def socket_of(
    *, file: Path | None = None, pid: int | None = None, data: Path | None = None
) -> Path:
    """The control socket of the process that was started with `file`, or has this number or folder.

    Without any of them it is that of isthmus.yaml where this folder has one, as a command that
    deletes something must not mean another process from one moment to the next; else the one
    process of this user that runs.

    Raises:
        ControlError: there is none, or there are several.
        ConfigError: `file` cannot be read.
    """
    from isthmus.app.asking import NAME, ControlError, find

    if (file, pid, data) == (None, None, None) and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    if pid is not None:
        found = find(pid=pid)
        wanted = f"with the number {pid}"
    elif data is not None:
        found = [path for path in (data / NAME,) if path.is_socket()]
        if not data.is_dir():
            from isthmus.store.database import no_store  # SQLite is loaded only for this

            raise ControlError(no_store(data))
        wanted = f"that uses {data} as its data folder"
    elif file is not None:
        found = find(configuration=file) or _in_data_folder(file, NAME)
        wanted = f"of {file}"
    else:
        found = find()
        wanted = "here"
    if not found:
        others = [] if file is None else find()
        there_are = f" Other processes: {', '.join(map(_described, others))}; see --pid"
        raise ControlError(
            f"there is no process {wanted} that this user may reach; is it running (a start takes "
            f"a moment), and as you?{there_are if others else ''}"
        )
    if len(found) > 1:
        numbers = ", ".join(map(_described, found))
        raise ControlError(f"there are several processes {wanted}; name one by --pid: {numbers}")
    return found[0]


def _described(path: Path) -> str:
    """The number of a process, and what it was started with, if it says so soon."""
    from isthmus.app.asking import ControlError, ask

    number = path.name.partition("-")[0]
    try:
        file = ask(path, {"request": "status"}, timeout_s=DESCRIBE_TIMEOUT_S)["process"]["file"]
    except (ControlError, LookupError, TypeError):
        return number
    return f"{number} ({file or 'without a file'})"


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
