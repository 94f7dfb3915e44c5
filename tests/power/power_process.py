"""`isthmus run` under strace, as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import power_trace
from power_trace import Call

from mosquitto import free_port, listens
from raw import until

START = Path(__file__).with_name("power_start.py")

RECONNECT = {"min": "20ms", "max": "100ms"}


def settings(
    data: Path, port: int, far_ports: dict[str, int], *, up_port: int = 0, **connector: Any
) -> dict[str, Any]:
    """A broker on `port` that sends everything below `NAME/` to the connector of that name.

    With `up_port` it takes what is below `in/` from a broker there.
    """
    common = {"reconnect": RECONNECT, "max_inflight": 20, **connector}
    found: dict[str, Any] = {
        "node": "edge",
        "listeners": [{"bind": f"127.0.0.1:{port}"}],
        "http": None,
        "broker": {"data": str(data)},
        "connectors": {
            name: {"url": f"127.0.0.1:{far}", **common} for name, far in far_ports.items()
        },
        "routes": {
            name: {"from": "local", "topics": [f"{name}/#"], "to": name} for name in far_ports
        },
    }
    if up_port:
        found["connectors"]["upstream"] = {"url": f"127.0.0.1:{up_port}", **common}
        found["routes"]["upstream"] = {"from": "upstream", "topics": ["in/#"], "to": "local"}
    return found


class IsthmusProcess:
    """An Isthmus with its data in `data`, by default a folder of that name in `folder`.

    `traced`: its calls are noted. `pragmas` are put behind those of the store.
    """

    def __init__(
        self,
        folder: Path,
        far_ports: dict[str, int],
        *,
        name: str = "isthmus",
        data: Path | None = None,
        traced: bool = False,
        pragmas: tuple[str, ...] = (),
        **connector: Any,
    ) -> None:
        self.data = data or folder / "data"
        self.port = free_port()
        self._trace = folder / f"{name}.trace" if traced else None
        self._log = folder / f"{name}.log"
        self._pragmas = pragmas
        self._file = folder / f"{name}.json"
        self._file.write_text(json.dumps(settings(self.data, self.port, far_ports, **connector)))
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        program = [sys.executable, str(START), *self._pragmas, "--", "run", str(self._file)]
        if self._trace is not None:
            program = [*power_trace.COMMAND, "-o", str(self._trace), *program]
        with self._log.open("ab") as log:
            process = self._process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                program, stdout=log, stderr=log
            )
        await until(lambda: listens(self.port) or process.poll() is not None, 30)
        assert process.poll() is None, self._log.read_text()[-2000:]

    async def end(self, how: int = signal.SIGTERM) -> None:
        """End it by a signal, and wait until the trace is whole."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            os.kill(process.pid, how)
        await asyncio.to_thread(process.wait, 20)
        trace = self._trace
        if trace is not None:
            await until(lambda: power_trace.ended(trace, process.pid), 20)

    def calls(self, first: int = 0) -> list[Call]:
        """What it did; see `power_trace.calls`."""
        assert self._trace is not None
        return power_trace.read(self._trace, first)
