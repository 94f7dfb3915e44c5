"""A bad network between two ends: a TCP proxy that cuts, resets, delays, swallows and counts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct


class Proxy:
    """Relays connections to `port` on loopback.

    `delay_s` holds every chunk back, each way. `silent` swallows what comes, both ways, as a
    firewall that forgot the connection. `limit` is the number of bytes towards the far end after
    which each connection is reset. `refusing` closes new connections at once.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.delay_s = 0.0
        self.silent = False
        self.refusing = False
        self.limit: int | None = None
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
        for source, sink, limited in ((reader, far_writer, True), (far_reader, writer, False)):
            task = asyncio.get_running_loop().create_task(self._relay(source, sink, limited))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _relay(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, limited: bool
    ) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.silent:
                    continue
                if limited and self.limit is not None and passed + len(data) > self.limit:
                    sink.write(data[: self.limit - passed])
                    await sink.drain()
                    self.reset()
                    return
                passed += len(data)
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
