"""A store that was damaged while no process ran: what a start makes of it.

Every case either moves the file aside with one error, or reads what can be read and counts the
rest; the process works afterwards, and after another start.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from isthmus.store.database import FILE
from isthmus.store.wal import log_of, read_mark
from mosquitto import free_port
from raw import PUBACK, PUBLISH, FarSide, Raw, ack_packet, until
from running import Isthmus, bridge, out

PAGE = 4096
COUNT = 200
"""Messages for the far side that the store has, of about 700 bytes."""


class Case(NamedTuple):
    """How a file is damaged, and what is said: how many messages arrive, and are counted as lost.

    A number of None is any.
    """

    damage: Callable[[Path], None]
    said: str = "It was moved to"
    sent: int | None = 0
    counted: int | None = 0


def written(at: int, data: Callable[[int], bytes], end: int | None = None) -> Any:
    """Damage that writes `data` of the right length from `at` to `end`, or that of the file."""

    def damage(path: Path) -> None:
        size = path.stat().st_size
        begin = at if at >= 0 else size // 2 // PAGE * PAGE
        with path.open("r+b") as file:
            file.seek(begin)
            file.write(data(size - begin if end is None else end))

    return damage


def cut(part: float, more: int = 0) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(path.stat().st_size * part) // PAGE * PAGE + more)


def garbage(size: int) -> bytes:
    return random.Random(1).randbytes(size)


def garbage_in_log(path: Path) -> None:
    log_of(path).write_bytes(garbage(50_000))


MIDDLE = -1
WITHOUT_HEADER = "has no header that can be read"

STOPPED = {
    "header garbage": Case(written(0, garbage, 100)),
    "header zeroed": Case(written(0, bytes, 100)),
    "all garbage": Case(written(0, garbage)),
    "all garbage but the header": Case(written(100, garbage)),
    "all garbage but the first page": Case(written(PAGE, garbage)),
    "all zeroed but the first page": Case(written(PAGE, bytes)),
    "pages in the middle zeroed": Case(written(MIDDLE, bytes, 4 * PAGE), "", None, None),
    "pages in the middle garbage": Case(written(MIDDLE, garbage, 4 * PAGE), "", None, None),
    "cut to half": Case(cut(0.5)),
    "cut within a page": Case(cut(0.5, 777)),
    "shorter than a header": Case(cut(0, 50)),
    "empty": Case(cut(0), "is empty"),
    "gone": Case(Path.unlink, "was there before"),
    "log garbage": Case(garbage_in_log, WITHOUT_HEADER, COUNT),
}
"""The process was stopped in order: all is in the file."""

KILLED = {
    "header garbage": Case(written(0, garbage, 100), "", COUNT),
    "all garbage": Case(written(0, garbage), "", None, None),
    "pages in the middle zeroed": Case(written(MIDDLE, bytes, 4 * PAGE), "", None, None),
    "cut to half": Case(cut(0.5), "", None, None),
    "empty": Case(cut(0), "is empty"),
    "gone": Case(Path.unlink, "is not there, and its log is"),
    "log garbage": Case(garbage_in_log, WITHOUT_HEADER),
}
"""The process was killed: most is in the log, and the log has the newest of each page."""


def configuration(port: int, folder: Path) -> dict[str, Any]:
    return {
        **bridge(port, routes={"out": out("out/#")}, spill_after="20ms", client_id="edge"),
        "broker": {"data": str(folder)},
    }


async def left_behind(near: Isthmus, folder: Path, *, killed: bool) -> None:
    """`folder` as a process leaves it that has messages for a far side, which is away."""
    here = await near.client("here")
    for number in range(COUNT):
        here.publish("out/1", b"%d " % number + garbage(700), 1)
        if number % 20 == 19:
            for _ in range(20):
                await here.expect(PUBACK)
    here.close()
    data = near.app.settings.broker.data
    assert data is not None
    if killed:
        await until(lambda: read_mark(data / FILE) is not None)
    else:
        await near.app.stop()
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns("control"))


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [
        one.getMessage()
        for one in caplog.records
        if one.levelno >= level and one.name.startswith("isthmus.store")
    ]


async def works(near: Isthmus, there: Raw, payload: str) -> list[int]:
    """A message gets through; the numbers of those that came before it."""
    here = await near.client("here")
    here.publish("out/1", payload, 1)
    found: list[int] = []
    while (got := await there.expect(PUBLISH)).payload != payload.encode():
        found.append(int(got.payload.split()[0]))
        there.send(ack_packet(PUBACK, got.packet_id))
    there.send(ack_packet(PUBACK, got.packet_id))
    await here.expect(PUBACK)
    here.close()
    return found


@pytest.mark.parametrize(
    ("case", "killed"),
    [
        *(pytest.param(case, False, id=f"stopped, {name}") for name, case in STOPPED.items()),
        *(pytest.param(case, True, id=f"killed, {name}") for name, case in KILLED.items()),
    ],
)
async def test_it_is_said_once_and_the_process_works(
    isthmus: Any,
    far: FarSide,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    case: Case,
    killed: bool,
) -> None:
    folder = tmp_path / "damaged"
    first = await isthmus(configuration(free_port(), tmp_path / "data"))
    await left_behind(first, folder, killed=killed)
    case.damage(folder / FILE)
    caplog.clear()
    near = await isthmus(configuration(far.port, folder))
    at_start = lines(caplog, logging.WARNING)
    assert len(at_start) <= 1
    assert case.said in "".join(at_start)
    there, _ = await far.client()
    sent = await works(near, there, "new")
    assert sent == sorted(set(sent))
    await until(lambda: not near.cloud.stored)
    counted = near.cloud.drops.counts.get("damaged", 0)
    assert case.sent is None or len(sent) == case.sent
    assert case.counted is None or counted == case.counted
    # A process that was killed may have copied its log into the file before: then nothing is left.
    if case.sent is None and not (killed and at_start):
        assert len(sent) + counted == COUNT
        assert sent
    for moved in folder.glob(f"{FILE}*.damaged-*Z"):
        assert sum(str(moved) in text for text in lines(caplog, logging.ERROR)) == 1
    assert not [one for one in caplog.records if one.exc_info]
    await near.app.stop()
    there.close()

    caplog.clear()
    near = await isthmus(configuration(far.port, folder))
    there, _ = await far.client()
    assert await works(near, there, "newer") == []
    assert lines(caplog, logging.WARNING) == []
    await near.app.stop()


async def test_what_can_be_read_of_a_file_that_was_moved_is_exported(
    isthmus: Any, tmp_path: Path
) -> None:
    """Also while the process runs that has made a new one."""
    folder = tmp_path / "damaged"
    first = await isthmus(configuration(free_port(), tmp_path / "data"))
    await left_behind(first, folder, killed=False)
    moved = (folder / FILE).rename(folder / f"{FILE}.damaged-20260131T120000000000Z")
    written(MIDDLE, bytes, 4 * PAGE)(moved)
    near = await isthmus(configuration(free_port(), folder))
    found = subprocess.run(  # noqa: ASYNC221 - it does not ask the process
        [sys.executable, "-m", "isthmus", "store", "export", str(moved)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    exported = [json.loads(line) for line in found.stdout.splitlines()]
    exported = [one for one in exported if one["log"].startswith("outbox/")]
    damaged = sum("damaged" in one for one in exported)
    assert found.returncode == 1, found.stderr
    assert f"{damaged} message(s) could not be read" in found.stderr
    assert 0 < damaged < COUNT == len(exported)
    assert moved.exists()
    await near.app.stop()
