"""The file that a command writes its result to: `-o`, the same for all that have one."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from isthmus.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

OutputOption = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        show_default=False,
        help="Write there, readable by this user only, instead of standard output.",
    ),
]


class ResultFile:
    """An open file, with the name that errors call it by."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name

    def write(self, data: bytes) -> None:
        """Write `data`.

        Raises:
            ConfigError: it cannot be written.
            BrokenPipeError: whoever read it is gone.
        """
        with _blamed(self._name):
            self._file.write(data)


@contextmanager
def result_file(output: Path | None) -> Iterator[ResultFile]:
    """Where the result is written: `output`, which is made or emptied, or standard output.

    Errors of whoever writes pass through as they are.

    Raises:
        ConfigError: it cannot be written.
        BrokenPipeError: whoever read it is gone.
    """
    name = "standard output" if output is None else str(output)
    with _blamed(name):
        file = _opened(output)
    try:
        yield ResultFile(file, name)
    except BaseException:
        with suppress(OSError):
            file.close()
        raise
    with _blamed(name):
        file.close()


def _opened(output: Path | None) -> BinaryIO:
    if output is None:
        if sys.stdout is None:  # Python's, where it was closed before the start
            raise OSError(errno.EBADF, "it is closed")
        # Not `sys.stdout`: what could not be written would be tried again at exit.
        return open(sys.stdout.fileno(), "wb", closefd=False)
    return os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


@contextmanager
def _blamed(name: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"{name}: cannot be written: {error.strerror}") from error
