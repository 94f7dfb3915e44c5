"""JSON lines, formats, files, rates: what scripts put into `isthmus pub` and read from `sub`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from commands import isthmus_command

from isthmus.cli.json_message import NoMessage, read_message
from isthmus.cli.layout import parse_format
from isthmus.clock import monotonic
from isthmus.mqtt.packets import Publish
from mosquitto import Listening, command

TEMPLATE = Publish(b"", b"", 1)


async def test_what_sub_prints_as_json_pub_publishes(mosquitto, listening) -> None:
    far = await mosquitto()
    lines = [
        {"topic": "a/1", "payload": "grüß", "qos": 1, "properties": {"content_type": "x"}},
        {"topic": "a/2", "payload": "/wA=", "payload_encoding": "base64", "qos": 2},
        {"payload": {"t": [1, 2.5, None]}, "properties": {"user_properties": {"k": "v"}}},
        {"topic": "a/4", "payload": None, "retain": True},
    ]
    stdin = "\n".join(json.dumps(line) for line in lines).encode()
    first = await listening(far.port, "a/#", "--json", "-q", "2", "-C", "4")
    into = ("pub", "-p", str(far.port), "--json")
    done = await isthmus_command(*into, "-t", "a/3", stdin=stdin)
    assert (done.status, done.errors) == (0, "")
    printed = (await first.end()).out
    second = await listening(far.port, "a/#", "--json", "-q", "2", "-C", "4")
    assert (await isthmus_command(*into, stdin=printed)).status == 0
    again = (await second.end()).out

    def content(out: bytes) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in out.splitlines()]
        for one in found:
            del one["timestamp"]
        return sorted(found, key=lambda one: one["topic"])  # QoS 2 comes later than the others

    assert content(again) == content(printed)
    assert [one["payload"] for one in content(printed)] == [
        "grüß", "/wA=", '{"t":[1,2.5,null]}', "",
    ]  # fmt: skip
    assert [one["qos"] for one in content(printed)] == [1, 2, 0, 0]
    assert content(printed)[2]["topic"] == "a/3"
    assert content(printed)[2]["properties"] == {"user_properties": [["k", "v"]]}


async def test_a_wrong_line_is_named_and_what_stands_before_it_is_published(
    mosquitto, listening
) -> None:
    far = await mosquitto()
    sub = await listening(far.port, "a", "-C", "1")
    stdin = b'{"topic": "a", "payload": "x"}\n\n{"topic": "a", "qos": 3}\n{"topic": "a"}\n'
    done = await isthmus_command("pub", "-p", str(far.port), "--json", stdin=stdin)
    assert done.status == 1
    assert "line 3 of standard input: 'qos' must be one of 0, 1, 2" in done.errors
    assert (await sub.end()).out == b"x\n"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"no", "is no JSON"),
        (b'"text"', "is no JSON object"),
        (b"{}", "has no topic, and there is no -t"),
        (b'{"topic": 1}', "'topic' must be text"),
        (b'{"topic": "a/#"}', "wildcard"),
        (b'{"topic": "\\ud800"}', "is not valid Unicode"),
        (b'{"topic": "a", "palyoad": 1}', "has the unknown key 'palyoad'"),
        (b'{"topic": "a", "retain": 1.5}', "'retain' must be one of false, true"),
        (b'{"topic": "a", "payload": "?", "payload_encoding": "base64"}', "not valid base64"),
        (b'{"topic": "a", "payload": "x", "payload_encoding": "hex"}', "text or base64"),
        (b'{"topic": "a", "properties": {"colour": 1}}', "unknown property 'colour'"),
        (b'{"topic": "a", "properties": {"content_type": 1}}', "'content_type' must be text"),
        (b'{"topic": "a", "properties": {"message_expiry_interval": "x"}}', "whole number"),
        (b'{"topic": "a", "properties": {"message_expiry_interval": -1}}', "is -1"),
        (b'{"topic": "a", "properties": {"user_properties": [["a"]]}}', "list of pairs"),
        (b'{"topic": "a", "properties": []}', "'properties' must be an object"),
    ],
)
def test_what_is_no_message(line: bytes, text: str) -> None:
    with pytest.raises(NoMessage) as caught:
        read_message(line, TEMPLATE)
    assert text in str(caught.value)


FORMATS = (
    "%t|%p|%q|%r|%l|%%|@@|%10t|%-10t|%010l|%x|%X|%C|%R|%E|%F|%P|%D",
    "\\t%p\\n\\e\\0end",
    "%5p|%-5p|%20p|%-20p|%05p|%3x|%-9x|%020X|%.2t|%-9.2t|%m",
)


@pytest.mark.parametrize("number", range(len(FORMATS)))
async def test_formats_are_those_of_mosquitto_sub(mosquitto, listening, number: int) -> None:
    far = await mosquitto()
    format_ = FORMATS[number]
    theirs = await Listening.start("-p", str(far.port), "-V", "5", "-t", "a/#", "-F", "A" + format_)
    ours = await listening(far.port, "a/#", "-F", "A" + format_, "-C", "1")
    done = await isthmus_command(
        "pub", "-p", str(far.port), "a/bcd", "payload", "--content-type", "text/x",
        "--response-topic", "re", "--message-expiry", "60", "--payload-format", "utf8",
        "--correlation", "co", "--user-property", "k=v", "--user-property", "l=w",
    )  # fmt: skip
    assert done.status == 0
    expected = [await theirs.line()]
    lines = (await ours.end()).text.removesuffix("\n").split("\n")
    expected += [await theirs.raw_line() for _ in lines[1:]]
    await theirs.stop()
    assert lines == expected


async def test_json_of_mosquitto_sub(mosquitto, listening) -> None:
    far = await mosquitto()
    theirs = await Listening.start("-p", str(far.port), "-V", "5", "-t", "a", "-q", "1", "-F", "%j")
    ours = await listening(far.port, "a", "-q", "1", "-F", "%j", "-C", "1")
    how = ("--content-type", "text/x", "--user-property", "k=v")
    assert (await isthmus_command("pub", "-p", str(far.port), "a", "x", "-q1", *how)).status == 0
    one, two = json.loads(await theirs.line()), json.loads((await ours.end()).out)
    await theirs.stop()
    assert one.pop("tst")[:15] == two.pop("tst")[:15]
    assert one == two


async def test_wrong_json_is_said_and_goes_on(mosquitto, listening) -> None:
    far = await mosquitto()
    sub = await listening(far.port, "a", "-F", "%J", "-C", "1")
    await isthmus_command("pub", "-p", str(far.port), "a", "-l", stdin=b"{\n[1]\n")
    ended = await sub.end()
    assert json.loads(ended.out)["payload"] == [1]
    assert "the payload on a is no JSON" in ended.errors


@pytest.mark.parametrize("text", ["%", "%9", "\\q", "a@", "%99999p"])
def test_what_is_no_format(text: str) -> None:
    with pytest.raises(ValueError, match="'"):
        parse_format(text)


async def test_files_stdin_and_repetitions(mosquitto, listening, tmp_path: Path) -> None:
    far = await mosquitto()
    port = str(far.port)
    (tmp_path / "file").write_bytes(b"from\na file")
    sub = await listening(far.port, "-v", "#", "-q", "1", "-C", "6")
    for arguments, stdin in (
        (("-t", "a", "-f", tmp_path / "file"), b""),
        (("-t", "b", "-s"), b"all\nof it"),
        (("-t", "c", "-m", "x", "--repeat", "4", "-q", "1"), b""),
    ):
        assert (await isthmus_command("pub", "-p", port, *arguments, stdin=stdin)).status == 0
    assert (await sub.end()).out == b"a from\na file\nb all\nof it\n" + b"c x\n" * 4


@pytest.mark.alone
@pytest.mark.parametrize("how", [("--rate", "20/s"), ("--repeat-delay", "0.05")])
async def test_a_rate_holds_messages_back(far, start, how: tuple[str, str]) -> None:
    pub = await start("pub", "-p", str(far.port), "a", "b", "--repeat", "11", *how)
    peer, _ = await far.client()
    await peer.packet()
    began = monotonic()
    for _ in range(10):
        await peer.packet()
    assert 0.4 < monotonic() - began < 1.5
    assert (await pub.end()).status == 0


async def test_retained_messages_can_be_told_apart_and_cleared(mosquitto) -> None:
    far = await mosquitto()
    port = str(far.port)
    for topic in ("s/1", "s/2", "keep/1"):
        await command("mosquitto_pub", "-p", port, "-t", topic, "-m", "old", "-r")
    fresh = await isthmus_command("sub", "-p", port, "s/#", "-R", "-W", "0.4")
    assert (fresh.status, fresh.out) == (27, b"")
    without = await isthmus_command("sub", "-p", port, "#", "-v", "-T", "s/#", "-C", "1")
    assert without.out == b"keep/1 old\n"
    cleared = await isthmus_command(
        "sub", "-p", port, "-v", "s/#", "--retained-only", "--remove-retained", "-C", "2"
    )
    assert sorted(cleared.text.splitlines()) == ["s/1 old", "s/2 old"]
    left = await isthmus_command("sub", "-p", port, "-v", "#", "-W", "0.4")
    assert left.out == b"keep/1 old\n"


@pytest.mark.parametrize("version", ["5", "311"])
async def test_own_deletions_are_not_printed(mosquitto, version: str) -> None:
    far = await mosquitto()
    port = str(far.port)
    for topic in ("s/1", "s/2"):
        await isthmus_command("pub", "-p", port, topic, "old", "-r", "-q1")
    cleared = await isthmus_command(
        "sub", "-p", port, "-V", version, "-v", "s/#", "--remove-retained", "-W", "1"
    )
    assert sorted(cleared.text.splitlines()) == ["s/1 old", "s/2 old"]
    assert "2 message(s) within" in cleared.errors


async def test_retained_only_ends_at_the_first_other(mosquitto, listening) -> None:
    far = await mosquitto()
    sub = await listening(far.port, "a", "--retained-only")
    await isthmus_command("pub", "-p", str(far.port), "a", "new")
    assert (await sub.end())[:2] == (0, b"")


async def test_a_lost_connection_ends_pub_while_it_waits_for_a_line(far, start) -> None:
    pub = await start("pub", "-p", str(far.port), "a", "-l")
    peer, _ = await far.client()
    await asyncio.sleep(0.1)
    peer.close()
    async with asyncio.timeout(5):
        assert await pub.process.wait() == 1
