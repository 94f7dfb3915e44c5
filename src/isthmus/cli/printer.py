"""Writing messages to standard output, and knowing when it is enough."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from isthmus.cli.far_side import FAILED, complain
from isthmus.cli.layout import NotJSON

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.cli.client import Received
    from isthmus.cli.layout import Layout


class Printer:
    """Prints what it is given. `done` becomes the exit status when there is no more to print."""

    def __init__(
        self,
        layout: Layout,
        end: bytes,
        count: int | None,
        wanted: Callable[[Received], bool] = lambda message: True,
        last: Callable[[Received], bool] = lambda message: False,
    ) -> None:
        """`wanted` says which messages are printed; from one that is `last` on, none is."""
        self.printed = 0
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._layout = layout
        self._end = end
        self._count = count
        self._wanted = wanted
        self._last = last

    def deliver(self, messages: list[Received]) -> int:
        """Print messages and flush: who reads may be waiting for just these.

        Returns how many were taken, from the first; what was not printed is not acknowledged.
        """
        if self.done.done():
            return 0
        parts: list[bytes] = []
        taken = 0
        enough = False
        for message in messages:
            if self._last(message):
                enough = True
                break
            taken += 1
            if not self._wanted(message):
                continue
            try:
                parts.append(self._layout(message) + self._end)
            except NotJSON as error:
                complain(str(error))
                continue
            self.printed += 1
            if self.printed == self._count:
                enough = True
                break
        if parts and not self._write(b"".join(parts)):
            return 0
        if enough:
            self.done.set_result(0)
        return taken

    def _write(self, data: bytes) -> bool:
        out = sys.stdout.buffer
        try:
            out.write(data)
            out.flush()
        except OSError as error:
            # Whoever read is gone, as `head` after its last line. Nothing may be written at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(error, BrokenPipeError):
                complain(f"cannot write: {error.strerror}")
            self.done.set_result(FAILED)
            return False
        return True
