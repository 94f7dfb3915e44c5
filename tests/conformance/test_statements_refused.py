"""Packets that a server has to refuse: what it answers, and that it closes."""

from __future__ import annotations

import pytest
from conformance_differences import DIFFERENCES, observe

from raw import (
    ack_packet,
    connect_packet,
    packet,
    properties,
    publish_packet,
    text,
)

NAME = text("MQTT")
X = text("x")


def head(version: int, flags: int, level: int | None = None, name: bytes = NAME) -> bytes:
    """The beginning of a CONNECT up to its client id `x`."""
    body = name + bytes([level or version, flags]) + b"\0\x3c"
    return body + (b"\0" if version == 5 else b"") + X


def connect(version: int, flags: int, rest: bytes = b"", **how: object) -> bytes:
    return packet(0x10, head(version, flags, **how) + rest)  # type: ignore[arg-type]


V5_WILL = b"\0" + text("t") + text("m")
V4_WILL = text("t") + text("m")

# name beginning with the clause: version, bytes, outcome
FIRST: dict[str, tuple[int, bytes, str]] = {
    "3.1.0-1 PUBLISH first": (5, publish_packet("a", "b"), "closed"),
    "3.1.0-1 PUBLISH first, 3.1.1": (4, publish_packet("a", "b", version=4), "closed"),
    "3.1.0-1 PINGREQ first": (4, packet(0xC0), "closed"),
    "3.1.2-1 another protocol name": (4, connect(4, 2, name=text("MQXX")), "closed"),
    "3.1.2-2 level 6": (5, connect(5, 2, level=6), "CONNACK 0x84"),
    "3.1.2-2 level 2, 3.1.1": (4, connect(4, 2, level=2), "CONNACK 0x01"),
    "3.1.2-3 the reserved flag": (5, connect(5, 3), "CONNACK 0x81"),
    "3.1.2-3 the reserved flag, 3.1.1": (4, connect(4, 3), "closed"),
    "3.1.2-6 a will without its fields": (5, connect(5, 6), "CONNACK 0x81"),
    "3.1.2-9 a will without its fields, 3.1.1": (4, connect(4, 6), "closed"),
    "3.1.2-9 a will without its payload": (5, connect(5, 6, b"\0" + text("t")), "CONNACK 0x81"),
    "3.1.2-7 a will QoS without a will": (5, connect(5, 0x0A), "CONNACK 0x81"),
    "3.1.2-13 a will QoS without a will, 3.1.1": (4, connect(4, 0x0A), "closed"),
    "3.1.2-6 a will of QoS 3": (5, connect(5, 0x1E, V5_WILL), "CONNACK 0x81"),
    "3.1.2-14 a will of QoS 3, 3.1.1": (4, connect(4, 0x1E, V4_WILL), "closed"),
    "3.1.2-13 will retain without a will": (5, connect(5, 0x22), "CONNACK 0x81"),
    "3.1.2-15 will retain without a will, 3.1.1": (4, connect(4, 0x22), "closed"),
    "3.1.2-12 fixed header flags": (5, packet(0x11, head(5, 2)), "closed"),
    "2.2.2-2 fixed header flags of CONNECT, 3.1.1": (4, packet(0x11, head(4, 2)), "closed"),
    "3.1.2-16 a user name without its flag": (5, connect(5, 2, text("u")), "CONNACK 0x81"),
    "3.1.2-18 a user name without its flag, 3.1.1": (4, connect(4, 2, text("u")), "closed"),
    "3.1.2-17 no user name": (5, connect(5, 0x82), "CONNACK 0x81"),
    "3.1.2-19 no user name, 3.1.1": (4, connect(4, 0x82), "closed"),
    "3.1.2-18 a password without its flag": (
        5, connect(5, 0x82, text("u") + text("p")), "CONNACK 0x81"
    ),
    "3.1.2-20 a password without its flag, 3.1.1": (
        4, connect(4, 0x82, text("u") + text("p")), "closed"
    ),
    "3.1.2-19 no password": (5, connect(5, 0xC2, text("u")), "CONNACK 0x81"),
    "3.1.2-21 no password, 3.1.1": (4, connect(4, 0xC2, text("u")), "closed"),
    "3.1.2-22 a password and no user name, 3.1.1": (4, connect(4, 0x42, text("p")), "closed"),
    "3.1.3-3 no client id": (4, packet(0x10, NAME + b"\4\2\0\x3c"), "closed"),
    "3.1.3-1 fields that are cut off": (
        5, packet(0x10, NAME + b"\5\2\0\x3c\0\0\5x"), "CONNACK 0x81"
    ),
    "1.5.4-1 a client id that is no UTF-8": (
        5, packet(0x10, NAME + b"\5\2\0\x3c\0" + text(b"\xff")), "CONNACK 0x81"
    ),
    "3.1.3-4 a client id that is no UTF-8, 3.1.1": (
        4, packet(0x10, NAME + b"\4\2\0\x3c" + text(b"\xff")), "closed"
    ),
    "1.5.3-2 U+0000 in a client id, 3.1.1": (
        4, packet(0x10, NAME + b"\4\2\0\x3c" + text("a\0b")), "closed"
    ),
    "3.1.3-11 a will topic that is no UTF-8": (
        5, connect(5, 6, b"\0" + text(b"\xff") + text("m")), "CONNACK 0x81"
    ),
    "3.1.3-10 a will topic that is no UTF-8, 3.1.1": (
        4, connect(4, 6, text(b"\xff") + text("m")), "closed"
    ),
    "3.1.3-12 a user name that is no UTF-8": (
        5, connect(5, 0x82, text(b"\xff")), "CONNACK 0x81"
    ),
    "3.1.3-11 a user name that is no UTF-8, 3.1.1": (4, connect(4, 0x82, text(b"\xff")), "closed"),
    "3.1.3-8 an empty client id with a session to keep, 3.1.1": (
        4, connect_packet("", 4, clean=False), "CONNACK 0x02"
    ),
    "3.1.4-1 a property twice": (
        5, packet(0x10, NAME + b"\5\2\0\x3c\x0a" + b"\x11\0\0\0\1" * 2 + X), "CONNACK 0x82"
    ),
    "3.1.4-1 receive maximum 0": (5, connect_packet("x", receive_maximum=0), "CONNACK 0x82"),
    "3.1.4-1 maximum packet size 0": (5, connect_packet("x", maximum_packet=0), "CONNACK 0x82"),
    "3.1.4-1 request problem information 2": (
        5, connect_packet("x", request_problem=2), "CONNACK 0x82"
    ),
    "3.1.4-1 bytes after the payload": (4, connect(4, 2, b"x"), "closed"),
    "3.15.1-1 AUTH first": (5, packet(0xF0), "closed"),
    "4.12.0-1 a method that is not known": (
        5, connect_packet("x", auth_method="of my own"), "CONNACK 0x8C"
    ),
    "2.2.2-1 CONNECT without a property length": (
        5, packet(0x10, NAME + b"\5\2\0\x3c"), "CONNACK 0x81"
    ),
}  # fmt: skip


def subscribe(*filters: bytes, options: int = 0, first: int = 0x82, props: bytes = b"\0") -> bytes:
    body = b"".join(text(filter_) + bytes([options]) for filter_ in filters)
    return packet(first, b"\0\1" + props + body)


LATER: dict[str, tuple[int, bytes, str]] = {
    "1.5.4-1 a topic that is no UTF-8": (5, publish_packet(b"\xc3\x28", "x"), "DISCONNECT 0x81"),
    "1.5.3-1 a topic that is no UTF-8, 3.1.1": (
        4, publish_packet(b"\xc3\x28", "x", version=4), "closed"
    ),
    "1.5.4-1 a surrogate": (5, publish_packet(b"\xed\xa0\x80", "x"), "DISCONNECT 0x81"),
    "1.5.3-1 a surrogate, 3.1.1": (4, publish_packet(b"\xed\xa0\x80", version=4), "closed"),
    "1.5.4-2 U+0000 in a topic": (5, publish_packet("a\0b", "x"), "DISCONNECT 0x81"),
    "1.5.3-2 U+0000 in a topic, 3.1.1": (4, publish_packet("a\0b", version=4), "closed"),
    "1.5.5-1 a length in more bytes than it needs": (
        5, b"\x30\x84\x00" + text("a") + b"\0", "DISCONNECT 0x81"
    ),
    "1.5.7-1 a user property that is no UTF-8": (
        5, publish_packet("a", "x", user=[(b"a", b"\xff")]), "DISCONNECT 0x81"
    ),
    "2.1.3-1 flags of PUBACK": (5, packet(0x41, b"\0\1"), "DISCONNECT 0x81"),
    "2.1.3-1 flags of PINGREQ": (5, packet(0xC1), "DISCONNECT 0x81"),
    "2.2.2-2 flags of PINGREQ, 3.1.1": (4, packet(0xC1), "closed"),
    "2.1.3-1 packet type 0": (5, b"\0\0", "DISCONNECT 0x81"),
    "2.2.1-3 packet identifier 0": (5, publish_packet("a", "x", 1, 0), "DISCONNECT 0x82"),
    "2.3.1-1 packet identifier 0, 3.1.1": (4, publish_packet("a", "x", 1, version=4), "closed"),
    "2.2.1-3 SUBSCRIBE with identifier 0": (
        5, packet(0x82, b"\0\0\0" + text("a") + b"\0"), "DISCONNECT 0x82"
    ),
    "2.2.2-1 PUBLISH without a property length": (5, packet(0x30, text("a")), "DISCONNECT 0x81"),
    "3.1.0-2 a second CONNECT": (5, connect_packet("x"), "DISCONNECT 0x82"),
    "3.1.0-2 a second CONNECT, 3.1.1": (4, connect_packet("x", 4), "closed"),
    "3.3.1-2 DUP with QoS 0": (5, publish_packet("a", "x", dup=True), "DISCONNECT 0x81"),
    "3.3.1-2 DUP with QoS 0, 3.1.1": (4, publish_packet("a", dup=True, version=4), "closed"),
    "3.3.1-4 QoS 3": (5, packet(0x36, text("a") + b"\0\1\0"), "DISCONNECT 0x81"),
    "3.3.1-4 QoS 3, 3.1.1": (4, packet(0x36, text("a") + b"\0\1"), "closed"),
    "3.3.2-1 no topic": (5, packet(0x30), "DISCONNECT 0x81"),
    "3.3.2-1 no topic, 3.1.1": (4, packet(0x30), "closed"),
    "3.3.2-2 + in a topic": (5, publish_packet("a/+", "x"), "DISCONNECT 0x90"),
    "3.3.2-2 # in a topic, 3.1.1": (4, publish_packet("#", "x", version=4), "closed"),
    "3.3.2-7 topic alias 0": (5, publish_packet("a", "x", alias=0), "DISCONNECT 0x94"),
    "3.3.2-9 topic alias above the maximum": (
        5, publish_packet("a", "x", alias=11), "DISCONNECT 0x94"
    ),
    "3.3.2-10 an alias that was not given": (
        5, publish_packet("", "x", alias=2), "DISCONNECT 0x82"
    ),
    "3.3.2-13 a response topic that is no UTF-8": (
        5, publish_packet("a", "x", response_topic=b"\xff"), "DISCONNECT 0x81"
    ),
    "3.3.2-14 a wildcard in a response topic": (
        5, publish_packet("a", "x", response_topic="a/#"), "DISCONNECT 0x82"
    ),
    "3.3.2-19 a content type that is no UTF-8": (
        5, publish_packet("a", "x", content_type=b"\xff"), "DISCONNECT 0x81"
    ),
    "3.3.2-1 payload format 2": (5, publish_packet("a", payload_format=2), "DISCONNECT 0x82"),
    "3.3.4-6 a subscription identifier": (
        5, publish_packet("a", "x", subscription_id=1), "DISCONNECT 0x82"
    ),
    "3.4.2-1 a code that PUBACK has not": (5, ack_packet(4, 1, 0x82), "DISCONNECT 0x82"),
    "3.5.2-1 a code that PUBREC has not": (5, ack_packet(5, 1, 0x82), "DISCONNECT 0x82"),
    "3.6.2-1 a code that PUBREL has not": (5, ack_packet(6, 1, 0x10), "DISCONNECT 0x82"),
    "3.7.2-1 a code that PUBCOMP has not": (5, ack_packet(7, 1, 0x10), "DISCONNECT 0x82"),
    "3.6.1-1 flags of PUBREL": (5, packet(0x60, b"\0\1"), "DISCONNECT 0x81"),
    "3.6.1-1 flags of PUBREL, 3.1.1": (4, packet(0x60, b"\0\1"), "closed"),
    "3.8.1-1 flags of SUBSCRIBE": (5, subscribe(b"a", first=0x80), "DISCONNECT 0x81"),
    "3.8.1-1 flags of SUBSCRIBE, 3.1.1": (4, subscribe(b"a", first=0x80, props=b""), "closed"),
    "3.8.3-1 a filter that is no UTF-8": (5, subscribe(b"\xff"), "DISCONNECT 0x81"),
    "3.8.3-1 a filter that is no UTF-8, 3.1.1": (4, subscribe(b"\xff", props=b""), "closed"),
    "3.8.3-2 SUBSCRIBE without a filter": (5, subscribe(), "DISCONNECT 0x82"),
    "3.8.3-3 SUBSCRIBE without a filter, 3.1.1": (4, subscribe(props=b""), "closed"),
    "3.8.3-4 no local on a shared subscription": (
        5, subscribe(b"$share/g/a", options=4), "DISCONNECT 0x82"
    ),
    "3.8.3-5 reserved bits of the options": (5, subscribe(b"a", options=0x40), "DISCONNECT 0x81"),
    "3-8.3-4 reserved bits of the options, 3.1.1": (
        4, subscribe(b"a", options=4, props=b""), "closed"
    ),
    "3-8.3-4 QoS 3, 3.1.1": (4, subscribe(b"a", options=3, props=b""), "closed"),
    "3.8.3-5 QoS 3": (5, subscribe(b"a", options=3), "DISCONNECT 0x82"),
    "3.8.3-5 retain handling 3": (5, subscribe(b"a", options=0x30), "DISCONNECT 0x82"),
    "4.7.1-1 # in the middle": (5, subscribe(b"a/#/b"), "DISCONNECT 0x8F"),
    "4.7.1-2 # in the middle, 3.1.1": (4, subscribe(b"a/#/b", props=b""), "closed"),
    "4.7.1-1 a#": (5, subscribe(b"a#"), "DISCONNECT 0x8F"),
    "4.7.1-2 a+": (5, subscribe(b"a+/b"), "DISCONNECT 0x8F"),
    "4.7.1-3 a+, 3.1.1": (4, subscribe(b"a+/b", props=b""), "closed"),
    "4.7.3-1 an empty filter": (5, subscribe(b""), "DISCONNECT 0x8F"),
    "4.7.3-1 an empty filter, 3.1.1": (4, subscribe(b"", props=b""), "closed"),
    "4.7.3-1 an empty topic": (5, publish_packet("", "x"), "DISCONNECT 0x82"),
    "4.7.3-1 an empty topic, 3.1.1": (4, publish_packet("", "x", version=4), "closed"),
    "4.7.3-2 U+0000 in a filter": (5, subscribe(b"a\0b"), "DISCONNECT 0x81"),
    "4.7.3-2 U+0000 in a filter, 3.1.1": (4, subscribe(b"a\0b", props=b""), "closed"),
    "4.8.2-1 a share without a filter": (5, subscribe(b"$share/g/"), "DISCONNECT 0x8F"),
    "4.8.2-2 a wildcard in a share name": (5, subscribe(b"$share/g+/a"), "DISCONNECT 0x8F"),
    "3.10.1-1 flags of UNSUBSCRIBE": (5, packet(0xA0, b"\0\1\0" + text("a")), "DISCONNECT 0x81"),
    "3.10.1-1 flags of UNSUBSCRIBE, 3.1.1": (4, packet(0xA0, b"\0\1" + text("a")), "closed"),
    "3.10.3-1 a filter to unsubscribe that is no UTF-8": (
        5, packet(0xA2, b"\0\1\0" + text(b"\xff")), "DISCONNECT 0x81"
    ),
    "3.10.3-1 a filter to unsubscribe that is no UTF-8, 3.1.1": (
        4, packet(0xA2, b"\0\1" + text(b"\xff")), "closed"
    ),
    "3.10.3-2 UNSUBSCRIBE without a filter": (5, packet(0xA2, b"\0\1\0"), "DISCONNECT 0x82"),
    "3.10.3-2 UNSUBSCRIBE without a filter, 3.1.1": (4, packet(0xA2, b"\0\1"), "closed"),
    "3.14.1-1 flags of DISCONNECT": (5, packet(0xE1), "DISCONNECT 0x81"),
    "3.14.1-1 flags of DISCONNECT, 3.1.1": (4, packet(0xE1), "closed"),
    "3.14.2-1 a code that DISCONNECT has not": (5, packet(0xE0, b"\1"), "DISCONNECT 0x82"),
    "4.13.1-1 a session expiry at DISCONNECT after 0": (
        5, packet(0xE0, b"\0" + properties(session_expiry=5)), "DISCONNECT 0x82"
    ),
    "3.15.1-1 flags of AUTH": (5, packet(0xF1), "DISCONNECT 0x81"),
    "3.15.2-1 a code that AUTH has not": (
        5, packet(0xF0, b"\1" + properties(auth_method="m")), "DISCONNECT 0x82"
    ),
    "4.12.0-7 AUTH without a method in CONNECT": (
        5, packet(0xF0, b"\x18" + properties(auth_method="m")), "DISCONNECT 0x82"
    ),
    "4.13.1-1 CONNACK to a server": (5, packet(0x20, b"\0\0\0"), "DISCONNECT 0x82"),
    "4.8.0-1 CONNACK to a server, 3.1.1": (4, packet(0x20, b"\0\0"), "closed"),
    "4.13.1-1 a property twice": (
        5, packet(0x30, text("a") + b"\4" + b"\1\0" * 2), "DISCONNECT 0x82"
    ),
    "4.13.1-1 a property that is not PUBLISH's": (
        5, publish_packet("a", "x", receive_maximum=1), "DISCONNECT 0x81"
    ),
}  # fmt: skip


def check(broker: str, question: str, ours: str, answer: str) -> None:
    """Both answer alike, or as the table of differences says."""
    if question in DIFFERENCES:
        assert DIFFERENCES[question].isthmus == ours
        observe(broker, question, answer)
    else:
        assert answer == ours


@pytest.mark.parametrize("name", FIRST)
async def test_a_first_packet_that_must_be_refused(lasting, name):
    version, data, ours = FIRST[name]
    check(lasting.name, name, ours, await lasting.outcome(await lasting.open(version), data))


@pytest.mark.parametrize("name", LATER)
async def test_a_packet_that_must_be_refused(lasting, name):
    version, data, ours = LATER[name]
    raw = await lasting.client("bad", version)
    check(lasting.name, name, ours, await lasting.outcome(raw, data))
