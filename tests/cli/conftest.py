from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest_asyncio
from commands import Command

Start = Callable[..., Awaitable[Command]]


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    """Start commands that run until the test is over."""
    running: list[Command] = []

    async def start_one(*arguments: object, **how: object) -> Command:
        command = await Command.start(*arguments, **how)  # type: ignore[arg-type]
        running.append(command)
        return command

    yield start_one
    for command in running:
        await command.kill()


@pytest_asyncio.fixture
async def listening(start: Start) -> Callable[..., Awaitable[Command]]:
    """Start `isthmus sub` and wait until it is subscribed."""

    async def start_one(port: int, *arguments: object, **how: object) -> Command:
        command = await start("sub", "-d", "-p", str(port), *arguments, **how)
        await command.said("subscribed to")
        return command

    return start_one
