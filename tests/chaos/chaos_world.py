"""The world of the crash test: two brokers that forward, a real Mosquitto, and bad networks.

publisher -> proxy -> A -> proxy -> B -> proxy -> Mosquitto -> subscriber

A and B are Isthmus, or for comparison Mosquitto with a bridge. They are killed with SIGKILL and
started again; the last Mosquitto is never killed, as it is the judge.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chaos_trace import Trace

from mosquitto import Mosquitto, free_port, listens, program
from proxy import Proxy
from raw import until

NAMES = ("a", "b")
"""The hops of a random course."""

OVERTAKING = "isthmus-overtaking"
"""The system that does not keep the order after an outage."""


class Hop(ABC):
    """A broker that forwards everything below `chaos/` to `target`, and can be killed.

    At most `window` messages are on their way to the target, None: as many as the broker takes by
    itself. `began` is when it was last started, in monotonic seconds.
    """

    def __init__(
        self, folder: Path, name: str, target: int, *, qos: int, v5: bool, window: int | None
    ) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.name = name
        self.port = free_port()
        self.target = target
        self.qos = qos
        self.v5 = v5
        self.window = window
        self.kills = 0
        self.began = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The program with its configuration, written for this start."""

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        self.began = time.monotonic()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                self.command(), stdout=log, stderr=log, cwd=self.folder
            )
        process = self.process
        await until(lambda: listens(self.port) or process.poll() is not None, 20)
        assert process.poll() is None, (self.folder / "log").read_text()[-2000:]

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.kills += 1
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it in good order."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class IsthmusHop(Hop):
    """An Isthmus with one route."""

    connector: Mapping[str, Any] = MappingProxyType({})
    route: Mapping[str, Any] = MappingProxyType({})

    def command(self) -> list[str]:
        file = self.folder / "isthmus.yaml"
        settings = {
            "node": self.name,
            "http": None,
            "listeners": [{"bind": f"127.0.0.1:{self.port}"}],
            "broker": {"data": str(self.folder / "data")},
            "connectors": {
                "next": {
                    "url": f"127.0.0.1:{self.target}",
                    "version": "5" if self.v5 else "3.1.1",
                    "keepalive": "5s",
                    **({} if self.window is None else {"max_inflight": self.window}),
                    **self.connector,
                }
            },
            "routes": {"all": {"from": "local", "topics": ["chaos/#"], "to": "next", **self.route}},
        }
        file.write_text(json.dumps(settings))
        return [sys.executable, "-m", "isthmus", "run", str(file)]


class OvertakingHop(IsthmusHop):
    """One that sends new messages first, and slowly what an outage has left."""

    connector = MappingProxyType({"drain_rate": "2000/s"})
    route = MappingProxyType({"may_overtake": True})


class MosquittoHop(Hop):
    """A Mosquitto with a bridge and persistence: its queue is on disk at a good end."""

    saving: tuple[str, ...] = ()

    def command(self) -> list[str]:
        file = self.folder / "mosquitto.conf"
        file.write_text(
            "\n".join(
                [
                    f"listener {self.port} 127.0.0.1",
                    "allow_anonymous true",
                    f"user {'root' if os.geteuid() == 0 else 'mosquitto'}",
                    "persistence true",
                    f"persistence_location {self.folder}/",
                    *self.saving,
                    "max_queued_messages 0",
                    *([] if self.window is None else [f"max_inflight_messages {self.window}"]),
                    "connection next",
                    f"address 127.0.0.1:{self.target}",
                    f"bridge_protocol_version {'mqttv50' if self.v5 else 'mqttv311'}",
                    "cleansession false",
                    "restart_timeout 1",
                    "keepalive_interval 5",
                    f"topic chaos/# out {self.qos}",
                ]
            )
            + "\n"
        )
        return [program("mosquitto"), "-c", str(file)]


class SavingMosquittoHop(MosquittoHop):
    """One that writes its file anew at every change, as far as it can be told to."""

    saving = ("autosave_on_changes true", "autosave_interval 1")


KINDS = {
    "isthmus": IsthmusHop,
    OVERTAKING: OvertakingHop,
    "mosquitto": MosquittoHop,
    "mosquitto-autosave": SavingMosquittoHop,
}


class World:
    """Everything that runs, in the order of the data path.

    `names` are the hops, the first one at the publisher; `hops`, `proxies` and `traces` are in the
    order of the data path too, a proxy behind each sender.
    """

    def __init__(
        self,
        folder: Path,
        system: str,
        *,
        qos: int,
        v5: bool,
        names: tuple[str, ...] = NAMES,
        window: int | None = None,
    ) -> None:
        self.judge = Mosquitto(folder, "max_queued_messages 0", "max_inflight_messages 0")
        self.traces = [Trace(sender) for sender in ("publisher", *names)]
        self.hops: list[Hop] = []
        self.proxies: list[Proxy] = []
        self._names = names
        self._make = partial(KINDS[system], folder, qos=qos, v5=v5, window=window)

    async def start(self) -> None:
        """Start it from the far end on."""
        await self.judge.start()
        target = self.judge.port
        for name, trace in zip((*self._names[::-1], ""), self.traces[::-1], strict=True):
            proxy = Proxy(target, trace.connection)
            await proxy.start()
            self.proxies.insert(0, proxy)
            if name:
                hop = self._make(name, proxy.port)
                await hop.start()
                self.hops.insert(0, hop)
                target = hop.port

    @property
    def entrance(self) -> int:
        """The port for publishers."""
        return self.proxies[0].port

    async def stop(self) -> None:
        """End all of it."""
        for hop in self.hops:
            await asyncio.to_thread(hop.stop)
        for proxy in self.proxies:
            await proxy.stop()
        self.judge.kill()
