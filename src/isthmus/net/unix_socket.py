"""Listening on a unix socket: its file, the rights on it, and what an earlier process left."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from isthmus.errors import ListenError
from isthmus.net.link import describe


class UnixSocket:
    """A bound socket that is not listening yet, and its file."""

    def __init__(self, path: str, mode: int) -> None:
        """Make the file with these rights; one of a process that is gone is replaced.

        Raises:
            ListenError: the path cannot be used, or another process listens there.
        """
        self.path = Path(path)
        self._clear()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.setblocking(False)
            self.sock.bind(path)
            # Nobody gets in before `listen`, so there is no moment with other rights.
            self.path.chmod(mode)
            self._file = self._identity()
        except OSError as error:
            self.sock.close()
            hint = "; is the folder there?" if error.errno == errno.ENOENT else ""
            raise ListenError(f"bind: unix:{path}: {describe(error)}{hint}") from error

    def remove(self) -> None:
        """Remove the file, unless it is another process's by now."""
        with suppress(OSError):
            if self._identity() == self._file:
                self.path.unlink()

    def _identity(self) -> tuple[int, int]:
        status = self.path.lstat()
        return status.st_dev, status.st_ino

    def _clear(self) -> None:
        """Remove the socket file of a process that did not end in good order."""
        try:
            mode = self.path.lstat().st_mode
        except OSError:
            return  # there is none, or `bind` will say why it cannot be seen
        if not stat.S_ISSOCK(mode):
            raise ListenError(f"bind: unix:{self.path}: there is a file that is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            refused = probe.connect_ex(os.fspath(self.path)) == errno.ECONNREFUSED
        if not refused:
            raise ListenError(
                f"bind: unix:{self.path}: Address already in use; is another broker running there?"
            )
        with suppress(OSError):
            self.path.unlink()
