"""Log set-up: text for people, JSON for machines, and no line that a stranger can forge.

Client ids, topics and reasons come from outside. Control characters in them (a line break that
begins a false entry, an escape sequence that rewrites a terminal) are written as escapes.
"""

import errno
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Literal

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
"""Levels by the names that the configuration uses."""

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != 0x0A}
_ESCAPES |= {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}

ELSEWHERE = "elsewhere"
"""Name of handlers that are not made here, and that a new set-up leaves alone."""

_ROOT = "isthmus"

CLIENTS = "isthmus.broker.clients"
"""Logger of clients that come and go."""

CLIENT_FAULTS = "isthmus.broker.clients.faults"
"""Logger of clients that are refused or closed, and why."""

Clients = Literal["all", "faults", "none"]
"""What is logged about clients: that they come and go, only what was wrong with them, nothing."""

_SYSLOG = "/dev/log"


def escape(text: str) -> str:
    """Return `text` on one line, its control characters written as escapes."""
    return text if text.isprintable() else text.translate(_ESCAPES)


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO broker: text`, one line per entry.

    `timestamp` says whether lines begin with their time, `timestamp_format` how it is written, as
    for `strftime` and in local time; None is ISO 8601 in UTC.
    """

    def __init__(self, *, timestamp: bool = True, timestamp_format: str | None = None) -> None:
        super().__init__()
        self._timestamp = timestamp
        self._timestamp_format = timestamp_format

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record; a traceback follows indented."""
        line = f"{record.levelname} {_name(record)}: {escape(record.getMessage())}"
        if self._timestamp:
            line = f"{self._when(record)} {line}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += "".join(f"\n    {escape(part)}" for part in trace.splitlines())
        return line

    def _when(self, record: logging.LogRecord) -> str:
        if self._timestamp_format is None:
            return _time(record)
        return escape(time.strftime(self._timestamp_format, time.localtime(record.created)))


class JSONFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and error where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON text of a record."""
        entry = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": _name(record),
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(
    level: str = "info",
    format: Literal["text", "json"] = "text",  # noqa: A002 - the name of the configuration key
    stream: IO[str] | None = None,
    *,
    to: Sequence[str] = ("stderr",),
    file: Path | None = None,
    syslog_facility: str = "daemon",
    timestamp: bool = True,
    timestamp_format: str | None = None,
    clients: Clients = "faults",
) -> None:
    """Send the entries of Isthmus to `stream`, or to where the settings say.

    Replaces an earlier set-up, but for handlers named `ELSEWHERE`. The arguments are the keys of
    the `log` section.

    Raises:
        KeyError: `level` is none of `LEVELS`.
        OSError: `file` cannot be written, or there is no syslog; `filename` says which.
    """
    if stream is not None:
        handlers: list[logging.Handler] = [logging.StreamHandler(stream)]
    else:
        handlers = list(_handlers(to, file, syslog_facility))
    for handler in handlers:
        handler.setFormatter(
            JSONFormatter()
            if format == "json"
            else TextFormatter(timestamp=timestamp, timestamp_format=timestamp_format)
        )
    logger = logging.getLogger(_ROOT)
    kept = [old for old in logger.handlers if old.name == ELSEWHERE]
    for old in logger.handlers:
        if old not in kept:
            old.close()
    logger.handlers[:] = [*handlers, *kept] or [logging.NullHandler()]
    logger.setLevel(LEVELS[level])
    logger.propagate = False
    _set_up_clients(clients, level)


def _set_up_clients(clients: Clients, level: str) -> None:
    """Say which entries about clients are written, besides what `level` says of all."""
    nothing, written = logging.CRITICAL + 1, LEVELS[level]
    comings = clients == "all" or (clients == "faults" and level == "debug")
    logging.getLogger(CLIENTS).setLevel(written if comings else nothing)
    logging.getLogger(CLIENT_FAULTS).setLevel(nothing if clients == "none" else written)


def _handlers(to: Sequence[str], file: Path | None, facility: str) -> Iterator[logging.Handler]:
    if "stderr" in to:
        yield logging.StreamHandler(sys.stderr)
    if "stdout" in to:
        yield logging.StreamHandler(sys.stdout)
    # The handlers of files and of syslog cost half a MiB that few need.
    if "syslog" in to:
        from logging.handlers import SysLogHandler

        if not Path(_SYSLOG).exists():  # the handler would only complain at each entry
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), _SYSLOG)
        yield SysLogHandler(_SYSLOG, SysLogHandler.facility_names[facility])
    if file is not None:
        from logging.handlers import WatchedFileHandler

        yield WatchedFileHandler(file)


def _name(record: logging.LogRecord) -> str:
    """Where the entry is from: a package, or a part of one."""
    return ".".join(record.name.removeprefix(f"{_ROOT}.").split(".")[:2])


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"
