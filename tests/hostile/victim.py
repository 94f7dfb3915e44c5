"""The broker under attack, as a process of its own, and the good client that must not notice."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from mosquitto import free_port
from raw import (
    CONNACK,
    PUBACK,
    PUBLISH,
    SUBACK,
    ack_packet,
    connect_packet,
    packet,
    publish_packet,
    text,
)

PATIENCE_S = 15.0

LEAK_KIB = 300
"""For 15 attacks: a leak of 20 KiB each is one that is seen."""

WINDOWS = 6

# Errors of Python that nobody caught: the process lives on, but something was not foreseen.
UNFORESEEN = re.compile(r"Traceback|failed; this connection is closed|internal error")


GROWTH_KIB = 6 * 1024
"""What one test may add to the memory of the process: arenas of the allocator, bounded caches."""


def rss_kib(pid: int) -> int:
    """Memory of a process that is resident."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])


class Victim:
    """A running `isthmus run`. `port` is its first listener's; its log is in a file."""

    def __init__(
        self, folder: Path, configuration: dict[str, Any], *, descriptors: int | None = None
    ) -> None:
        self.port = free_port()
        listeners = [{"bind": f"127.0.0.1:{self.port}"}]
        configuration = {"listeners": listeners, "http": None, **configuration}
        self.port = int(configuration["listeners"][0]["bind"].rpartition(":")[2])
        path = folder / "victim.json"
        path.write_text(json.dumps(configuration))
        self._log = folder / "victim.log"

        def limit() -> None:
            if descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "isthmus", "run", path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=limit,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while "listening on" not in self.log:
            assert self.process.poll() is None, f"it ended:\n{self.log}"
            assert time.monotonic() < deadline, f"it does not listen:\n{self.log}"
            time.sleep(0.02)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def rss_kib(self) -> int:
        return rss_kib(self.process.pid)

    @property
    def cpu_s(self) -> float:
        """Processor time that it has used; the kernel counts it in nanoseconds."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208 - names are enough

    def wait_for(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.01)

    def stop(self) -> int:
        """End it as systemd does; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()


class GoodClient:
    """A client that does everything right, on a blocking socket: it belongs to no event loop."""

    def __init__(self, port: int, version: int = 5, **how: Any) -> None:
        self.version = version
        self._topic = f"good/{version}"
        self._sock = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        name = how.pop("client_id", f"good-{version}")
        self._sock.sendall(connect_packet(name, version, keep_alive=3600, **how))
        kind, body = self._read()
        assert (kind, body[1]) == (CONNACK, 0)
        properties = b"\0" if version == 5 else b""
        self._sock.sendall(packet(0x82, b"\0\1" + properties + text(self._topic) + b"\1"))
        kind, body = self._read()
        assert (kind, body[-1]) == (SUBACK, 1)

    def served(self) -> float:
        """Publish, get it back and have it acknowledged; how many seconds that took."""
        begin = time.monotonic()
        payload = os.urandom(8)
        self._sock.sendall(publish_packet(self._topic, payload, 1, 7, version=self.version))
        found = dict(self._read() for _ in range(2))
        assert set(found) == {PUBACK, PUBLISH}
        assert found[PUBLISH].endswith(payload)
        packet_id = struct.unpack_from(">H", found[PUBLISH], 2 + len(self._topic))[0]
        self._sock.sendall(ack_packet(PUBACK, packet_id))
        return time.monotonic() - begin

    def _read(self) -> tuple[int, bytes]:
        first, size, shift = self._take(1)[0], 0, 0
        while True:
            byte = self._take(1)[0]
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return first >> 4, self._take(size)

    def _take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._sock.recv(size - len(data))
            assert part, "the good client was closed"
            data += part
        return data

    def close(self) -> None:
        self._sock.close()


async def flat(victim: Victim, attack: Callable[[], Awaitable[None]], times: int = 15) -> None:
    """Attack until memory stays as it is over `times` attacks; a leak grows every time.

    The first windows fill caches and arenas of the allocator.
    """
    grown = []
    for _ in range(WINDOWS):
        before = victim.rss_kib
        for _ in range(times):
            await attack()
        grown.append(victim.rss_kib - before)
        if grown[-1] < LEAK_KIB:
            return
    raise AssertionError(f"memory grows: {grown} KiB in windows of {times}")
