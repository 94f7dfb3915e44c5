"""A transaction goes to the writer in steps, between which the event loop serves others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import uvloop
from test_logs import copied, loaded, opened, settled

from isthmus.store.gathering import Gathering
from isthmus.store.transaction import Transaction
from isthmus.store.writer import Writer

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def before(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, what: Any) -> None:
    """Have `what` called whenever the method `name` of `owner` is."""
    method = getattr(owner, name)

    def called(*given: Any) -> Any:
        what()
        return method(*given)

    monkeypatch.setattr(owner, name, called)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("records", [1, 200])
def test_who_is_ready_is_served_between_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str, records: int
) -> None:
    seen: list[str] = []
    for owner, name, what in (
        (Gathering, "begun", "closed"),
        (Transaction, "statements", "stated"),
        (Writer, "submit", "given"),
    ):
        before(monkeypatch, owner, name, lambda what=what: seen.append(what))

    async def write() -> None:
        store = await opened(tmp_path)
        log = store.log("one")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.send(b"not read, so it is always ready")
            asyncio.get_running_loop().add_reader(ours, seen.append, "served")
            for _ in range(records):
                log.append(b"record")
            await settled(store)
            asyncio.get_running_loop().remove_reader(ours)
        await store.stop()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(write())
    steps = [seen.index(step) for step in ("closed", "stated", "given")]
    for begin, end in pairwise(steps):
        assert "served" in seen[begin:end]


@pytest.mark.parametrize(("owner", "name"), [(Transaction, "statements"), (Writer, "submit")])
async def test_what_comes_between_the_steps_is_of_the_next_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    store = await opened(tmp_path)
    log = store.log("one")
    await store.settle()
    later: list[Callable[[], object]] = [lambda: log.done(1), lambda: log.append(b"two")]
    before(monkeypatch, owner, name, lambda: [later.pop()() for _ in range(len(later))])
    crash: list[Path] = []

    def committed() -> None:
        assert not later
        assert (log.next, log.stored, log.unrecorded, log.unstored_bytes) == (3, 2, 1, 3)
        crash.append(copied(tmp_path, "crashed"))

    log.append(b"one")
    store.then(committed)
    await store.settle()
    crashed = await opened(*crash)
    found = crashed.log("one")
    assert (found.next, found.done_below) == (2, 1)
    assert (await loaded(found))[1] == [b"one"]
    await crashed.stop()
    assert (log.stored, log.unrecorded, log.unstored_bytes) == (3, 0, 0)
    await store.stop()
    store = await opened(tmp_path)
    log = store.log("one")
    assert (log.next, log.done_below) == (3, 2)
    assert (await loaded(log, 2))[1] == [b"two"]
    await store.stop()


async def test_an_end_between_the_steps_writes_it_all_the_same(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    log = store.log("one")
    await store.settle()
    told: list[str] = []
    log.append(b"one")
    store.then(lambda: told.append("one"))
    store._submit()
    log.append(b"two")
    store.then(lambda: told.append("two"))
    await store.stop()
    assert told == ["one", "two"]
    store = await opened(tmp_path)
    assert (await loaded(store.log("one")))[1] == [b"one", b"two"]
    await store.stop()
