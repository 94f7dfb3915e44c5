"""Asking a running process: how a command finds it, and what the two say to each other.

A process listens on a unix socket that only its own user, and root, may use; see `control`. A
request is one line of JSON, `{"request": "reload"}`, and so is the answer. What can be asked is in
`requests`; an answer has a `status`.

The socket is `control` in the data folder. Where there is none, or its path is too long for a
socket, it stands in the folder of run-time files: `$XDG_RUNTIME_DIR/isthmus`, else
`/tmp/isthmus-UID`. There every process has an entry, a link if need be, whose name holds its number
and a sum over the path of its configuration; so it is found by either, also while its file is
broken.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.errors import IsthmusError

if TYPE_CHECKING:
    from collections.abc import Iterator

DONE, NOT_NOW, WRONG = 0, 1, 2
"""What an answer has as its `status`: the exit statuses of the command, as those of `isthmus run`.
"""

NAME = "control"
"""The name of the socket in a data folder."""

ANSWER_TIMEOUT_S = 60.0
"""For the answer: removed connectors may drain one after the other where reloads pile up."""


class ControlError(IsthmusError):
    """No process was found, or it does not answer."""


def ask(
    path: Path, request: dict[str, Any], *, timeout_s: float = ANSWER_TIMEOUT_S
) -> dict[str, Any]:
    """Send a request to the process whose socket this is, and return its answer.

    Raises:
        ControlError: it does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(os.fspath(path))
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as lines:
                answer = json.loads(lines.readline())
        except TimeoutError:
            raise ControlError(f"no answer within {timeout_s:g} s") from None
        except ConnectionRefusedError:
            raise ControlError(
                f"no process listens at {path}: the one that did was killed"
            ) from None
        except OSError as error:
            raise ControlError(f"{path}: {error.strerror or error}") from error
        except ValueError:
            raise ControlError("it ended without an answer") from None
    if not isinstance(answer, dict):
        raise ControlError("its answer cannot be understood")
    return answer


def find(*, configuration: Path | None = None, pid: int | None = None) -> list[Path]:
    """The sockets of processes of this user: of one configuration, one number, or all of them."""
    found = []
    for entry, number in _entries(runtime_folder()):
        if pid is not None and number != pid:
            continue
        checksum = entry.name.partition("-")[2]
        if (configuration is None or checksum == _sum(configuration)) and _probe(entry) == 0:
            found.append(entry)
    return sorted(found)


def listens(path: Path) -> bool:
    """Whether a process listens on this socket; one that was killed leaves it behind."""
    return path.is_socket() and _probe(path) == 0


def runtime_folder() -> Path:
    """The folder of this user's run-time files; it need not exist."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and Path(base).is_dir():
        return Path(base) / "isthmus"
    return Path(f"/tmp/isthmus-{os.getuid()}")  # noqa: S108 - `_ours` looks at it


def own_entry(configuration: Path | None) -> Path:
    """Where the entry of this process belongs; its folder is made.

    Raises:
        OSError: the folder cannot be made, or is not ours alone.
    """
    folder = runtime_folder()
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _ours(folder):
        raise PermissionError(errno.EPERM, f"{folder} is not a folder of this user alone")
    return folder / f"{os.getpid()}-{_sum(configuration)}"


def clear(folder: Path) -> None:
    """Remove the entries of processes that were killed, for a process that has none yet.

    One whose process lives stays, whether it listens or not: it may be about to. One whose number
    is unknown here may be that of another container, so it stays if somebody listens.
    """
    for entry, number in _entries(folder):
        gone = number == os.getpid() or not _lives(number)
        if gone and _probe(entry) in (errno.ECONNREFUSED, errno.ENOENT):
            with suppress(OSError):
                entry.unlink()


def _ours(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    mode = status.st_mode
    return stat.S_ISDIR(mode) and status.st_uid == os.getuid() and not mode & 0o077


def _entries(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield every entry with the number of its process."""
    if not _ours(folder):
        return
    for entry in list(folder.iterdir()):
        number = entry.name.partition("-")[0]
        if number.isascii() and number.isdecimal():
            yield entry, int(number)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it is another user's
    return True


def _probe(entry: Path) -> int:
    """Try to connect, without waiting; 0 if somebody listens, else the error."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            result = probe.connect_ex(os.fspath(entry))
        except OSError as error:  # the path is too long
            return error.errno or errno.EINVAL
    return 0 if result == errno.EAGAIN else result  # its backlog is full


def _sum(configuration: Path | None) -> str:
    path = b"" if configuration is None else os.fsencode(configuration.resolve())
    return f"{zlib.crc32(path):08x}"
