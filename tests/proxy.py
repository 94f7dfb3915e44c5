"""A bad network between two ends: a TCP proxy that cuts, resets, delays, swallows and counts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

PIECE_BYTES = 512
"""A slow connection brings so much at a time."""


class Proxy:
    """Relays connections to `port` on loopback.

    `delay_s` holds every chunk back, each way. `rate` is how many bytes pass in a second, each way;
    None is as many as come. `silent` swallows what comes, both ways, as a firewall that forgot the
    connection; `mute` swallows only what the far end answers. `limit` is the number of bytes
    towards the far end after which each connection is reset. After `answer_limit` further bytes
    from the far end, of whichever connection, all are reset, once. `refusing` closes new
    connections at once. `watch` is asked at each connection for who is given all that comes from
    the near end, whatever becomes of it then.
    """

    def __init__(
        self, target: int, watch: Callable[[], Callable[[bytes], None]] | None = None
    ) -> None:
        self.target = target
        self.watch = watch
        self.port = 0
        self.delay_s = 0.0
        self.silent = False
        self.mute = False
        self.refusing = False
        self.rate: float | None = None
        self.limit: int | None = None
        self.answer_limit: int | None = None
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            writer.close()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers += [writer, far_writer]
        saw = self.watch() if self.watch is not None else None
        for source, sink, outward in ((reader, far_writer, True), (far_reader, writer, False)):
            task = asyncio.get_running_loop().create_task(
                self._relay(source, sink, saw if outward else None, outward=outward)
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _relay(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        saw: Callable[[bytes], None] | None,
        *,
        outward: bool,
    ) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                if saw is not None:
                    saw(data)
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.silent or (self.mute and not outward):
                    continue
                if not outward and self.answer_limit is not None:
                    data = data[: self.answer_limit]
                    self.answer_limit -= len(data)
                    if not self.answer_limit:
                        self.answer_limit = None
                        sink.write(data)
                        await sink.drain()
                        self.reset()
                        return
                if outward and self.limit is not None and passed + len(data) > self.limit:
                    sink.write(data[: self.limit - passed])
                    await sink.drain()
                    self.reset()
                    return
                passed += len(data)
                while self.rate is not None and data:
                    await asyncio.sleep(PIECE_BYTES / self.rate)
                    sink.write(data[:PIECE_BYTES])
                    data = data[PIECE_BYTES:]
                sink.write(data)
                await sink.drain()
        sink.close()

    def cut(self) -> None:
        """Close every connection in good order."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    def reset(self) -> None:
        """End every connection with RST, both ways."""
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._writers.clear()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
