"""The status as retained JSON below `$SYS/isthmus/`, as a client sees it."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from isthmus.auth.passwords import create_entry
from mosquitto import Mosquitto
from raw import PUBLISH, Raw, publish_packet, until
from running import bridge, out

CLOUD = "$SYS/isthmus/connectors/cloud/status"
BROKER = "$SYS/isthmus/broker/status"

FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "state": str,
    "reason": str,
    "since": str,
    "address": str,
    "version": str,
    "connections_up": int,
    "connections_wanted": int,
    "connections_on_backup": int,
    "last_error": str,
    "last_error_at": (str, type(None)),
    "round_trip_ms": (float, type(None)),
    "subscriptions": int,
    "subscriptions_refused": int,
    "queued": int,
    "queued_bytes": int,
    "inflight": int,
    "oldest_age_s": float,
    "dead_letters": int,
    "dead_letter_bytes": int,
    "received": int,
    "sent": int,
    "acknowledged": int,
    "retried": int,
    "connect_attempts": int,
    "connects": int,
    "taken_over": int,
    "refused": int,
    "dropped": dict,
}
"""The names are public; each has its line in `docs/status.md`."""

BROKER_FIELDS = {
    "since": str,
    "clients": int,
    "sessions": int,
    "subscriptions": int,
    "retained": int,
    "retained_bytes": int,
    "received": int,
    "received_bytes": int,
    "sent": int,
    "sent_bytes": int,
    "dropped": dict,
    "store": (dict, type(None)),
}


async def figures(raw: Raw, topic: str, **wanted: Any) -> dict[str, Any]:
    """What is published on `topic` when its fields have these values."""
    async with asyncio.timeout(8):
        while True:
            message = await raw.packet()
            if message.kind == PUBLISH and message.topic == topic:
                found: dict[str, Any] = json.loads(message.payload)
                if all(found[name] == value for name, value in wanted.items()):
                    return found


def watched(port: int, **how: Any) -> dict[str, Any]:
    return {
        **bridge(port, routes={"out": out("out/#")}, **how),
        "broker": {"sys_interval": "300ms"},
    }


async def test_a_new_subscriber_gets_the_retained_status(isthmus, mosquitto) -> None:
    real = await mosquitto()
    near = await isthmus(watched(real.port))
    await near.connected()
    watching = await near.client("watching")
    await watching.subscribe(CLOUD)
    message = await watching.expect(PUBLISH)
    assert message.retain
    found = json.loads(message.payload)
    assert found["state"] == "connected"
    assert found.keys() == FIELDS.keys()
    for name, kind in FIELDS.items():
        assert isinstance(found[name], kind), name
    assert (found["name"], found["reason"]) == ("cloud", "")
    assert found["address"] == f"mqtt://127.0.0.1:{real.port}"
    assert (found["connections_up"], found["connections_wanted"]) == (1, 1)
    assert datetime.fromisoformat(found["since"]).tzinfo is not None
    await watching.subscribe(BROKER)
    broker = await figures(watching, BROKER, clients=1)
    assert broker.keys() == BROKER_FIELDS.keys()
    for name, kind in BROKER_FIELDS.items():
        assert isinstance(broker[name], kind), name


async def test_the_status_follows_the_far_side(isthmus, mosquitto) -> None:
    real = await mosquitto()
    # The interval is long: what comes in this test comes because the state has changed.
    near = await isthmus({**watched(real.port), "broker": {"sys_interval": "1h"}})
    watching = await near.client("watching")
    await watching.subscribe(CLOUD)
    up = await figures(watching, CLOUD, state="connected")
    real.kill()
    down = await figures(watching, CLOUD, state="waiting")
    assert down["since"] >= up["since"]
    assert down["connections_up"] == 0
    assert down["last_error"].startswith("connection lost")
    refused = await figures(watching, CLOUD)
    assert refused["reason"].startswith("tcp: ")
    await real.start()
    again = await figures(watching, CLOUD, state="connected")
    assert (again["reason"], again["connections_up"]) == ("", 1)
    assert again["last_error"].startswith("tcp: ")


async def test_refused_credentials_and_no_secrets(isthmus, mosquitto, tmp_path) -> None:
    (tmp_path / "users").write_text(create_entry("edge", b"right", iterations=101) + "\n")
    lines = "allow_anonymous false", f"password_file {tmp_path / 'users'}"
    real: Mosquitto = await mosquitto(*lines)
    near = await isthmus(watched(real.port, username="edge", password="CANARY-12"))
    watching = await near.client("watching")
    await watching.subscribe("$SYS/isthmus/#")
    found = await figures(watching, CLOUD, state="refused")
    assert "authori" in found["reason"].lower()
    assert found["last_error"] == found["reason"]
    assert "CANARY-12" not in json.dumps(near.app.status.read())


async def test_figures_are_published_while_they_change(isthmus, mosquitto) -> None:
    real = await mosquitto()
    near = await isthmus(watched(real.port))
    await near.connected()
    watching, here = await near.client("watching"), await near.client("here")
    await watching.subscribe(CLOUD)
    await figures(watching, CLOUD, sent=0)
    here.send(*(publish_packet("out/a", "x", 1, number) for number in range(1, 11)))
    found = await figures(watching, CLOUD, acknowledged=10)
    assert (found["sent"], found["inflight"], found["queued"]) == (10, 0, 0)


async def test_what_waits_and_how_old_it_is(isthmus, mosquitto) -> None:
    real = await mosquitto()
    near = await isthmus(watched(real.port))
    await near.connected()
    watching, here = await near.client("watching"), await near.client("here")
    real.kill()
    await watching.subscribe(CLOUD)
    await figures(watching, CLOUD, state="waiting")
    here.send(publish_packet("out/a", "12345", 1, 1), publish_packet("out/a", "lost"))
    found = await figures(watching, CLOUD, queued=1, dropped={"link_down": 1})
    assert found["queued_bytes"] > 5
    async with asyncio.timeout(8):
        while (await figures(watching, CLOUD, queued=1))["oldest_age_s"] < 1.0:
            pass


async def test_a_removed_connector_has_no_status_any_more(isthmus, mosquitto) -> None:
    real = await mosquitto()
    configuration = watched(real.port)
    near = await isthmus(configuration)
    await near.connected()
    watching = await near.client("watching")
    await watching.subscribe("$SYS/isthmus/connectors/#")
    await figures(watching, CLOUD)
    other = {"far": configuration["connectors"]["cloud"]}
    configuration = {**configuration, "connectors": other, "routes": {}}
    listeners = [{"bind": "127.0.0.1:0"}]
    await near.reload({**configuration, "listeners": listeners})
    while (await watching.expect(PUBLISH)).payload:
        pass
    await figures(watching, "$SYS/isthmus/connectors/far/status")
    assert near.app.broker.retained.topics(b"$SYS/isthmus/connectors/#") == [
        b"$SYS/isthmus/connectors/far/status"
    ]


async def test_without_an_interval_there_is_none(isthmus, mosquitto) -> None:
    real = await mosquitto()
    near = await isthmus({**watched(real.port), "broker": {"sys_interval": 0}})
    await near.connected()
    assert near.app.broker.retained.topics(b"$SYS/isthmus/#") == []
    assert near.app.status.read()["connectors"][0]["state"] == "connected"


async def test_an_interval_of_0_withdraws_them(isthmus, mosquitto) -> None:
    real = await mosquitto()
    configuration = {**watched(real.port), "listeners": [{"bind": "127.0.0.1:0"}]}
    near = await isthmus(configuration)
    assert len(near.app.broker.retained.topics(b"$SYS/isthmus/#")) == 2
    for interval, topics in ((0, 0), ("1h", 2)):
        changed = {**configuration, "broker": {"sys_interval": interval}}
        await near.reload(changed)
        assert len(near.app.broker.retained.topics(b"$SYS/isthmus/#")) == topics


async def test_a_smaller_pool_keeps_its_counters(isthmus, mosquitto) -> None:
    real = await mosquitto()
    configuration = {**watched(real.port, pool=3), "listeners": [{"bind": "127.0.0.1:0"}]}
    near = await isthmus(configuration)
    await near.connected()
    here = await near.client("here")
    for number in range(30):
        await here.published(f"out/{number}", "x", 1)
    lanes = [member.lane.acknowledged for member in near.cloud.members]
    assert sum(lanes) == 30
    assert min(lanes) > 0
    changed = {**configuration, **watched(real.port, pool=1)}
    await near.reload(changed)
    await until(lambda: not near.cloud.regrouping)
    found = near.cloud.figures.read()
    assert (found["connections_wanted"], found["acknowledged"], found["sent"]) == (1, 30, 30)


async def test_no_client_can_write_there(isthmus, mosquitto) -> None:
    real = await mosquitto()
    near = await isthmus({**watched(real.port), "broker": {"sys_interval": "1h"}})
    await near.connected()
    liar = await near.client("liar")
    assert await liar.published(CLOUD, "{}", 1, retain=True) == 0x87
    kept = near.app.broker.retained.get(CLOUD.encode())
    assert kept is not None
    assert json.loads(kept.payload)["name"] == "cloud"


def test_every_field_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "status.md").read_text()
    for name in (*FIELDS, *BROKER_FIELDS):
        assert f"`{name}`" in text, name
