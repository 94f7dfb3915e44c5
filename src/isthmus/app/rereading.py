"""Reading the configuration again while the process runs: on SIGHUP, or as a command asks for it.

Every part of a reload that belongs to the process and not to its application is here: the file is
read as it was at the start, with the same options of the command line; the log is set up anew; what
happened is logged, and said to whoever asked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from typing import TYPE_CHECKING, Any

from isthmus.app.asking import DONE, NOT_NOW, WRONG
from isthmus.errors import ConfigError, ListenError
from isthmus.log import configure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from isthmus.app.app import App
    from isthmus.app.configuration import Loaded
    from isthmus.app.settings import LogSettings

log = logging.getLogger("isthmus.app")


class Rereading:
    """Brings `app` to what `read` returns now. `file` is the configuration, where there is one."""

    def __init__(self, app: App, read: Callable[[], Loaded], file: Path | None = None) -> None:
        self._app = app
        self._read = read
        self.file = file
        self._one = asyncio.Lock()
        self._tasks: set[asyncio.Task[dict[str, Any]]] = set()

    def soon(self) -> None:
        """Begin, for a signal."""
        log.info("reload: SIGHUP")
        task = asyncio.get_running_loop().create_task(self.run(), name="reload")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer the request `reload`: what `run` says, and which process and file that was."""
        del request
        file = None if self.file is None else str(self.file.absolute())
        return {"process": {"pid": os.getpid(), "file": file}, **await self.run()}

    async def run(self) -> dict[str, Any]:
        """Read the configuration and apply what is new.

        Returns the answer: `status`, and either `changes` (one text each) or `errors`.
        """
        async with self._one:
            settings = self._app.settings
            try:
                changes = await self._reload()
            except ConfigError as error:
                for problem in error.problems:
                    log.error("reload: %s", problem)
                log.error("reload: nothing has changed, as the configuration cannot be used")
                status = NOT_NOW if isinstance(error, ListenError) else WRONG
                return {"status": status, "errors": list(error.problems)}
            except Exception as error:
                if self._app.settings is settings:
                    log.exception("reload: it failed; nothing has changed")
                else:
                    log.exception("reload: it failed half-way; start the process anew")
                return {"status": NOT_NOW, "errors": [f"internal error: {error}; see the log"]}
            return {"status": DONE, "changes": changes}

    async def _reload(self) -> list[str]:
        if self.file is not None:
            _check_again(self.file)
        loaded = await asyncio.to_thread(self._read)
        settings, after = self._app.settings, loaded.settings.log
        try:
            if settings.log != after:
                _set_up_log(after)
            report = await self._app.reload(loaded.settings)
            if settings.log != after:
                report.changes.append("log: set up anew")
        except BaseException as error:
            if settings.log != after and self._app.settings is settings:
                _set_up_log(settings.log)
            if isinstance(error, ConfigError):
                raise loaded.placed(error) from error
            raise
        for note in loaded.notes:
            log.log(logging.WARNING if note.loud else logging.INFO, "%s", note)
        return report.lines


def _check_again(file: Path) -> None:
    """Refuse what only a start may take: a stream, and the moment in which an editor writes."""
    try:
        status = file.stat()
    except OSError:
        return  # reading says why
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{file}: is no regular file, so it cannot be read a second time")
    if not status.st_size:
        raise ConfigError(
            f"{file}: is empty; a running process does not take that for the default configuration"
        )


def _set_up_log(settings: LogSettings) -> None:
    try:
        configure(**settings.model_dump())
    except OSError as error:
        raise ConfigError(f"log: {error.filename}: cannot be used: {error.strerror}") from None
