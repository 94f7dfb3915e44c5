"""Every property of MQTT 5 that `isthmus pub` and `sub` can set, as a far side sees it."""

from __future__ import annotations

import asyncio
import json

import pytest
from commands import isthmus_command

from raw import (
    DISCONNECT,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    SUBSCRIBE,
    ack_packet,
    grant,
    packet,
    publish_packet,
    read_properties,
)


async def test_connect_will_publish_and_disconnect_have_what_was_asked_for(far, start) -> None:
    pub = await start(
        "pub", "-p", str(far.port), "a/b", "x", "-q", "1", "-r", "-i", "me",
        "-x", "2h", "--receive-maximum", "7", "--max-packet-size", "64KiB",
        "--topic-alias-maximum", "3", "--no-problem-information",
        "--request-response-information", "-D", "connect", "user-property", "site", "7",
        "--will-topic", "gone", "--will-payload", "bye", "--will-qos", "1", "--will-retain",
        "--will-delay", "1m", "-D", "will", "content-type", "text/plain",
        "-D", "will", "message-expiry-interval", "9", "-D", "will", "user-property", "w", "1",
        "--content-type", "text/x", "--payload-format", "utf8", "--message-expiry", "10m",
        "--response-topic", "re", "--correlation", "c7", "--user-property", "k=v=w",
        "--user-property", "k=2", "-D", "publish", "topic-alias", "2",
        "-D", "disconnect", "session-expiry-interval", "60", "--disconnect-with-will",
    )  # fmt: skip
    peer, hello = await far.client(alias_maximum=5)
    assert (hello.client_id, hello.clean) == ("me", True)
    assert hello.properties == {
        "session_expiry": 7200,
        "receive_maximum": 7,
        "maximum_packet": 65536,
        "alias_maximum": 3,
        "request_problem": 0,
        "request_response": 1,
        "user": [("site", "7")],
    }
    assert hello.will == ("gone", b"bye", 1, True)
    assert hello.will_properties == {
        "will_delay": 60,
        "content_type": "text/plain",
        "expiry": 9,
        "user": [("w", "1")],
    }
    message = await peer.expect(PUBLISH)
    assert (message.topic, message.payload, message.qos, message.retain) == ("a/b", b"x", 1, True)
    assert message.properties == {
        "content_type": "text/x",
        "payload_format": 1,
        "expiry": 600,
        "response_topic": "re",
        "correlation": b"c7",
        "user": [("k", "v=w"), ("k", "2")],
        "alias": 2,
    }
    peer.send(ack_packet(PUBACK, message.packet_id))
    goodbye = await peer.expect(DISCONNECT)
    assert (goodbye.code, goodbye.properties) == (4, {"session_expiry": 60})
    assert (await pub.end())[::2] == (0, "")


async def test_subscribe_has_what_was_asked_for_and_unsubscribe_comes_first(far, start) -> None:
    sub = await start(
        "sub", "-p", str(far.port), "a/#", "-t", "$share/g/b", "-q", "2", "-C", "2", "--json",
        "-U", "old", "-D", "unsubscribe", "user-property", "u", "1", "--retain-as-published",
        "--retain-handling", "never", "--subscription-identifier", "300",
        "--user-property", "s=1",
    )  # fmt: skip
    peer, _ = await far.client()
    gone = await peer.packet()
    assert read_properties(gone.body, 2)[0] == {"user": [("u", "1")]}
    assert gone.body.endswith(b"\0\3old")
    peer.send(packet(0xB0, gone.body[:2] + b"\0\0"))
    asked = await peer.expect(SUBSCRIBE)
    found, at = read_properties(asked.body, 2)
    assert found == {"subscription_id": [300], "user": [("s", "1")]}
    assert asked.body[at:] == b"\0\x0a$share/g/b\x2a\0\3a/#\x2a"
    answer = packet(0x90, asked.body[:2] + b"\0\2\2")
    # Two in one write, the second cut: identifiers and messages must not get out of step.
    first = publish_packet("a/1", "x", 1, 5, retain=True, dup=True, subscription_id=[300, 2])
    second = publish_packet("a/2", b"\xff", 2, 6, user=("k", "v"), correlation=b"\xfe")
    peer.send(answer + first + second[:3])
    await asyncio.sleep(0.05)
    peer.send(second[3:])
    assert (await peer.expect(PUBACK)).packet_id == 5
    assert (await peer.expect(PUBREC)).packet_id == 6
    one, two = (json.loads(line) for line in (await sub.end()).out.splitlines())
    assert one.pop("timestamp").endswith("Z")
    assert one == {
        "topic": "a/1",
        "payload": "x",
        "payload_encoding": "text",
        "qos": 1,
        "retain": True,
        "dup": True,
        "properties": {"subscription_identifiers": [300, 2]},
    }
    assert (two["payload"], two["payload_encoding"]) == ("/w==", "base64")
    assert two["properties"] == {
        "user_properties": [["k", "v"]],
        "correlation_data": "/g==",
        "correlation_data_encoding": "base64",
    }


@pytest.mark.parametrize(
    ("arguments", "offer", "text"),
    [
        (("-D", "publish", "topic-alias", "9"), {"alias_maximum": 8}, "topic aliases up to 8"),
        (("-r",), {"retain_available": 0}, "does not retain"),
    ],
)
async def test_what_the_far_side_does_not_take_is_not_sent(
    far, start, arguments, offer, text
) -> None:
    pub = await start("pub", "-p", str(far.port), "a", "b", *arguments)
    peer, _ = await far.client(**offer)
    await peer.expect(DISCONNECT)
    ended = await pub.end()
    assert ended.status == 1
    assert text in ended.errors


async def test_what_needs_mqtt_5_is_not_sent_without_it(far, start) -> None:
    pub = await start("pub", "-p", str(far.port), "a", "b", "--content-type", "x")
    await far.client(code=0x84)
    ended = await pub.end()
    assert ended.status == 1
    assert "what you ask for needs MQTT 5" in ended.errors


async def test_reasons_of_refusals_are_printed(far, start) -> None:
    pub = await start("pub", "-p", str(far.port), "a", "b", "-q", "1")
    peer, _ = await far.client()
    message = await peer.expect(PUBLISH)
    reason = b"\x1f\0\x06no way"
    body = message.packet_id.to_bytes(2, "big") + b"\x99" + bytes([len(reason)]) + reason
    peer.send(packet(0x40, body))
    ended = await pub.end()
    assert ended.status == 1
    assert "0x99 the payload is not what its format says (no way)" in ended.errors


async def test_a_session_is_used_and_left(mosquitto, isthmus) -> None:
    for broker in (await mosquitto(), await isthmus()):
        port = str(broker.port)
        session = ("-p", port, "-i", "night", "-c", "-q", "2", "-t", "log/#")
        asked = await isthmus_command("sub", *session, "-E")
        assert (asked.status, asked.out, asked.errors) == (0, b"", "")
        for number in ("1", "2", "3"):
            done = await isthmus_command("pub", "-p", port, "log/a", number, "-q", number)
            assert done.status == (2 if number == "3" else 0)
        # What is not printed is not acknowledged: the second call gets the second message.
        for number in (b"1\n", b"2\n"):
            found = await isthmus_command("sub", *session, "-C", "1", "-W", "5")
            assert (found.status, found.out) == (0, number)
        cleared = await isthmus_command("sub", "-p", port, "-i", "night", "log/#", "-W", "0.5")
        assert cleared.out == b""


async def test_a_will_comes_after_its_delay_without_a_goodbye(mosquitto, start, listening) -> None:
    far = await mosquitto()
    sub = await listening(far.port, "gone", "-F", "%p %C", "-C", "1")
    will = ("--will-topic", "gone", "--will-payload", "bye", "-D", "will", "content-type", "x")
    pub = await start("pub", "-p", str(far.port), "-d", "-t", "a", "-l", *will, "-x", "60",
                      "--will-delay", "1")  # fmt: skip
    await pub.said("connected to")
    await pub.kill()
    assert (await sub.end())[:2] == (0, b"bye x\n")
    by_request = await listening(far.port, "gone", "-C", "1")
    how = ("-p", str(far.port), *will, "--disconnect-with-will")
    assert (await isthmus_command("pub", "a", "b", *how)).status == 0
    assert (await by_request.end())[:2] == (0, b"bye\n")


async def test_qos_2_of_a_session_is_printed_once_over_a_lost_connection(far, start) -> None:
    sub = await start("sub", "-p", str(far.port), "a", "-q", "2", "-i", "me", "-x", "60", "-C", "2")
    peer, hello = await far.client()
    assert hello.clean
    await grant(peer)
    peer.send(publish_packet("a", "one", 2, 9))
    await peer.expect(PUBREC)
    peer.reset()
    await sub.said("connecting again")
    peer, hello = await far.client(session_present=True)
    assert not hello.clean
    peer.send(publish_packet("a", "one", 2, 9, dup=True))
    recorded = set()
    for _ in range(2):  # in whichever order
        found = await peer.packet()
        recorded.add((found.kind, found.packet_id if found.kind == PUBREC else 0))
        if found.kind == SUBSCRIBE:
            peer.send(packet(0x90, found.body[:2] + b"\0\2"))
    assert recorded == {(PUBREC, 9), (SUBSCRIBE, 0)}
    peer.send(packet(0x62, b"\0\x09"))
    await peer.expect(PUBCOMP)
    peer.send(publish_packet("a", "two", 2, 9))
    ended = await sub.end()
    assert (ended.status, ended.out) == (0, b"one\ntwo\n")
    assert "missing" not in ended.errors
