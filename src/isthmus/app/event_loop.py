"""Which event loop a process runs on."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


def run_in_loop(main: Coroutine[Any, Any, T], *, loop: str = "auto") -> T:
    """Run `main` to its end on uvloop where it exists, else on asyncio, and return its result.

    `loop` is "auto", "uvloop" or "asyncio".
    """
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if loop != "asyncio":
        try:
            import uvloop
        except ImportError:
            if loop == "uvloop":
                raise
        else:
            factory = uvloop.new_event_loop
    if factory is None and sys.platform == "win32":
        # The default loop of Windows cannot watch sockets.
        factory = asyncio.SelectorEventLoop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
