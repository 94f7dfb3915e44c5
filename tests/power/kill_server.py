"""Starts Isthmus again and again, each time with one step at which the process kills itself.

A program of its own: everything is imported once, and each life is a fork, so that a life begins in
a moment. A line of JSON on its input asks for a life; it answers with the process id, and with the
status when that life is over.

The steps are functions that are Python whether or not the hot files are compiled.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from isthmus.cli.main import main
from isthmus.store.log_changes import LogChanges
from isthmus.store.schema import TRIM_SPAN
from isthmus.store.store import Store
from isthmus.store.writer import Writer

for name in (
    *["app.app", "app.configuration", "app.control", "app.event_loop", "app.process"],
    *["broker.retained_table", "cli.run", "config.json_source", "connectors.far_client"],
    *["delivery.outbox"],
):
    importlib.import_module(f"isthmus.{name}")


class Fuse:
    """Kills the process when it is called for the `nth` time."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def __call__(self) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


def before(owner: type, function: str) -> Callable[[Fuse], None]:
    """Die before the body of a function."""

    def set_up(fuse: Fuse) -> None:
        real = getattr(owner, function)

        def patched(self: Any, *arguments: Any) -> Any:
            fuse()
            return real(self, *arguments)

        setattr(owner, function, patched)

    return set_up


def after(owner: type, function: str) -> Callable[[Fuse], None]:
    """Die when a function has done all that it does."""

    def set_up(fuse: Fuse) -> None:
        real = getattr(owner, function)

        def patched(self: Any, *arguments: Any) -> Any:
            found = real(self, *arguments)
            fuse()
            return found

        setattr(owner, function, patched)

    return set_up


class Watched:
    """A connection to the database, before and after whose statements the process may die."""

    def __init__(
        self, real: sqlite3.Connection, before: Callable[..., None], after: Callable[..., None]
    ) -> None:
        self._real, self._before, self._after = real, before, after
        self._trimmed = False

    def execute(self, text: str, *values: Any) -> sqlite3.Cursor:
        changes = self._real.total_changes
        self._before(text, trimmed=self._trimmed)
        found = self._real.execute(text, *values)
        if text == TRIM_SPAN and self._real.total_changes > changes:
            self._trimmed = True
        self._after(text, trimmed=self._trimmed)
        return found


def _nothing(_text: str, *, trimmed: bool) -> None:
    del trimmed


def statement(wanted: str, *, ended: bool, trimmed: bool = False) -> Callable[[Fuse], None]:
    """Die before or after a statement; `trimmed`: of a transaction that deleted records."""

    def set_up(fuse: Fuse) -> None:
        def look(text: str, *, trimmed: bool) -> None:
            if text == wanted and (trimmed or not only_trimmed):
                fuse()

        only_trimmed = trimmed
        real = Writer.write

        def write(self: Writer, *arguments: Any) -> Any:
            opened = Writer.open

            def watched(writer: Writer) -> Any:
                connection = opened(writer)
                return Watched(connection, *((_nothing, look) if ended else (look, _nothing)))

            Writer.open = watched  # type: ignore[method-assign, assignment]
            try:
                return real(self, *arguments)
            finally:
                Writer.open = opened  # type: ignore[method-assign]

        Writer.write = write  # type: ignore[method-assign]

    return set_up


STEPS: dict[str, Callable[[Fuse], None]] = {
    "held, not in the log": before(Store, "batch_for"),
    "in the log, not submitted": before(Store, "_begin"),
    "submitted, not written": before(Writer, "write"),
    "half a transaction": before(Writer, "_execute"),
    "written, not committed": statement("COMMIT", ended=False),
    "committed, not told": statement("COMMIT", ended=True),
    "told, not released": before(Store, "_written"),
    "released, not sent": after(LogChanges, "committed"),
    "read back, not sent": before(Store, "_loaded"),
    "acknowledged, not noted": before(Store, "note"),
    "trimmed, not committed": statement(TRIM_SPAN, ended=True, trimmed=True),
    "trimmed, and committed": statement("COMMIT", ended=True, trimmed=True),
}


def live(life: dict[str, Any]) -> NoReturn:
    """Be Isthmus, until the step or a signal."""
    log = os.open(life["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(log, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    status = 1
    try:
        if life["step"]:
            STEPS[life["step"]](Fuse(life["nth"]))
        sys.argv = ["isthmus", "run", life["file"]]
        main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - a fork has to end here
        traceback.print_exc()
    os._exit(status)


def serve() -> None:
    """Answer until the input ends."""
    for line in sys.stdin:
        process = os.fork()
        if not process:
            live(json.loads(line))
        print(process, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
