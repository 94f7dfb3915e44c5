"""The real command in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

PATIENCE_S = 15.0


class Ended(NamedTuple):
    """What a command left: exit status, standard output, standard error."""

    status: int
    out: bytes
    errors: str

    @property
    def text(self) -> str:
        return self.out.decode()


class Command:
    """`isthmus` with arguments; `errors` collects the lines that `said` has waited through."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.errors = ""

    @classmethod
    async def start(
        cls,
        *arguments: str | bytes | Path,
        python: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Command:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *python,
            "-m",
            "isthmus",
            *arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
        return cls(process)

    async def said(self, text: str) -> None:
        """Wait for a line with `text` on standard error."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := (await self.process.stderr.readline()).decode():
                self.errors += line
                if text in line:
                    return
        raise AssertionError(f"it ended without saying {text!r}:\n{self.errors}")

    async def line(self) -> bytes:
        """The next line of standard output."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.stdout.readline()

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def end(self, number: signal.Signals | None = None, *, stdin: bytes = b"") -> Ended:
        """Wait for the end, after a signal if one is given."""
        if number is not None:
            self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            out, errors = await self.process.communicate(stdin)
        assert self.process.returncode is not None
        return Ended(self.process.returncode, out, self.errors + errors.decode())

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


async def isthmus_command(
    *arguments: str | bytes | Path,
    stdin: bytes = b"",
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> Ended:
    """Run `isthmus` with these arguments to its end."""
    command = await Command.start(*arguments, env=env, cwd=cwd)
    try:
        return await command.end(stdin=stdin)
    finally:
        await command.kill()
