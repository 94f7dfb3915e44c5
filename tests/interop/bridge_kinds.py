"""The same bridge in three ways: a connector, Mosquitto's own, and `isthmus run mosquitto.conf`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from bridge_lines import Line

from mosquitto import Mosquitto, free_port, listens
from proxy import Proxy
from raw import OPEN, until
from running import QUICK, Isthmus

VERSIONS = {"3.1": "mqttv31", "3.1.1": "mqttv311", "5": "mqttv50"}
KINDS = ["connector", "mosquitto", "file"]
"""Who has the bridge: Isthmus from its own configuration, Mosquitto, Isthmus from Mosquitto's."""


def connection(port: int, version: str, lines: Iterable[Line], *more: str) -> list[str]:
    """The lines of `mosquitto.conf` for a bridge to `port`."""
    return [
        "connection cloud",
        f"address 127.0.0.1:{port}",
        f"bridge_protocol_version {VERSIONS[version]}",
        "restart_timeout 1",
        *more,
        *map(str, lines),
    ]


def configuration(port: int, version: str, lines: Iterable[Line], **connector: Any) -> Any:
    """The configuration of Isthmus for the same bridge."""
    url = f"127.0.0.1:{port}"
    # Without a client id of its own it keeps no session at the far side.
    how = {"url": url, "client_id": "edge", "version": version, "reconnect": QUICK, **connector}
    return {
        "node": "edge",
        "connectors": {"cloud": how},
        "routes": {f"line-{number}": line.route("cloud") for number, line in enumerate(lines)},
    }


class Process:
    """`isthmus run` with a `mosquitto.conf`, as users start it."""

    def __init__(self, folder: Path, lines: Iterable[str]) -> None:
        self.port = free_port()
        self.path = folder / f"isthmus-{self.port}.conf"
        self.log = self.path.with_suffix(".log")
        text = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", *lines]
        self.path.write_text("\n".join(text) + "\n")
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "isthmus", "run", self.path, stdout=log, stderr=log
            )
        self._process = process
        await until(lambda: process.returncode is not None or listens(self.port), 20)
        assert process.returncode is None, self.log.read_text()

    async def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            async with asyncio.timeout(10):
                await self._process.wait()
            self._process = None


class Bridge:
    """A bridge between two brokers with a network between them that can be cut."""

    def __init__(self, near_port: int, far_port: int, network: Proxy) -> None:
        self.near_port = near_port
        self.far_port = far_port
        self.network = network


@contextlib.asynccontextmanager
async def bridged(
    kind: str,
    version: str,
    lines: Iterable[Line],
    folder: Path,
    *,
    connector: dict[str, Any] | None = None,
    options: Iterable[str] = (),
    connected: bool = False,
) -> AsyncIterator[Bridge]:
    """Both brokers with the bridge between them.

    There is no network before `network.start`, unless `connected`: Mosquitto waits for 6 s when its
    first try fails. `connector` are more settings of the connector, `options` more lines of the
    `connection`.
    """
    lines = tuple(lines)
    async with contextlib.AsyncExitStack() as stack:
        network = Proxy(0)
        network.port = free_port()
        stack.push_async_callback(network.stop)
        if kind == "mosquitto":
            far = await Isthmus.start({"node": "cloud"})
            stack.push_async_callback(far.app.close)
        else:
            far = await mosquitto(stack, folder)
        network.target = far.port
        if connected:
            await network.start()
        written = connection(network.port, version, lines, *options)
        if kind == "mosquitto":
            near: Any = await mosquitto(stack, folder, *written)
        elif kind == "file":
            near = Process(folder, written)
            stack.push_async_callback(near.stop)
            await near.start()
        else:
            near = await Isthmus.start(
                configuration(network.port, version, lines, **(connector or {}))
            )
            stack.push_async_callback(near.app.close)
        stack.callback(hang_up)
        yield Bridge(near.port, far.port, network)


def hang_up() -> None:
    """Close what clients of the test have left open."""
    for raw in OPEN:
        raw.writer.transport.abort()
    OPEN.clear()


async def mosquitto(stack: contextlib.AsyncExitStack, folder: Path, *lines: str) -> Mosquitto:
    """A Mosquitto that ends with `stack`."""
    found = Mosquitto(folder, *lines)
    stack.callback(found.kill)
    await found.start()
    return found
