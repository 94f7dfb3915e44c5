"""The metrics page: what it says is what happened, and it says nothing of strangers."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from http_peer import HTTP, get, metrics, samples
from prometheus_client.parser import text_string_to_metric_families

from isthmus.store.writer import Writer
from raw import PUBACK, PUBLISH, ack_packet, until
from running import bridge, out

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


async def test_figures_of_the_broker_are_true(isthmus) -> None:
    near = await isthmus({"http": HTTP, "broker": {"sys_interval": 0}})
    one = await near.client("one")
    gone = await near.client("gone", session_expiry=60)
    await gone.subscribe("a", "b")
    await gone.subscribe("$share/g/a")
    gone.close()
    await until(lambda: near.app.broker.connected == 1)
    for _ in range(10):
        await one.published("a", "12345", 1)
    await one.published("kept", "x", 1, retain=True)
    found = await metrics(near)
    assert found["isthmus_broker_clients_connected",] == 1
    assert found["isthmus_broker_sessions",] == 2
    assert found["isthmus_broker_subscriptions",] == 3
    assert found["isthmus_broker_shared_subscriptions",] == 1
    assert found["isthmus_broker_retained_messages",] == 1
    assert found["isthmus_broker_retained_bytes",] == near.app.broker.retained.size > 0
    assert found["isthmus_broker_logins_total",] == 2
    assert found["isthmus_messages_received_total",] == 11
    assert found["isthmus_payload_received_bytes_total",] == 51
    assert found["isthmus_messages_sent_total",] == 0
    assert found["isthmus_acknowledgements_sent_total",] == 11
    assert found["isthmus_packets_received_total",] >= 15
    # HTTP is not among the bytes of MQTT.
    again = await metrics(near)
    reactor = near.app.reactor
    for name, count in (("received", reactor.bytes_in), ("sent", reactor.bytes_out)):
        key = (f"isthmus_network_{name}_bytes_total",)
        assert again[key] == found[key] == count > 50
    assert again["isthmus_http_answers_total", "200"] == 1
    assert again["isthmus_http_connections",] == 1
    assert found["isthmus_listener_accepted_total", f"127.0.0.1:{near.port}"] == 2
    assert found["isthmus_listener_open", f"127.0.0.1:{near.port}"] == 1
    assert found["isthmus_reactor_links",] == 1


async def test_figures_of_a_connector_follow_what_happens(isthmus, far) -> None:
    near = await isthmus(
        {**bridge(far.port, routes={"o": out("t/#")}, max_inflight=2), "http": HTTP}
    )
    there, _ = await far.client()
    await until(lambda: near.cloud.state == "connected")
    found = await metrics(near)
    assert found["isthmus_connector_state", "cloud", "connected"] == 1
    assert sum(value for key, value in found.items() if key[0] == "isthmus_connector_state") == 1
    assert found["isthmus_connector_connections_up", "cloud"] == 1
    assert found["isthmus_connector_connections_wanted", "cloud"] == 1
    assert found["isthmus_connector_connects_total", "cloud"] == 1
    assert 0 <= found["isthmus_connector_state_seconds", "cloud"] < 10
    assert found["isthmus_route_info", "local", "o", "cloud"] == 1
    here = await near.client("here")
    for number in range(5):
        here.publish("t/x", f"{number}", 1)
    messages = [await there.expect(PUBLISH) for _ in range(2)]
    found = await metrics(near)
    assert found["isthmus_connector_inflight_messages", "cloud"] == 2
    assert found["isthmus_connector_queued_messages", "cloud"] == 3
    assert found["isthmus_connector_queued_bytes", "cloud"] > 3
    assert found["isthmus_connector_messages_sent_total", "cloud"] == 2
    for message in messages:
        there.send(ack_packet(PUBACK, message.packet_id))
    for _ in range(2):
        message = await there.expect(PUBLISH)
        there.send(ack_packet(PUBACK, message.packet_id))
    message = await there.expect(PUBLISH)
    there.send(ack_packet(PUBACK, message.packet_id, 0x87))
    await until(lambda: near.cloud.figures.read()["inflight"] == 0)
    found = await metrics(near)
    assert found["isthmus_connector_messages_sent_total", "cloud"] == 5
    assert found["isthmus_connector_messages_refused_total", "cloud"] == 1
    assert found["isthmus_drops_total", "connector cloud", "refused_0x87"] == 1
    assert found["isthmus_connector_queued_messages", "cloud"] == 0
    there.reset()
    await far.stop()
    await until(lambda: near.cloud.state in ("waiting", "connecting"))
    here.publish("t/x", "", 0)
    await until(lambda: near.cloud.drops.total == 2)
    found = await metrics(near)
    assert found["isthmus_connector_connections_up", "cloud"] == 0
    assert found["isthmus_drops_total", "connector cloud", "link_down"] == 1
    await until(lambda: near.cloud.figures.read()["connect_attempts"] > 1)
    assert (await metrics(near))["isthmus_connector_attempts_total", "cloud"] > 1


async def test_counts_of_a_pool_that_gets_smaller_do_not_go_back(isthmus, mosquitto) -> None:
    far = await mosquitto()
    data = {**bridge(far.port, routes={"o": out("t/#")}, pool=3), "http": HTTP}
    near = await isthmus(data)
    await near.connected()
    here = await near.client("here")
    for number in range(60):
        await here.published(f"t/{number}", "x", 1)
    before = await metrics(near)
    assert before["isthmus_connector_messages_sent_total", "cloud"] == 60
    assert before["isthmus_connector_connects_total", "cloud"] == 3
    data["connectors"]["cloud"]["pool"] = 1
    settings = near.app.settings
    smaller = settings.connectors["cloud"].model_copy(update={"pool": 1})
    await near.app.reload(settings.model_copy(update={"connectors": {"cloud": smaller}}))
    await until(lambda: not near.cloud.regrouping)
    after = await metrics(near)
    assert after["isthmus_connector_messages_sent_total", "cloud"] == 60
    assert after["isthmus_connector_connects_total", "cloud"] == 3
    assert after["isthmus_connector_connections_wanted", "cloud"] == 1


def resident() -> int:
    """Bytes in RAM, as `ps` has them."""
    rss = subprocess.check_output(["ps", "-o", "rss=", "-p", str(os.getpid())])
    return int(rss) * 1024


async def test_the_process_is_measured(isthmus) -> None:
    near = await isthmus({"http": HTTP})
    found = await metrics(near)
    rss = found["isthmus_process_resident_memory_bytes",]
    assert rss == pytest.approx(resident(), rel=0.2)
    assert found["isthmus_process_cpu_seconds_total",] == pytest.approx(time.process_time(), abs=2)
    started = found["isthmus_process_start_time_seconds",]
    assert 0 < time.time() - started < 86_400
    assert started == (await metrics(near))["isthmus_process_start_time_seconds",]
    assert 0 <= found["isthmus_loop_lag_seconds",] < 1
    assert found["isthmus_reactor_turns_total",] >= 0


async def test_no_label_comes_from_a_stranger(isthmus) -> None:
    near = await isthmus({"http": HTTP})
    stranger = await near.client("canary-id", username="canary-user")
    await stranger.subscribe("canary/+/other")
    await stranger.published("canary/topic", "canary", 1, retain=True)
    page = await get(f"{near.url}/metrics?canary=1")
    assert b"canary" not in page.body
    for index in range(50):
        await near.client(f"c{index}")
    assert len(samples((await get(f"{near.url}/metrics")).body)) <= len(samples(page.body)) + 2


async def test_names_of_the_configuration_are_escaped(isthmus) -> None:
    near = await isthmus({"http": HTTP, "node": 'a"b\\c\nd'.replace("\n", " ")})
    assert (await get(f"{near.url}/metrics")).status == 200


async def test_a_store_that_fails_is_seen(isthmus, tmp_path, monkeypatch) -> None:
    near = await isthmus({"http": HTTP, "broker": {"data": str(tmp_path)}})
    writer = await near.client("w")
    await writer.published("a", "1", 1, retain=True)
    found = await metrics(near)
    assert found["isthmus_store_commits_total",] >= 1
    assert found["isthmus_store_failing",] == 0
    assert json.loads((await get(f"{near.url}/readyz")).body)["store"] is True

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "write", fail)
        writer.publish("a", "2", 1, retain=True)
        await until(lambda: near.app.store.failure is not None)
        assert (await metrics(near))["isthmus_store_failing",] == 1
        page = await get(f"{near.url}/readyz")
        body = json.loads(page.body)
        assert (page.status, body["ready"], body["store"]) == (503, False, False)
        assert "the store cannot be written" in body["not_ready"][0]
    await until(lambda: near.app.store.failure is None)
    assert (await metrics(near))["isthmus_store_failing",] == 0
    assert (await get(f"{near.url}/readyz")).status == 200


async def test_the_table_of_the_page_is_complete(isthmus, far, tmp_path) -> None:
    """Every metric has a row with its labels, and no row is of a metric that there is not."""
    configuration = bridge(far.port, routes={"o": out("t/#")})
    near = await isthmus({**configuration, "http": HTTP, "broker": {"data": str(tmp_path)}})
    raw = await near.client("a")
    raw.send(b"\xff\xff")
    await raw.closed()
    await far.client()
    near.cloud.drops.add("link_down")
    await get(f"{near.url}/healthz")
    page = await get(f"{near.url}/metrics")
    found = {}
    for family in text_string_to_metric_families(page.body.decode()):
        assert family.documentation.endswith((".", ")"))
        assert family.samples, family.name
        for sample in family.samples:
            found[sample.name] = sorted(sample.labels)
    rows = re.findall(r"^\| `(isthmus_\w+)` \|([^|]*)\|", PAGE.read_text(), re.MULTILINE)
    documented = {name: sorted(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert documented == found
