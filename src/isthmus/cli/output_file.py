"""The file that a command writes its result to: `-o`, the same for all that have one."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
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


@contextmanager
def result_file(output: Path | None) -> Iterator[BinaryIO]:
    """Where the result is written: `output`, which is made or emptied, or standard output.

    Raises:
        ConfigError: it cannot be written.
    """
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written: {error.strerror}") from error
