"""The same tests against Isthmus and against Mosquitto."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from conformance_broker import Broker

from mosquitto import Mosquitto, free_port, listens
from raw import OPEN, until


@pytest.fixture(scope="session")
def shared_mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One Mosquitto for all tests that ask for `lasting`."""
    found = Mosquitto(tmp_path_factory.mktemp("shared"))
    asyncio.run(found.start())
    yield Broker("mosquitto", found.port)
    found.kill()


@pytest.fixture(scope="session")
def shared_isthmus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One `isthmus run` in a process of its own for all tests that ask for `lasting`."""
    folder = tmp_path_factory.mktemp("shared")
    port = free_port()
    configuration = folder / "isthmus.yaml"
    configuration.write_text(f"listeners: [{{bind: '127.0.0.1:{port}'}}]\nhttp: null\n")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "isthmus", "run", str(configuration)], stdout=log, stderr=log
        )
    try:
        asyncio.run(until(lambda: listens(port) or process.poll() is not None))
        assert process.poll() is None, (folder / "log").read_text()
        yield Broker("isthmus", port)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(params=["isthmus", "mosquitto"])
def broker(
    request: pytest.FixtureRequest, isthmus: Any, mosquitto: Any
) -> Callable[..., Awaitable[Broker]]:
    """Start the broker that the parameter names, with what it alone needs as configuration."""

    async def start(ours: dict[str, Any] | None = None, theirs: tuple[str, ...] = ()) -> Broker:
        if request.param == "isthmus":
            return Broker("isthmus", (await isthmus(ours or {})).port)
        return Broker("mosquitto", (await mosquitto(*theirs)).port)

    return start


@pytest.fixture(params=["isthmus", "mosquitto"])
def lasting_broker(request: pytest.FixtureRequest) -> Broker:
    """Both brokers that are started once for all, one after the other."""
    found: Broker = request.getfixturevalue(f"shared_{request.param}")
    return found


@pytest_asyncio.fixture
async def lasting(lasting_broker: Broker) -> AsyncIterator[Broker]:
    """Like `broker`, for tests that leave nothing behind."""
    OPEN.clear()
    yield lasting_broker
    for raw in OPEN:
        raw.writer.transport.abort()
    OPEN.clear()


@pytest.fixture(params=[4, 5])
def version(request: pytest.FixtureRequest) -> int:
    """MQTT 3.1.1 and MQTT 5.0, as their protocol levels."""
    found: int = request.param
    return found
