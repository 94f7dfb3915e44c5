"""Changing one user's line in a file of users, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from isthmus.errors import ConfigError

MODE = 0o600
"""What such a file is readable for: its owner."""


def set_line(path: Path, username: str, line: str, *, first: str | None = None) -> bool:
    """Put the line of a user in the place of its old one, or at the end; True if it is new.

    The file is made if it is not there, with `first` as its first line. Comments and the order of
    the other lines stay.
    """
    lines = _lines(path)
    if lines is None:
        lines = [] if first is None else [first]
    places = [index for index, old in enumerate(lines) if _user(old) == username]
    if places:
        lines[places[0]] = line
    else:
        lines.append(line)
    _write(path, lines)
    return not places


def remove_line(path: Path, username: str) -> None:
    """Take the line of a user out.

    Raises:
        ConfigError: there is no such user, or it is the last one.
    """
    lines = _lines(path) or []
    left = [line for line in lines if _user(line) != username]
    if len(left) == len(lines):
        raise ConfigError(f"{path}: has no user '{username}'")
    if not any(_user(line) for line in left):
        # Nobody could start with it: a file of users without users is taken for a broken one.
        raise ConfigError(f"{path}: '{username}' is its last user; remove the file instead")
    _write(path, left)


def check_with(path: Path, load: Callable[[Path], object]) -> None:
    """Refuse to change a file that cannot be read as what it should be.

    Raises:
        ConfigError: as `load` raises it; an empty file, as `touch` makes it, is fine.
    """
    if path.exists() and path.stat().st_size:
        load(path)


def _lines(path: Path) -> list[str] | None:
    try:
        return path.read_text(encoding="utf-8").splitlines() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None


def _user(line: str) -> str | None:
    return None if line.startswith("#") else line.partition(":")[0].strip() or None


def _write(path: Path, lines: list[str]) -> None:
    """Write beside the file and put it in its place, so that no reader sees half of it."""
    target = path.resolve()  # of a symbolic link, the link stays
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise ConfigError(f"{target.parent}: cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), MODE)
            if target.exists():
                _keep_owner(file.fileno(), target)
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def _keep_owner(handle: int, target: Path) -> None:
    """Root changes the file of the user that the broker runs as, and it has to stay readable."""
    status = target.stat()
    own = os.fstat(handle)
    if (status.st_uid, status.st_gid) != (own.st_uid, own.st_gid):
        os.fchown(handle, status.st_uid, status.st_gid)
