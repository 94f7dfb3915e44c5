"""Another client with our client id: it is recognised, said, and not fought with."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from isthmus.connectors.rival import (
    GUESS_AFTER_S,
    GUESS_MAX_S,
    ROW,
    TAKEN_OVER,
    WAIT_MAX_S,
    Rival,
)
from raw import until
from running import bridge, out


def test_the_waits_grow_where_the_far_side_says_it() -> None:
    rival, waits = Rival(), []
    for _ in range(12):
        assert "same client id" in rival.ended(1.0, code=TAKEN_OVER, closed=True, now=0.0)
        waits.append(rival.wait_s)
    assert waits[0] == 0.0  # it may have been for once
    assert 3 <= waits[1] <= 5
    assert waits[-1] >= 0.75 * WAIT_MAX_S
    assert rival.taken_over == 12
    # It was left alone for long: the next one counts as the first.
    rival.ended(4 * WAIT_MAX_S, code=TAKEN_OVER, closed=True, now=0.0)
    assert rival.wait_s == 0.0


def test_a_long_row_of_early_closes_is_taken_for_one() -> None:
    rival = Rival()
    for _ in range(ROW - 1):
        assert rival.ended(1.0, code=None, closed=True, now=0.0) == ""
        assert rival.wait_s == 0.0
    assert "10 connections in a row" in rival.ended(1.0, code=None, closed=True, now=0.0)
    assert rival.wait_s == 0.0, "a bad network would not heal at once"
    for number in range(10):
        rival.ended(1.0, code=None, closed=True, now=GUESS_AFTER_S + number)
        assert rival.wait_s > 1.0
    assert 0.75 * GUESS_MAX_S <= rival.wait_s <= 1.25 * GUESS_MAX_S
    # Also where the other one waits as long.
    assert rival.ended(GUESS_MAX_S, code=None, closed=True, now=2 * GUESS_AFTER_S) != ""


@pytest.mark.parametrize(
    ("lived_s", "code", "closed"),
    [(1.0, None, False), (1.0, 0x8B, True), (500.0, None, True)],
    ids=["it was cut in another way", "the far side says another reason", "it lasted"],
)
def test_other_ends_are_no_sign_of_one(lived_s: float, code: int | None, closed: bool) -> None:
    rival = Rival()
    for _ in range(ROW - 1):
        rival.ended(1.0, code=None, closed=True, now=0.0)
    assert rival.ended(lived_s, code=code, closed=closed, now=0.0) == ""
    for _ in range(ROW - 1):
        assert rival.ended(1.0, code=None, closed=True, now=0.0) == ""


def test_a_far_side_that_cannot_be_reached_is_no_sign_of_one() -> None:
    rival = Rival()
    for _ in range(3 * ROW):
        assert rival.ended(1.0, code=None, closed=True, now=0.0) == ""
        if _ % (ROW - 1) == ROW - 2:
            rival.failed()


@pytest.mark.parametrize(
    ("told", "version"),
    [(True, "5"), (False, "5"), (False, "3.1.1")],
    ids=["0x8E", "Mosquitto, 5", "Mosquitto, 3.1.1"],
)
async def test_two_bridges_with_one_client_id_do_not_kick_each_other_for_ever(
    isthmus: Any, mosquitto: Any, caplog: Any, monkeypatch: Any, told: bool, version: str
) -> None:
    """Debian's Mosquitto only closes, with MQTT 5 too."""
    monkeypatch.setattr("isthmus.connectors.rival.GUESS_AFTER_S", 1.0)
    far = await isthmus({"auth": {"allow_anonymous": True}}) if told else await mosquitto()
    data = bridge(far.port, routes={"out": out("out/#")}, client_id="same", version=version)
    both = [await isthmus(data) for _ in range(2)]
    members = [near.cloud.members[0] for near in both]
    await until(lambda: any(member.rival.wait_s for member in members), 20)
    waiting = next(member for member in members if member.rival.wait_s)
    await until(lambda: waiting.state == "waiting")
    assert "another client" in waiting.reason
    assert "give one of the two another client id; next try in " in waiting.reason
    assert waiting.reason in caplog.text
    index = members.index(waiting)
    figures = both[index].cloud.figures.read()
    assert figures["state"] == "waiting"
    assert "another client" in figures["last_error"]
    assert figures["taken_over"] == (2 if told else 0)
    before = sum(member.connects for member in members)
    await asyncio.sleep(1.0)
    assert sum(member.connects for member in members) <= before + 1
