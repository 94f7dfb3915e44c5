"""What a running process can be asked over its control socket: the name of each request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isthmus.app.asking import WRONG

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Requests:
    """Gives each request to who answers it, by its `request`."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a request; its `status` is WRONG where nobody knows it."""
        name = request.get("request")
        handler = self._handlers.get(name) if isinstance(name, str) else None
        if handler is None:
            known = ", ".join(f"'{known}'" for known in self._handlers)
            text = f"this process knows no such request; it knows {known}"
            return {"status": WRONG, "errors": [text]}
        return await handler(request)
