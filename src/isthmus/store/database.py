"""The SQLite file: opened, brought up to date, checked, and moved aside where it is damaged."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from isthmus.errors import StoreError
from isthmus.store.reserve import FILE as RESERVE
from isthmus.store.reserve import Reserve
from isthmus.store.schema import STEPS, VERSION
from isthmus.store.wal import MARK, clear_mark, log_of, lost

log = logging.getLogger(__name__)

FILE = "isthmus.db"
"""Its name in the data folder; `-wal` beside it belongs to it."""

SETTINGS = (
    # One process owns the file: no shared memory beside it, and a second one is refused. It has to
    # come before anything that reads: the lock is taken as the log is opened.
    "locking_mode=EXCLUSIVE",
    "journal_mode=WAL",
    "synchronous=FULL",
    # A log that grew is cut again. How often it is copied into the file, the reserve says.
    "journal_size_limit=67108864",
    "cache_size=-8192",
    "temp_store=MEMORY",
    # Where SQLite was built to overwrite what is deleted, that would need as much room as it makes.
    "secure_delete=FAST",
)


def open_database(path: Path) -> sqlite3.Connection:
    """Open the file at `path`, made if need be, with all tables.

    A file that is no database, or a damaged one, is moved aside under a name that ends with
    `.damaged-` and the time, which is logged as an error; then a new one is made. One that is there
    is opened on a full disk too: what it has can be read, and sent.

    Raises:
        StoreError: The file cannot be used: by the rights, a full disk, another process, or
            a later version.
    """
    try:
        return _open(path)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise StoreError(explain(error, path)) from error
        move_aside(path, f"is damaged ({error})")
    try:
        return _open(path)
    except sqlite3.DatabaseError as error:
        raise StoreError(explain(error, path)) from error


def find_missing(path: Path) -> None:
    """Before the start of a process: say so where the file was there, and has gone or is empty.

    An empty one is moved aside. What stands beside it tells this from a first start.

    Raises:
        StoreError: It cannot be looked at, or moved.
    """
    try:
        is_there = path.exists()
        if is_there and path.stat().st_size:
            return
        has_log = log_of(path).exists() and bool(log_of(path).stat().st_size)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    was_used = any(path.with_name(name).exists() for name in (MARK, RESERVE))
    if is_there and (was_used or has_log):
        move_aside(path, "is empty")
    elif was_used and not has_log:  # with a log it is moved aside, when it is opened
        log.warning("%s was there before, and is not there any more. A new one is made", path)


def reopen_database(path: Path) -> sqlite3.Connection:
    """Open the file at `path` again, after a write to it has failed; it is not synchronised.

    Raises:
        sqlite3.Error, StoreError: It cannot be opened, or written, yet.
    """
    connection = _connect(path)
    try:
        version = _set_up(connection, path)
        if version != VERSION:
            raise StoreError(f"{path} has been replaced by another file")
    except BaseException:
        connection.close()
        raise
    return connection


def no_store(folder: Path) -> str:
    """What is missing where there is no store in `folder`, with what to do; empty if there is."""
    if (folder / FILE).exists():
        return ""
    where = folder.absolute()
    what = f"store in {where}: {FILE} is not there" if folder.is_dir() else f"folder {where}"
    return f"there is no {what}; the data folder is what 'broker.data' names in the configuration"


def open_idle_database(path: Path) -> sqlite3.Connection:
    """Open the file of a process that does not run, as it is: nothing is made, changed or moved.

    Raises:
        StoreError: There is none, a process has it open, or it cannot be opened.
    """
    if not path.exists():
        raise StoreError(no_store(path.parent))
    connection = None
    try:
        connection = _connect(path)
        connection.execute(f"PRAGMA {SETTINGS[0]}")
        # The lock is taken by the first use.
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        if is_damage(error):
            raise StoreError(f"{path} is damaged ({error})") from error
        raise StoreError(explain(error, path)) from error
    return connection


def open_moved_database(path: Path) -> sqlite3.Connection:
    """Open a file that was moved aside, to read it.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    return _connect(path)


def synchronise(connection: sqlite3.Connection, path: Path) -> None:
    """Copy everything that is in the log into the file, synchronise that, and empty the log.

    What an earlier handle, or an earlier process, wrote to the log may not be on disk, although the
    system calls its pages clean: its synchronisation failed, or was never reached. What came behind
    it in the log would be lost with it.

    Raises:
        sqlite3.Error, StoreError, OSError: That did not work; nothing is lost.
    """
    clear_mark(path)
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise StoreError(f"{path} is in use by another process: does Isthmus run with this folder?")


def close_database(connection: sqlite3.Connection, path: Path) -> None:
    """Close the file at `path`, which copies everything that is in the log into it."""
    with suppress(OSError):  # then the log stays, too
        clear_mark(path)
    connection.close()


def find_lost(path: Path) -> str:
    """What the log of the file at `path` has lost, in words; empty if nothing that is known.

    Then a copy of the log is made, whose name is said. To be called with the file locked, before
    it is changed.
    """
    try:
        found = lost(path)
    except OSError as error:
        return f"{log_of(path)} cannot be read: {error.strerror}"
    if not found:
        return ""
    kept = "no copy of it could be made"
    copy = _aside(log_of(path))
    try:
        if log_of(path).stat().st_size:
            shutil.copyfile(log_of(path), copy)
            copy.chmod(0o600)
            kept = f"a copy of it is {copy}"
    except OSError:
        copy.unlink(missing_ok=True)
    return f"{log_of(path)} {found}: what was acknowledged there is lost; {kept}"


def _aside(path: Path) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    return path.with_name(f"{path.name}.damaged-{stamp}")


class FileId(NamedTuple):
    """Which file it is."""

    device: int
    inode: int


NO_FILE = FileId(0, 0)


def file_at(path: str) -> tuple[FileId, int]:
    """Which file stands at `path`, and its size; `NO_FILE` and 0 if there is none.

    Raises:
        OSError: It cannot be asked.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - at each commit, and Path takes longer
    except FileNotFoundError:
        return NO_FILE, 0
    return FileId(status.st_dev, status.st_ino), status.st_size


def _connect(path: Path) -> sqlite3.Connection:
    # `mode=rw`: a file that has gone while the process ran is not made anew without notice.
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=1.0,
    )


def _set_up(connection: sqlite3.Connection, path: Path) -> int:
    """Lock the file and choose how it is written; the version of its tables."""
    connection.execute(f"PRAGMA {SETTINGS[0]}")
    # Before anything is written: a file of another version stays as it is.
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        return int(version)
    for setting in (f"wal_autocheckpoint={Reserve(path.parent).log_pages}", *SETTINGS[1:]):
        connection.execute(f"PRAGMA {setting}")
    return int(version)


def _open(path: Path) -> sqlite3.Connection:
    new = not path.exists()
    if new and log_of(path).exists() and log_of(path).stat().st_size:
        move_aside(path, "is not there, and its log is")
    try:
        # For its owner only, whatever the umask; what SQLite puts beside the file gets its rights.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error
    try:
        return _prepare(path)
    except BaseException:
        if new:  # half a file is no file
            for part in (path, log_of(path)):
                part.unlink(missing_ok=True)
        raise


def _prepare(path: Path) -> sqlite3.Connection:
    connection = _connect(path)
    try:
        version = _set_up(connection, path)
        if version > VERSION:
            raise StoreError(
                f"{path} was written by a later version of Isthmus (tables of version {version}, "
                f"this one knows {VERSION}): use that version, or another data folder"
            )
        if found := find_lost(path):
            log.error("%s", found)
        for number in range(version, VERSION):
            connection.execute("BEGIN IMMEDIATE")
            for statement in _statements(STEPS[number]):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={number + 1}")
            connection.execute("COMMIT")
        try:
            # A file that cannot be written is found out now, not by the first message.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA user_version={VERSION}")
            connection.execute("COMMIT")
            synchronise(connection, path)
        except sqlite3.Error as error:
            if version < VERSION or not is_full(error):
                raise
            if connection.in_transaction:
                connection.rollback()
    except BaseException:
        connection.close()
        raise
    return connection


def _statements(script: str) -> list[str]:
    """The statements of a script; `executescript` would end the transaction around them."""
    found = []
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            found.append(statement)
            statement = ""
    return found


NO_TEXT = "Could not decode to UTF-8"
"""What the module `sqlite3` says, without a code, of text that is none."""


def is_damage(error: BaseException) -> bool:
    """Whether `error` says that the bytes of the file are wrong, rather than not to be had."""
    return isinstance(error, sqlite3.DatabaseError) and (
        getattr(error, "sqlite_errorcode", 0) & 0xFF
        in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        or str(error).startswith(NO_TEXT)
    )


def is_full(error: BaseException) -> bool:
    """Whether `error` is that of a full disk, or comes from one."""
    cause = error.__cause__
    return (
        getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        or getattr(error, "errno", None) == errno.ENOSPC
        or (cause is not None and is_full(cause))
    )


def explain(error: BaseException, path: Path) -> str:
    """What an error means for who runs this, with what to do."""
    if is_full(error):
        return f"{path}: the disk is full: free space there, or move the data folder"
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"{path} is in use by another process: does Isthmus run with this data folder?"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return f"{path} cannot be written: check the rights of the file and of its folder"
    if isinstance(error, sqlite3.Error):
        return f"{path}: {error}"
    return str(error) or repr(error)


def move_aside(path: Path, why: str) -> Path:
    """Rename a file that cannot be used, which nobody has open, and its log; say so.

    Returns where it is now.

    `why` says what is the matter with it, such as "is damaged".

    Raises:
        StoreError: It cannot be renamed.
    """
    kept = _aside(path)
    try:
        clear_mark(path)
        for suffix in ("-wal", "-shm", ""):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(kept.with_name(kept.name + suffix))
    except OSError as error:
        raise StoreError(f"{path} {why} and cannot be moved aside: {error.strerror}") from error
    log.error(
        "%s %s. It was moved to %s with everything that it held, and a new one is made. "
        "`isthmus store export %s` writes what can still be read of it; where that can read "
        "nothing, try `.recover` of the sqlite3 command",
        path,
        why,
        kept,
        kept,
    )
    return kept
