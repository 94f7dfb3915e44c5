"""The course of the kill test: lives of one Isthmus with one folder, one far side, one publisher.

Each life dies at a step of its own, and the next one goes on with what it left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path

from kill_publisher import Publisher, Upstream
from power_far import FarBroker
from power_process import settings
from power_watcher import Watcher

from mosquitto import free_port, listens
from raw import PUBLISH, PUBREL, Packet, until

WINDOW = 10
"""`max_inflight` of the connector: what a crash may repeat at most."""

SLOW_S = 0.03
"""How long the slow far side takes; more than a message may be unacknowledged in memory."""

ROUNDS = 10
"""So often a life goes through its course at most: on a slow machine more is done at once, so a
step comes more seldom."""

FAR_STEPS = {
    "sent, not acknowledged": (PUBLISH, False),
    "acknowledged, not heard": (PUBLISH, True),
    "released, not completed": (PUBREL, False),
    "completed, not heard": (PUBREL, True),
}
"""Steps that the far side sees: at which packet, and whether its answer goes out before the end."""


def ignore(_: Packet) -> None:
    """Do nothing."""


class KillTest:
    """Lives in `folder`; messages have `qos`.

    `upstream`: they come from a broker, not from a client. `local`: they go to the session of a
    client that is absent at times, not to a broker.
    """

    def __init__(
        self, folder: Path, qos: int, *, upstream: bool = False, local: bool = False
    ) -> None:
        self.qos = qos
        self._port = free_port()
        self.far = Watcher(self._port, WINDOW, "far/#") if local else FarBroker()
        self.publisher = Upstream(qos) if upstream else Publisher(qos)
        self.kills = 0
        self._folder = folder
        self._file = folder / "isthmus.json"
        self._log = folder / "log"
        self._server: asyncio.subprocess.Process | None = None
        self._process = 0

    async def start(self) -> None:
        """Start the far side and what starts the lives."""
        await self.far.up()
        await self.publisher.start()
        route = {"from": "local", "topics": ["far/#"], "to": "local", "qos": self.qos}
        connectors: dict[str, int] = {}
        if isinstance(self.publisher, Upstream):
            connectors["up"] = self.publisher.port
            route["from"] = "up"
        if not isinstance(self.far, Watcher):
            connectors["far"] = self.far.port
            route["to"] = "far"
        found = settings(self._folder / "data", self._port, connectors, max_inflight=WINDOW)
        found["routes"] = {"far": route} if connectors else {}
        self._file.write_text(json.dumps(found))
        self._server = await asyncio.create_subprocess_exec(
            *[sys.executable, str(Path(__file__).with_name("kill_server.py"))],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def stop(self) -> None:
        """End all of it."""
        await self.far.down()
        await self.publisher.stop()
        if self._server is not None:
            if self._process:
                self._kill()
            assert self._server.stdin is not None
            self._server.stdin.close()
            await self._server.wait()

    async def life(self, step: str, nth: int) -> int:
        """One life, which dies at the `nth` time that it comes to `step`; its exit status."""
        self.kills += 1
        far = self.far
        if step not in FAR_STEPS:
            return await self._life(step, nth, self._course())
        kind, answered = FAR_STEPS[step]
        left = nth

        def look(packet: Packet) -> None:
            nonlocal left
            if packet.kind == kind:
                left -= 1
                if not left:
                    self._kill()

        far.on_answered, far.on_packet = (look, ignore) if answered else (ignore, look)
        try:
            return await self._life("", 0, self._course())
        finally:
            far.on_answered = far.on_packet = ignore

    async def last_life(self) -> int:
        """One that is stopped when everything that was acknowledged has arrived."""
        return await self._life("", 0, self._last_course())

    # -- what happens in a life ------------------------------------------------------------------

    async def _course(self) -> None:
        """Past the log; into it; out of it while more comes. After ROUNDS it has lived too long."""
        far, publisher = self.far, self.publisher
        await publisher.connect(self._port)
        if isinstance(far, Watcher):
            await until(lambda: far.session)  # before, nobody wants the messages
        for _ in range(ROUNDS):
            far.delay_s = 0
            await publisher.publish(10)
            await far.down()
            await publisher.publish(20)
            far.delay_s = SLOW_S
            await far.up()
            await publisher.publish(20)
            await self._all_arrived()
            await asyncio.sleep(0.5)  # what the far side has done is written down in a while
        self._kill(signal.SIGTERM)

    async def _last_course(self) -> None:
        await self.publisher.connect(self._port)
        await self.publisher.publish(10)
        with contextlib.suppress(AssertionError):  # who looks at the account sees what is missing
            await self._all_arrived()
        self._kill(signal.SIGTERM)

    async def _all_arrived(self) -> None:
        wanted, arrived = self.publisher.acknowledged, self.far.arrived
        await until(lambda: wanted <= {payload for _, payload in arrived})

    # -- the process -----------------------------------------------------------------------------

    async def _life(self, step: str, nth: int, course: Coroutine[None, None, None]) -> int:
        server = self._server
        assert server is not None
        assert server.stdin is not None
        if not self.far.is_up:
            await self.far.up()
        life = {"file": str(self._file), "log": str(self._log), "step": step, "nth": nth}
        server.stdin.write(json.dumps(life).encode() + b"\n")
        self._process = await self._answer()
        end = asyncio.create_task(self._answer())
        await until(lambda: listens(self._port) or end.done(), 20)
        task = asyncio.create_task(course)
        try:
            await asyncio.wait({end, task}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
            if task.done() and not isinstance(task.exception(), AssertionError):
                await asyncio.wait({end}, timeout=15)
            # What came before the end of its connection counts.
            await asyncio.wait({task}, timeout=0.3)
        finally:
            task.cancel()
            if late := not end.done():
                self._kill()
            status = await end
            self._process = 0
        assert not late, f"{step}: the life did not end"
        (failure,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(failure, AssertionError) and status != -signal.SIGKILL:
            raise failure
        return status

    async def _answer(self) -> int:
        assert self._server is not None
        assert self._server.stdout is not None
        return int(await self._server.stdout.readline())

    def _kill(self, how: int = signal.SIGKILL) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):  # it has just died by itself
                os.kill(self._process, how)
