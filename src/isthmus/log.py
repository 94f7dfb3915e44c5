"""Log set-up: text for people, JSON for machines, and no line that a stranger can forge.

Client ids, topics and reasons come from outside. Control characters in them (a line break that
begins a false entry, an escape sequence that rewrites a terminal) are written as escapes.
"""

import json
import logging
import sys
import time
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

_ROOT = "isthmus"


def escape(text: str) -> str:
    """Return `text` on one line, its control characters written as escapes."""
    return text if text.isprintable() else text.translate(_ESCAPES)


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO broker: text`, one line per entry."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record; a traceback follows indented."""
        line = f"{_time(record)} {record.levelname} {_name(record)}: {escape(record.getMessage())}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += "".join(f"\n    {escape(part)}" for part in trace.splitlines())
        return line


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
) -> None:
    """Send the entries of Isthmus to `stream` (standard error); replaces an earlier set-up.

    Raises:
        KeyError: `level` is none of `LEVELS`.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONFormatter() if format == "json" else TextFormatter())
    logger = logging.getLogger(_ROOT)
    logger.handlers[:] = [handler]
    logger.setLevel(LEVELS[level])
    logger.propagate = False


def _name(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{_ROOT}.")


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"
