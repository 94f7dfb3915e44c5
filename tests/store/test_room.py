"""How often it is asked how much room is left."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from isthmus import clock
from isthmus.store.room import ASKED_S, TIGHT_BYTES, Room
from isthmus.store.statement import plain

ROW = [plain("INSERT INTO batches VALUES (?)", b"x" * 1000)]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time: the last of the list."""
    times = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: times[-1])
    return times


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Have a disk with so many bytes left; the folders of which that is asked from then on."""

    def have(free: int) -> list[str]:
        asked: list[str] = []

        def statvfs(folder: str) -> SimpleNamespace:
            asked.append(folder)
            return SimpleNamespace(f_bavail=free, f_frsize=1)

        monkeypatch.setattr(os, "statvfs", statvfs)
        return asked

    return have


def test_where_there_is_plenty_it_is_asked_now_and_then(
    tmp_path: Path, now: list[float], disk: Callable[[int], list[str]]
) -> None:
    room = Room(tmp_path / "isthmus.db")
    asked = disk(TIGHT_BYTES)
    for _ in range(10):
        room.check(ROW)
    assert len(asked) == 1
    now.append(now[-1] + ASKED_S)
    room.check(ROW)
    assert len(asked) == 2


def test_where_there_is_little_it_is_asked_each_time(
    tmp_path: Path, now: list[float], disk: Callable[[int], list[str]]
) -> None:
    room = Room(tmp_path / "isthmus.db")
    asked = disk(TIGHT_BYTES - 1)
    for number in range(10):
        room.check(ROW)
        assert len(asked) == number + 1


def test_a_disk_that_fills_is_noticed(
    tmp_path: Path, now: list[float], disk: Callable[[int], list[str]]
) -> None:
    room = Room(tmp_path / "isthmus.db")
    disk(TIGHT_BYTES)
    room.check(ROW)
    disk(1000)
    now.append(now[-1] + ASKED_S)
    with pytest.raises(OSError, match="No space left"):
        room.check(ROW)
