"""`isthmus explain`: what it prints is what the process does."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_cli_check import run

from isthmus.app.message_path import message_path
from isthmus.app.settings import Settings
from isthmus.cli.main import main
from isthmus.config.loader import parse_text
from isthmus.delivery.message import Message
from raw import PUBACK, PUBLISH, Raw, until
from running import Isthmus, bridge

SITE = """
node: site-7
auth: {acl_file: acl.txt}
broker: {data: data}
connectors:
  cloud: {url: broker.example.com, pool: 3}
  audit: {url: audit.example.com, client_id: auditor}
routes:
  alarm: {from: local, to: cloud, topics: [sensor/+/alarm], qos: 2, priority: 1, stop: true}
  up: {from: local, to: cloud, topics: [sensor/#, "!sensor/debug/#"], prepend: "${node}/"}
  up2: {from: local, to: cloud, topics: [sensor/+/t], topic: "${node}/sensor/${1}/t", max_qos: 0}
  copy: {from: local, to: local, topics: [sensor/#], topic: "copy/${topic[1]}", retain: set}
  log: {from: local, to: audit, topics: [copy/#], topic: "${connection.client_id}/${topic}"}
  own: {from: local, to: audit, topics: [own/#], check_as: bridge}
  round: {from: local, to: local, topics: [a/#], prepend: a/}
  deep: {from: local, to: cloud, topics: [x/#], topic: "${topic[3]}"}
  both: {from: local, to: cloud, topics: [b/#], direction: both}
""".replace('prepend: "${node}/"', 'topic: "${node}/${topic}"')


def said(monkeypatch, capsys, folder: Path, *arguments: str) -> list[str]:
    (folder / "acl.txt").write_text("topic readwrite #\ntopic deny secret\nuser bridge\n")
    path = folder / "site.yaml"
    path.write_text(SITE)
    monkeypatch.setattr("sys.argv", ["isthmus", "explain", str(path), *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    captured = capsys.readouterr()
    assert (end.value.code, captured.err) == (0, "")
    assert not (folder / "data").exists()  # nothing is written
    return captured.out.splitlines()


def test_routes_that_match_exclude_map_and_join(monkeypatch, capsys, tmp_path: Path) -> None:
    lines = said(monkeypatch, capsys, tmp_path, "--topic", "sensor/1/t", "--client-id", "me")
    by = next(line for line in lines if "cloud gets" in line).rpartition("connection ")[2]
    assert lines == [
        "sensor/1/t, QoS 1, from local",
        "  client me, user (none) may publish there; clients that have subscribed to it get it",
        "at local, sensor/1/t:",
        "  route up (sensor/#): to cloud as site-7/sensor/1/t",
        (
            "  route up2 (sensor/+/t): to cloud as site-7/sensor/1/t; joined with route up, which "
            "leads to the same place"
        ),
        "  route copy (sensor/#): to local as copy/1",
        "  at local, copy/1:",
        "    route log (copy/#): to audit as auditor/copy/1",
        "result:",
        f"  cloud gets site-7/sensor/1/t with QoS 1, by connection {by}",
        "  audit gets auditor/copy/1 with QoS 1, retained",
        "  kept as a retained message at local",
        "  clients of this broker that have subscribed get copy/1",
        "  PUBACK is sent when cloud and audit have acknowledged it, or when it is on disk here",
    ]


def test_a_message_of_a_connector_ends_with_the_clients(monkeypatch, capsys, tmp_path) -> None:
    arguments = ("--from", "cloud", "--topic", "b/1")
    lines = said(monkeypatch, capsys, tmp_path, *arguments)
    assert "  clients of this broker that have subscribed get b/1" in lines
    assert "  it leaves by no connector" not in lines


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--topic sensor/debug/x", "  route up (sensor/#): not taken: !sensor/debug/#"),
        ("--topic sensor/1/alarm",
         "  route up (sensor/#): not asked: route alarm comes before it and has 'stop'"),
        (
            "--topic sensor/1/alarm -q 2",
            "  PUBREC is sent when cloud has acknowledged it, or when it is on disk here",
        ),
        ("--topic sensor/1/alarm -q 0", "  nobody waits for an acknowledgement: QoS 0"),
        ("--topic own/x", ("  route own (own/#): refused with 0x87, denied: bridge may not read "
         "own/x")),
        ("--topic own/x", "  dropped, counted as denied: bridge may not read own/x"),
        ("--topic own/x", "  PUBACK has the code 0x87 over MQTT 5, and means success over MQTT 3"),
        ("--topic x/1", ("  route deep (x/#): refused with 0x90, bad_topic: x/1: the topic has no "
         "level 3")),
        ("--topic secret", ("  client (unknown), user (none) may not publish there: it is refused "
         "with 0x87")),
        ("--topic nothing", "at local: no route takes it"),
        ("--topic nothing", "  PUBACK is sent at once"),
        ("--topic b/1 --from cloud", "  we are subscribed to b/# at cloud with QoS 2"),
        ("--topic b/1 --from cloud", ("    route both (b/#): to cloud as b/1; not sent, as it came "
         "from cloud")),
        ("--topic c/1 --from cloud", "  we are not subscribed to it at cloud, so it will not come"),
        ("--topic b/1 --retain", "b/1, QoS 1, with the retain flag, from local"),
        ("--topic b/1 --retain", "  kept as a retained message at local"),
    ],
)  # fmt: skip
def test_single_lines(monkeypatch, capsys, tmp_path: Path, arguments: str, expected: str) -> None:
    assert expected in said(monkeypatch, capsys, tmp_path, *arguments.split())


def test_a_circle_is_followed_to_its_end(monkeypatch, capsys, tmp_path: Path) -> None:
    lines = said(monkeypatch, capsys, tmp_path, "--topic", "a")
    assert any("a circle" in line for line in lines)
    assert 5 < len(lines) < 60


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--topic", "a/#"], "isthmus: --topic: the topic name has a wildcard"),
        (["--topic", "a", "--from", "moon"],
         "isthmus: there is no endpoint 'moon'; --from is one of: local, cloud"),
    ],
)  # fmt: skip
def test_wrong_questions(monkeypatch, capsys, arguments: list[str], problem: str) -> None:
    text = b"connectors: {cloud: {url: h}}"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    assert run(monkeypatch, "explain", "-", *arguments) == 2
    assert capsys.readouterr().err.startswith(problem)


async def test_it_says_what_the_process_does(isthmus) -> None:
    """The lines of the result, and the messages that a far side gets."""
    far: Isthmus = await isthmus()
    routes = {
        "one": {"from": "local", "to": "cloud", "topics": ["s/+"], "topic": "x/${1}", "qos": 1},
        "two": {"from": "local", "to": "cloud", "topics": ["s/#", "!s/b"], "retain": "set"},
        "three": {"from": "local", "to": "cloud", "topics": ["s/#"], "topic": "u/${clientid}"},
    }
    configuration = bridge(far.port, routes=routes)
    near: Isthmus = await isthmus(configuration)
    await near.connected()
    there = await Raw.client(far.port, "there", 5)
    await there.subscribe("#", qos=2, options=8)
    raw = await near.client("me")
    for topic, qos in (("s/a", 0), ("s/b", 2), ("s/a/b", 1)):
        await raw.published(topic, "x", qos)
        lane = near.cloud.members[0].lane
        await until(lambda lane=lane: not lane.inflight, 8)
        got = set()
        for found in await there.arrived():
            assert found.kind == PUBLISH
            kept = ", retained" if found.retain else ""
            away = "; dropped while cloud is away" if not found.qos else ""
            got.add(f"  cloud gets {found.topic} with QoS {found.qos}{kept}{away}")
        settings = Settings.model_validate(configuration)
        lines = await message_path(
            settings, Message(topic.encode(), b"x", qos), "local", "me", None
        )
        assert got == {line for line in lines if line.startswith("  cloud gets")}


@pytest.mark.parametrize("how", [{}, {"queue_qos0": True}, {"start": "lazy"}])
async def test_whether_qos_0_waits_for_a_connection_is_said(how: dict[str, Any]) -> None:
    connector = {"url": "far.example", "start": how.get("start", "automatic")}
    route = {"from": "local", "to": "cloud", "topics": ["#"], "queue_qos0": "queue_qos0" in how}
    settings = Settings.model_validate(
        {"connectors": {"cloud": connector}, "routes": {"out": route}}
    )
    lines = await message_path(settings, Message(b"a", b"x", 0), "local", "me", None)
    fate = "waits" if how else "dropped"
    assert f"  cloud gets a with QoS 0; {fate} while cloud is away" in lines


async def test_the_page_shows_what_it_prints() -> None:
    """The example of docs/commands.md, from the first configuration of docs/routes.md."""
    docs = Path(__file__).parents[2] / "docs"
    shown = (docs / "commands.md").read_text().partition("```text\nsensor/1/t,")[2]
    shown = "sensor/1/t," + shown.partition("```")[0]
    text = (docs / "routes.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    settings = parse_text(Settings, text)
    message = Message(b"sensor/1/t", b"", 1)
    assert "\n".join(await message_path(settings, message, "local", "", None)) + "\n" == shown


def test_what_does_not_come_has_no_result(monkeypatch, capsys, tmp_path: Path) -> None:
    lines = said(monkeypatch, capsys, tmp_path, "--topic", "c/1", "--from", "cloud")
    assert lines == [
        "c/1, QoS 1, from cloud",
        "  we are not subscribed to it at cloud, so it will not come",
    ]


NAMED = """
node: one
connectors:
  cloud:
    url: far.example.com
    static_client_ids: {one: [a, b], two: [c]}
routes:
  up: {from: local, to: cloud, topics: [up/#], connection: "${clientid}"}
"""


async def named(node: str, client_id: str) -> list[str]:
    settings = parse_text(Settings, NAMED.replace("node: one", f"node: {node}"))
    return await message_path(settings, Message(b"up/1", b"", 1), "local", client_id, None)


async def test_a_named_connection_that_is_there() -> None:
    lines = await named("one", "b")
    assert "  route up (up/#): to cloud as up/1 by connection b" in lines
    assert "  cloud gets up/1 with QoS 1, by connection 2 of 2" in lines
    assert lines[-1] == "  PUBACK is sent when cloud has acknowledged it"


async def test_a_named_connection_that_is_not_there() -> None:
    assert (await named("one", "x"))[3:] == [
        (
            "  route up (up/#): to cloud as up/1 by connection x; dropped, as there is no such "
            "connection"
        ),
        "result:",
        "  dropped, counted as no_such_connection: cloud has no connection with the client id 'x'",
        "  PUBACK has the code 0x83 over MQTT 5, and is not sent over MQTT 3",
    ]
    assert (await named("one", ""))[3] == (
        "  route up (up/#): to cloud as up/1 by connection ${clientid} (empty here; say "
        "--client-id); dropped, as there is no such connection"
    )


async def test_messages_of_a_node_without_client_ids_wait() -> None:
    lines = await named("three", "x")
    assert "  cloud gets up/1 with QoS 1; it waits, as this node has no client id there" in lines


async def test_the_code_is_what_the_process_answers(isthmus, far) -> None:
    """A connection that is not there: 0x83 over MQTT 5, and nothing over MQTT 3."""
    text = NAMED.replace("far.example.com", f"127.0.0.1:{far.port}")
    text += "listeners: [{bind: '127.0.0.1:0'}]\n"
    near: Isthmus = await isthmus(parse_text(Settings, text))
    new, old = await Raw.client(near.port, "x", 5), await Raw.client(near.port, "y", 4)
    for client in (new, old):
        client.publish("up/1", "p", 1)
    assert (await new.expect(PUBACK)).code == 0x83
    assert await old.arrived() == []


def test_every_subscription_that_brings_it_is_named(monkeypatch, capsys, tmp_path: Path) -> None:
    """As Mosquitto subscribes each line; what comes of both is one message."""
    path = tmp_path / "mosquitto.conf"
    path.write_text("connection far\naddress 127.0.0.1\ntopic # in 0 all/\ntopic alarm/# in 2\n")
    assert run(monkeypatch, "explain", str(path), "--topic", "alarm/1", "--from", "far") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  we are subscribed to # at far with QoS 0, and to alarm/# with QoS 2"
    assert lines[4].endswith("joined with route far-1, which leads to the same place")
