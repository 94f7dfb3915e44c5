"""Fixtures for everything that runs Isthmus against real peers and bad networks."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
import pytest_asyncio
import trustme
import uvloop

from isthmus.log import CLIENT_FAULTS, CLIENTS
from mosquitto import Mosquitto
from proxy import Proxy
from raw import OPEN, FarSide
from run_again import pytest_terminal_summary as pytest_terminal_summary
from running import Isthmus

ON_UVLOOP = {
    "broker", "connectors", "routing", "app", "web", "examples", "conformance", "interop"
}  # fmt: skip
"""Folders whose tests run on uvloop, as the product does; `both_loops` adds asyncio."""


# The processes that tests start are as installed ones: they keep what Python made of a module. To
# make it again takes each of them longer than most tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure(config: pytest.Config) -> None:
    # Machines that run tests stand still at times.
    hypothesis.settings.register_profile(
        "isthmus", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("isthmus")
    config.addinivalue_line("markers", "both_loops: run on uvloop and on asyncio's own loop")
    config.addinivalue_line("markers", "alone: measures time or memory, or wants a fixed port")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    del config
    factories = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    if item.get_closest_marker("both_loops"):
        return factories
    name = "uvloop" if item.path.parent.name in ON_UVLOOP else "asyncio"
    return {name: factories[name]}


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """Put back what a command that ran in this process made of the log."""
    logger = logging.getLogger("isthmus")
    about_clients = [logging.getLogger(name) for name in (CLIENTS, CLIENT_FAULTS)]
    level, handlers = logger.level, logger.handlers[:]
    yield
    logger.setLevel(level)
    for one in about_clients:
        one.setLevel(logging.NOTSET)
    logger.handlers[:] = handlers


@pytest.fixture(autouse=True)
def forgotten_connections() -> None:
    """Forget what an earlier test has left open: its loop is closed."""
    OPEN.clear()


@pytest_asyncio.fixture
async def isthmus() -> AsyncIterator[Callable[..., Awaitable[Isthmus]]]:
    """Start applications; they are closed when the test is over."""
    running: list[Isthmus] = []

    async def start(configuration: Any = None) -> Isthmus:
        found = await Isthmus.start(configuration if configuration is not None else {})
        running.append(found)
        return found

    yield start
    for raw in OPEN:
        raw.writer.transport.abort()
    OPEN.clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("isthmus.app.app.GOODBYE_S", 0)  # nobody reads it any more
        await asyncio.gather(*(found.app.close() for found in running))


@pytest_asyncio.fixture
async def mosquitto(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Mosquitto]]]:
    """Start Mosquittos with lines of configuration."""
    running: list[Mosquitto] = []

    async def start(*lines: str) -> Mosquitto:
        found = Mosquitto(tmp_path, *lines)
        running.append(found)
        await found.start()
        return found

    yield start
    for found in running:
        found.kill()


@pytest_asyncio.fixture
async def far() -> AsyncIterator[FarSide]:
    """A far broker that is played by the test."""
    side = FarSide()
    await side.start()
    yield side
    await side.stop()


@pytest_asyncio.fixture
async def proxy() -> AsyncIterator[Callable[[int], Awaitable[Proxy]]]:
    """Put a bad network in front of a port."""
    running: list[Proxy] = []

    async def start(port: int) -> Proxy:
        found = Proxy(port)
        running.append(found)
        await found.start()
        return found

    yield start
    for found in running:
        await found.stop()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """An authority, a server of 127.0.0.1 and localhost, a client, and wrong ones of each."""
    folder = tmp_path_factory.mktemp("certificates")
    authority, stranger = trustme.CA(), trustme.CA()

    def issue(by: trustme.CA, name: str, *names: str, **how: Any) -> Path:
        certificate = by.issue_cert(*names, **how)
        path = folder / name
        certificate.private_key_and_cert_chain_pem.write_to_path(str(path))
        return path

    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    stranger.cert_pem.write_to_path(str(folder / "stranger-ca.pem"))
    return SimpleNamespace(
        ca=folder / "ca.pem",
        stranger_ca=folder / "stranger-ca.pem",
        server=issue(authority, "server.pem", "localhost", "127.0.0.1"),
        elsewhere=issue(authority, "elsewhere.pem", "elsewhere.test"),
        client=issue(authority, "client.pem", "edge-7", common_name="edge-7"),
        stranger=issue(stranger, "stranger.pem", "edge-8", common_name="edge-8"),
    )
