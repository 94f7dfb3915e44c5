"""Mosquitto's own bridge with Isthmus as its far side: login, rights, notifications, sessions."""

from __future__ import annotations

from pathlib import Path

import pytest
from bridge_kinds import VERSIONS, connection, mosquitto
from bridge_lines import Line

from mosquitto import command
from raw import PUBLISH, Raw, until
from running import Isthmus

STATE = "$SYS/broker/connection/hub.edge/state"


def retained(near: Isthmus, topic: str) -> bytes | None:
    found = near.app.broker.retained.get(topic.encode())
    return None if found is None else found.payload


async def said(near: Isthmus, topic: str, payload: bytes) -> None:
    await until(lambda: retained(near, topic) == payload)


@pytest.mark.parametrize("version", VERSIONS)
async def test_it_logs_in_and_its_notifications_are_kept(
    version: str, tmp_path: Path, isthmus, peers
) -> None:
    """With a password and an access list as they serve a Mosquitto: `$SYS` is open to the state."""
    await command("mosquitto_passwd", "-c", "-b", str(tmp_path / "users"), "edge", "secret # 1")
    (tmp_path / "acl").write_text(
        "user edge\ntopic readwrite a/#\ntopic write $SYS/broker/connection/+/state\n"
        "user reader\ntopic read #\n"
    )
    auth = {"password_file": str(tmp_path / "users"), "acl_file": str(tmp_path / "acl")}
    far = await isthmus({"node": "hub", "auth": auth})
    lines = connection(
        far.port, version, [Line("#", "both", 1)],
        "remote_clientid hub.edge", "remote_username edge", "remote_password secret # 1",
    )  # fmt: skip
    near = await mosquitto(peers, tmp_path, *lines)
    await said(far, STATE, b"1")
    client = far.app.broker.sessions["hub.edge"].client
    assert client is not None
    assert client.bridge == (version != "5")
    publisher = await Raw.client(near.port, "publisher")
    await publisher.published("b/refused", "x", 1, retain=True)
    await publisher.published("a/allowed", "x", 1, retain=True)
    await said(far, "a/allowed", b"x")
    assert retained(far, "b/refused") is None
    near.kill()
    await said(far, STATE, b"0")  # its will


@pytest.mark.parametrize(("private", "copies"), [("true", 1), ("false", 2)])
async def test_the_bridge_bit_keeps_messages_from_coming_back(
    private: str, copies: int, tmp_path: Path, isthmus, peers
) -> None:
    """Without it nothing tells a bridge from a client, which gets what it has published."""
    far = await isthmus({"node": "hub"})
    lines = connection(far.port, "3.1.1", [Line("#", "both", 1)], f"try_private {private}")
    near = await mosquitto(peers, tmp_path, *lines)
    await until(lambda: any(s.subscriptions for s in far.app.broker.sessions.values()))
    client = await Raw.client(near.port, "client")
    await client.subscribe("#", qos=1)
    publisher = await Raw.client(near.port, "publisher")
    await publisher.published("a", "once", 1)
    await publisher.published("last", "", 1)
    got: list[str] = []
    while got.count("last") < copies:
        got.append((await client.message()).topic)
    assert got.count("a") == copies


async def test_cleansession_decides_whether_the_session_stays(
    tmp_path: Path, isthmus, peers
) -> None:
    far = await isthmus({"node": "hub"})
    sessions = far.app.broker.sessions
    publisher = await far.client("publisher")
    for clean, name in (("false", "kept"), ("true", "forgotten")):
        lines = connection(
            far.port, "3.1.1", [Line("a/#", "in", 1)],
            f"remote_clientid {name}", f"cleansession {clean}",
        )  # fmt: skip
        near = await mosquitto(peers, tmp_path, *lines)
        await until(lambda: name in sessions and sessions[name].subscriptions)  # noqa: B023
        near.kill()
        await until(lambda: name not in sessions or sessions[name].client is None)  # noqa: B023
        if name == "forgotten":
            assert name not in sessions
            continue
        await publisher.published("a/x", "meanwhile", 1)
        assert sessions[name].lane.queued == 1
        await near.start()
        await until(lambda: sessions["kept"].client is not None)
        await until(lambda: sessions["kept"].lane.queued == 0)


async def test_lines_that_only_send_take_old_subscriptions_back(
    tmp_path: Path, isthmus, peers
) -> None:
    """It sends UNSUBSCRIBE for them; the session is one of before."""
    far = await isthmus({"node": "hub"})
    old = await far.client("edge", version=4, clean=False)
    await old.subscribe("r/up/#", "other/#", qos=1)
    old.close()
    lines = connection(
        far.port, "3.1.1", [Line("up/#", "out", 1, "", "r/")], "remote_clientid edge"
    )
    await mosquitto(peers, tmp_path, *lines)
    session = far.app.broker.sessions["edge"]
    await until(lambda: list(session.subscriptions) == [b"other/#"])
    await until(lambda: session.client is not None)
    publisher = await far.client("publisher")
    await publisher.published("r/up/1", "x", 1)
    reader = await far.client("reader")
    await reader.subscribe("#")
    assert [one for one in await reader.arrived() if one.kind == PUBLISH] == []
