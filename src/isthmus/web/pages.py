"""The pages as an ASGI application.

Every page is made at once from what is in memory, and answers GET and HEAD. What goes wrong is in
the log, never in an answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from email.utils import formatdate
from typing import Any, NamedTuple

from isthmus import clock
from isthmus.web.counts import Counts
from isthmus.web.process import Process
from isthmus.web.prometheus import Metrics
from isthmus.web.readiness import readiness

log = logging.getLogger("isthmus.web")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TEXT = b"text/plain; charset=utf-8"
JSON = b"application/json"
PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"
"""The text format, which every version of Prometheus reads."""

METHODS = ("GET", "HEAD")


class Answer(NamedTuple):
    """What is sent; after an error the connection is closed."""

    status: int
    kind: bytes
    body: bytes
    more: tuple[tuple[bytes, bytes], ...] = ()


class Pages:
    """`/metrics`, `/healthz` and `/readyz` of `process`; `counts` are of the port itself."""

    def __init__(self, process: Process, counts: Counts) -> None:
        self._process = process
        self._counts = counts
        self._metrics = Metrics(process, counts)
        self._pages: dict[str, Callable[[], Awaitable[Answer]]] = {
            "/metrics": self._metrics_page,
            "/healthz": self._health_page,
            "/readyz": self._readiness_page,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        del receive  # no page wants a body
        try:
            answer = await self._answer(scope["path"], scope["method"])
        except Exception:
            log.exception("%s: the page could not be made", scope["path"])
            answer = Answer(500, TEXT, b"internal error; the log of Isthmus has more\n")
        self._counts.answers[answer.status] = self._counts.answers.get(answer.status, 0) + 1
        headers = [
            (b"date", formatdate(clock.wall(), usegmt=True).encode()),
            (b"content-type", answer.kind),
            (b"content-length", str(len(answer.body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            *answer.more,
        ]
        if scope["method"] not in METHODS or _has_body(scope["headers"]):
            headers.append((b"connection", b"close"))  # a body that is not read is in the way
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, path: str, method: str) -> Answer:
        page = self._pages.get(path)
        if page is None:
            names = ", ".join(self._pages)
            return Answer(404, TEXT, f"there is no such page; there are {names}\n".encode())
        if method not in METHODS:
            allowed = ", ".join(METHODS)
            text = f"this page knows only {allowed}\n".encode()
            return Answer(405, TEXT, text, ((b"allow", allowed.encode()),))
        return await page()

    async def _metrics_page(self) -> Answer:
        began = clock.monotonic()
        await asyncio.sleep(0)  # to the back of what the loop has to do
        return Answer(200, PROMETHEUS, self._metrics.text(clock.monotonic() - began))

    async def _health_page(self) -> Answer:
        return Answer(200, TEXT, b"ok\n")

    async def _readiness_page(self) -> Answer:
        found = readiness(self._process)
        body = json.dumps(found, indent=1).encode() + b"\n"
        return Answer(200 if found["ready"] else 503, JSON, body)


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in headers
    )
