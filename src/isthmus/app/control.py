"""The control socket: how a command finds a running process, and asks it something.

A process listens on a unix socket that only its own user, and root, may use. A request is one line
of JSON, `{"request": "reload"}`, and so is the answer. What can be asked is the process's matter.

The socket is `control` in the data folder. Where there is none, or its path is too long for a
socket, it stands in the folder of run-time files: `$XDG_RUNTIME_DIR/isthmus`, else
`/tmp/isthmus-UID`. There every process has an entry, a link if need be, whose name holds its number
and a sum over the path of its configuration; so it is found by either, also while its file is
broken.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import socket
import stat
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.errors import ConfigError, IsthmusError
from isthmus.net.settings import MAX_UNIX_PATH_BYTES
from isthmus.net.unix_socket import UnixSocket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

log = logging.getLogger("isthmus.app")

NAME = "control"
"""The name of the socket in a data folder."""

MODE = 0o600
MAX_LINE_BYTES = 1 << 16
REQUEST_TIMEOUT_S = 5.0
"""For the line of a request to arrive."""

ANSWER_TIMEOUT_S = 60.0
"""For the answer: removed connectors may drain one after the other where reloads pile up."""

BACKLOG = 16


class ControlError(IsthmusError):
    """No process was found, or it does not answer."""


class Control:
    """The listening side."""

    def __init__(self, answer: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
        """`answer` is given each request; whatever it raises is answered as an internal error."""
        self._answer = answer
        self._socket: UnixSocket | None = None
        self._server: asyncio.Server | None = None
        self._entry: Path | None = None

    async def open(self, data: Path | None, configuration: Path | None) -> None:
        """Listen; where that cannot be done it is logged, and the process goes on without."""
        if not hasattr(socket, "AF_UNIX"):
            return
        try:
            await self._open(data, configuration)
        except (OSError, ConfigError) as error:
            log.warning("no control socket, 'isthmus reload' will not find this process: %s", error)
            await self.close()

    async def _open(self, data: Path | None, configuration: Path | None) -> None:
        folder = runtime_folder()
        _make(folder)
        entry = folder / f"{os.getpid()}-{_sum(configuration)}"
        path = entry if data is None else (data / NAME).absolute()
        if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
            path = entry
        list(_alive(folder))  # what processes left behind that were killed
        self._socket = UnixSocket(str(path), MODE)
        self._socket.sock.listen(BACKLOG)
        self._server = await asyncio.start_unix_server(
            self._serve, sock=self._socket.sock, limit=MAX_LINE_BYTES
        )
        if path != entry:
            entry.unlink(missing_ok=True)
            entry.symlink_to(path)
        self._entry = entry

    async def close(self) -> None:
        """Stop listening, and remove the socket."""
        if self._socket is not None:
            self._socket.remove()
        if self._entry is not None:
            self._entry.unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()
        elif self._socket is not None:
            self._socket.sock.close()
        self._socket = self._server = self._entry = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                line = await reader.readline()
            writer.write(json.dumps(await self._answer_to(line)).encode() + b"\n")
            await writer.drain()
        except (TimeoutError, ValueError, OSError) as error:
            log.debug("control: a request was not answered: %s", error)
        finally:
            writer.close()

    async def _answer_to(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            return {"status": 2, "errors": ["the request is no JSON object on one line"]}
        try:
            return await self._answer(request)
        except Exception as error:
            log.exception("control: a request failed")
            return {"status": 1, "errors": [f"internal error: {error}; see the log"]}


def ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request to the process whose socket this is, and return its answer.

    Raises:
        ControlError: it does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(ANSWER_TIMEOUT_S)
        try:
            sock.connect(os.fspath(path))
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as lines:
                answer = json.loads(lines.readline())
        except TimeoutError:
            raise ControlError(f"no answer within {ANSWER_TIMEOUT_S:g} s") from None
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
    for entry in _alive(runtime_folder()):
        number, _, checksum = entry.name.partition("-")
        if pid is not None and number != str(pid):
            continue
        if configuration is None or checksum == _sum(configuration):
            found.append(entry)
    return sorted(found)


def runtime_folder() -> Path:
    """The folder of this user's run-time files; it need not exist."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and Path(base).is_dir():
        return Path(base) / "isthmus"
    return Path(f"/tmp/isthmus-{os.getuid()}")  # noqa: S108 - `_ours` looks at it


def _make(folder: Path) -> None:
    """Make the folder; refuse one that somebody else has put there.

    Raises:
        OSError: it cannot be made, or is not ours alone.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _ours(folder):
        raise PermissionError(errno.EPERM, f"{folder} is not a folder of this user alone")


def _ours(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    mode = status.st_mode
    return stat.S_ISDIR(mode) and status.st_uid == os.getuid() and not mode & 0o077


def _alive(folder: Path) -> Iterator[Path]:
    """Yield the entries whose process listens; remove those of processes that are gone."""
    if not _ours(folder):
        return
    for entry in list(folder.iterdir()):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            result = probe.connect_ex(os.fspath(entry))
        if result == 0:
            yield entry
        elif result in (errno.ECONNREFUSED, errno.ENOENT):
            with suppress(OSError):
                entry.unlink()


def _sum(configuration: Path | None) -> str:
    path = b"" if configuration is None else os.fsencode(configuration.resolve())
    return f"{zlib.crc32(path):08x}"
