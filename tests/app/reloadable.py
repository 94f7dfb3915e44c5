"""`isthmus run` as a process of its own, whose configuration a test writes again and again."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from raw import until


class Reloadable:
    """A process on a file; its log and its run-time files are its own."""

    def __init__(self, folder: Path, name: str = "isthmus.yaml") -> None:
        self.file = folder / name
        self.log_file = folder / "log"
        self.runtime = Path(tempfile.mkdtemp(prefix="is-"))  # short, for the path of a socket
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(self.runtime)}
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, configuration: dict[str, Any] | str) -> None:
        """A text as it is; a mapping without an HTTP port, unless it has one of its own."""
        if not isinstance(configuration, str):
            configuration = json.dumps({"http": None, **configuration})
        self.file.write_text(configuration)

    async def start(
        self, configuration: dict[str, Any] | str | None, *options: str, file: bool = True
    ) -> None:
        """Write the file, and run it; None is what is there; without `file`, only `options`."""
        if configuration is not None:
            self.write(configuration)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [
                    sys.executable,
                    "-m",
                    "isthmus",
                    "run",
                    *([str(self.file)] if file else []),
                    *options,
                ],
                stderr=log,
                env=self.env,
            )
        await until(lambda: self.listens or not self.alive, 15)
        assert self.alive, self.log

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def sockets(self) -> list[Path]:
        """The control sockets, also what a killed process left of its own."""
        return list((self.runtime / "isthmus").glob("*-*"))

    @property
    def socket(self) -> Path | None:
        return next(iter(self.sockets), None)

    @property
    def listens(self) -> bool:
        """Whether it takes requests: its socket is there a moment before it does."""
        for path in self.sockets:
            with socket.socket(socket.AF_UNIX) as sock, suppress(OSError):
                sock.connect(str(path))
                return True
        return False

    async def command(self, *arguments: object, name: str = "reload") -> tuple[int, str, str]:
        """`isthmus reload`, or another command, with arguments: exit status, output, errors."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "isthmus", name, *map(str, arguments),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env, cwd=self.file.parent,
        )  # fmt: skip
        async with asyncio.timeout(30):
            out, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), errors.decode()

    async def reload(self, configuration: dict[str, Any] | str | None = None) -> dict[str, Any]:
        """Write the file, ask over the control socket, return the answer."""
        if configuration is not None:
            self.write(configuration)
        assert self.socket is not None
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        writer.write(b'{"request": "reload"}\n')
        async with asyncio.timeout(30):
            answer: dict[str, Any] = json.loads(await reader.readline())
        writer.close()
        return answer

    async def changed(self, configuration: dict[str, Any] | str) -> list[str]:
        """Reload, which has to work; what was changed."""
        answer = await self.reload(configuration)
        assert answer["status"] == 0, answer
        changes: list[str] = answer["changes"]
        return changes

    def hang_up(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    async def said(self, text: str) -> None:
        await until(lambda: text in self.log or not self.alive)
        assert text in self.log, self.log

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.runtime, ignore_errors=True)
