"""What the log says at a start about messages that an earlier process has left on disk."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from isthmus.app.leftovers import say_what_waits
from isthmus.store.store import Store
from mosquitto import free_port
from raw import PUBACK, until
from running import Isthmus, bridge, out

CONNECTOR = re.compile(
    r"3 message\(s\), \S+ B, wait on disk for connector cloud, the oldest for \d.* (s|min)"
)
SESSIONS = re.compile(r"2 message\(s\), \S+ B, wait on disk for 1 session\(s\) and 0 shared .*")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for one in caplog.records if "wait on disk" in (text := one.getMessage())]


def configuration(folder: Path) -> dict[str, Any]:
    return {
        **bridge(free_port(), routes={"out": out("out/#")}, spill_after="20ms"),
        "broker": {"data": str(folder / "data")},
    }


async def leave_messages(near: Isthmus) -> None:
    """Three messages wait for the far side, which is away, and two for a client."""
    absent = await near.client("absent", clean=False, session_expiry=3600)
    await absent.subscribe("in/#", qos=1)
    absent.close()
    here = await near.client("here")
    for topic in ("out/1", "out/2", "in/1", "out/3", "in/2"):
        here.publish(topic, b"x" * 10, 1)
        await here.expect(PUBACK)
    await near.app.stop()


async def test_what_waits_is_said_once_per_connector_and_for_all_sessions(
    isthmus, tmp_path, caplog
) -> None:
    caplog.set_level(logging.INFO, "isthmus")
    settings = configuration(tmp_path)
    first = await isthmus(settings)
    assert said(caplog) == []
    await leave_messages(first)
    assert said(caplog) == []
    near = await isthmus(settings)
    await until(lambda: len(said(caplog)) == 2)
    assert sum(bool(CONNECTOR.fullmatch(text)) for text in said(caplog)) == 1
    assert sum(bool(SESSIONS.fullmatch(text)) for text in said(caplog)) == 1
    await near.app.stop()

    caplog.clear()
    settings["connectors"], settings["routes"] = {}, {}
    await isthmus(settings)
    await until(lambda: len(said(caplog)) == 2)
    (warning,) = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert "connector cloud" in warning
    assert "which is not in the configuration" in warning


async def test_that_takes_as_long_however_much_it_is(isthmus, tmp_path, monkeypatch) -> None:
    """One time stamp of each connection is read, and nothing else."""
    await leave_messages(await isthmus(configuration(tmp_path)))
    near = await isthmus(configuration(tmp_path))
    asked: list[str] = []
    with monkeypatch.context() as patched:
        for name in ("query", "load", "ask_age"):
            patched.setattr(Store, name, lambda *_, name=name: asked.append(name))
        say_what_waits(near.app.store, near.app.connectors)
    assert asked == ["ask_age"]
