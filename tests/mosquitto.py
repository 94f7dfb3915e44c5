"""A real Mosquitto in a process of its own, on a free loopback port, for one test."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from raw import until


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    assert found, f"{name} is not installed; tests/peers.sh brings it"
    return found


LOWEST = 10_000
"""Ports from here on are used by the tests."""

WORKERS = 16
"""So many processes that run tests at a time have ports of their own, more than 1,000 each."""


def end_of_ports() -> int:
    """From here on the system gives ports to whoever asks for any one, as far as it can be had."""
    try:
        found = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        found = 0
    return found if found > 2 * LOWEST else 32_768


def ports_of(worker: str) -> range:
    """The ports of one process that runs tests, by its name: `gw0`, `gw1`, ..."""
    return range(LOWEST + int(worker.removeprefix("gw")) % WORKERS, end_of_ports(), WORKERS)


def in_turn(ports: Sequence[int]) -> Iterator[int]:
    """Those where nobody listens, over and over, in whatever order."""
    for port in itertools.cycle(random.sample(ports, len(ports))):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        yield port


_free = in_turn(ports_of(os.environ.get("PYTEST_XDIST_WORKER", "gw0")))


def free_port() -> int:
    """A port of loopback that nobody listens on now, and that was not given out for long.

    Nobody else gets it before who asked for it listens there: neither another process that runs
    tests, nor who leaves the choice to the system.
    """
    return next(_free)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


class Mosquitto:
    """A broker with these lines of configuration besides its listener."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.port = free_port()
        self.folder = folder / f"mosquitto-{self.port}"
        self.folder.mkdir()
        self.conf = self.folder / "mosquitto.conf"
        self.log = self.folder / "log"
        anonymous = [] if any("allow_anonymous" in line for line in lines) else ["true"]
        own = [
            f"listener {self.port} 127.0.0.1",
            *(f"allow_anonymous {value}" for value in anonymous),
            "user root",
            "sys_interval 0",
            "set_tcp_nodelay true",
        ]
        self.conf.write_text("\n".join([*own, *lines]) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [program("mosquitto"), "-v", "-c", str(self.conf)], stdout=log, stderr=log
            )
        process = self.process
        await until(lambda: listens(self.port) or process.poll() is not None)
        assert process.poll() is None, self.log.read_text()

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End at once, without goodbyes; what it had in memory is gone."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait()
            self.process = None


async def command(name: str, *arguments: str, seconds: float = 10.0) -> tuple[int, str, str]:
    """Run a program to its end: exit status, output, errors."""
    process = await asyncio.create_subprocess_exec(
        program(name),
        *arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds):
            out, errors = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


class Listening:
    """A `mosquitto_sub` that has its SUBACK; `line` waits for what it prints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, *arguments: str) -> Listening:
        # -d prints the packets; they and the messages come out of one pipe, in order.
        process = await asyncio.create_subprocess_exec(
            program("stdbuf"),
            "-oL",
            program("mosquitto_sub"),
            "-d",
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        listening = cls(process)
        while not (await listening.raw_line()).startswith("Subscribed "):
            pass
        return listening

    async def raw_line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(8):
            line = await self.process.stdout.readline()
        assert line, "mosquitto_sub has ended"
        return line.decode().rstrip("\n")

    async def line(self) -> str:
        """The next message as `-F` or the default formats it."""
        while (line := await self.raw_line()).startswith(("Client ", "Subscribed ")):
            pass
        return line

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
        await self.process.wait()
