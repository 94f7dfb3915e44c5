"""What the crash test does to a connection is what it says."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from proxy import Proxy
from raw import until


@contextlib.asynccontextmanager
async def echo(**how):
    """A connection through a proxy to a server that sends everything back."""

    async def serve(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                heard.append(data)
        writer.close()

    heard: list[bytes] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy = Proxy(server.sockets[0].getsockname()[1])
    for name, value in how.items():
        setattr(proxy, name, value)
    await proxy.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        yield proxy, reader, writer, heard
        writer.close()
    finally:
        await proxy.stop()
        server.close()


async def test_mute_lets_through_what_is_sent_and_swallows_the_answer():
    async with echo(mute=True) as (proxy, reader, writer, heard):
        writer.write(b"first")
        await until(lambda: b"".join(heard) == b"first")
        await asyncio.sleep(0.05)  # for the answer to be swallowed
        proxy.mute = False
        writer.write(b"second")
        assert await reader.readexactly(6) == b"second"


async def test_answers_end_in_their_middle_once():
    async with echo() as (proxy, reader, writer, _):
        writer.write(b"whole")
        assert await reader.readexactly(5) == b"whole"
        proxy.answer_limit = 3
        writer.write(b"broken")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(6)
        assert proxy.answer_limit is None
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"whole")
        assert await reader.readexactly(5) == b"whole"


async def test_a_rate_holds_back_until_it_is_lifted():
    async with echo(rate=20_480.0) as (proxy, reader, writer, _):
        began = time.monotonic()
        writer.write(b"x" * 5120)
        await reader.readexactly(5120)
        assert time.monotonic() - began > 0.25  # there; the way back is at the same time
        proxy.rate = None
        began = time.monotonic()
        writer.write(b"x" * 50_000)
        await reader.readexactly(50_000)
        assert time.monotonic() - began < 1
