"""HTTP clients: urllib as a user's program, and a bare socket for what no program sends."""

from __future__ import annotations

import asyncio
import ssl
import urllib.error
import urllib.request
from email.message import Message
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

PATIENCE_S = 10.0

HTTP = {"bind": "127.0.0.1:0"}


class Page(NamedTuple):
    status: int
    headers: Message
    body: bytes


async def get(
    url: str, method: str = "GET", data: bytes | None = None, tls: ssl.SSLContext | None = None
) -> Page:
    """Ask for a page, from a thread of its own."""

    def ask() -> Page:
        request = urllib.request.Request(url, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S, context=tls) as answer:
                return Page(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Page(error.code, error.headers, error.read())

    return await asyncio.to_thread(ask)


Samples = dict[tuple[str, ...], float]


def samples(body: bytes) -> Samples:
    """Name and label values of every sample, in order of the labels' names."""
    found: Samples = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            key = (sample.name, *labels)
            assert key not in found
            found[key] = sample.value
    return found


async def metrics(near: Any) -> Samples:
    page = await get(f"{near.url}/metrics")
    assert page.status == 200
    return samples(page.body)


class Wire:
    """A connection on which anything can be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, near: Any, **how: Any) -> Wire:
        host, port = near.app.http.address
        return cls(*await asyncio.open_connection(host, port, **how))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            size = next(
                int(line.partition(b":")[2])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            )
            return int(head.split(b" ", 2)[1]), await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        """What comes until the other side closes."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self.reader.read()
        except ConnectionError:
            return b""

    def close(self) -> None:
        self.writer.transport.abort()
