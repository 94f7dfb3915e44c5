"""Peers of one test."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest_asyncio
from bridge_kinds import hang_up


@pytest_asyncio.fixture
async def peers() -> AsyncIterator[contextlib.AsyncExitStack]:
    """What is entered here ends with the test."""
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(hang_up)
        yield stack
