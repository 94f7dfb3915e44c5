"""The lines of standard input, as they come.

A pipe may stay silent for hours, and a file cannot be watched by an event loop, so a thread reads.
It is a daemon that reads the bare descriptor: a command that is stopped need not wait for the next
line, and the interpreter finds no lock held when it ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import TYPE_CHECKING

from isthmus.cli.far_side import CommandError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_PAYLOAD_BYTES = 268_435_455
"""The largest remaining length of a packet; a payload has to be a little smaller."""

READ_BYTES = 65_536

READS_AHEAD = 4
"""Reads that wait to be published; the pipe holds back whoever writes faster."""


async def stdin_lines() -> AsyncIterator[list[tuple[int, bytes]]]:
    """The lines of standard input that are not empty, with their numbers, in batches.

    Raises:
        CommandError: it cannot be read, or a line is too large.
    """
    number = 0
    chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue(READS_AHEAD)
    loop = asyncio.get_running_loop()
    threading.Thread(target=_pump, args=(loop, chunks), daemon=True, name="stdin").start()
    rest: list[bytes] = []
    size = 0
    while chunk := await chunks.get():
        if isinstance(chunk, OSError):
            raise CommandError(f"cannot read standard input: {chunk.strerror}")
        if b"\n" not in chunk:
            rest.append(chunk)
            size += len(chunk)
            if size > MAX_PAYLOAD_BYTES:
                raise CommandError("a line is too large for MQTT (256 MiB)")
            continue
        *lines, last = (b"".join(rest) + chunk).split(b"\n")
        rest, size = [last], len(last)
        yield [(at, line) for at, line in enumerate(lines, number + 1) if line]
        number += len(lines)
    if last := b"".join(rest):
        yield [(number + 1, last)]


def _pump(loop: asyncio.AbstractEventLoop, chunks: asyncio.Queue[bytes | OSError]) -> None:
    descriptor = sys.stdin.fileno()
    try:
        while True:
            data: bytes | OSError
            try:
                data = os.read(descriptor, READ_BYTES)
            except OSError as error:
                data = error
            asyncio.run_coroutine_threadsafe(chunks.put(data), loop).result()
            if not data or isinstance(data, OSError):
                return
    except (RuntimeError, asyncio.CancelledError):
        return  # the loop has ended: nobody wants the rest
