"""Packets that broke other brokers: each is answered as MQTT says, and nothing else happens.

Every attack is made again and again, since most of these advisories are leaks.
"""

from __future__ import annotations

import random

import pytest
from victim import flat

from raw import (
    CONNACK,
    DISCONNECT,
    PUBACK,
    PUBLISH,
    PUBREC,
    PUBREL,
    Raw,
    ack_packet,
    connect_packet,
    packet,
    publish_packet,
    text,
    until,
)

ENDLESS = b"\xff\xff\xff\x7f"
"""The largest remaining length, 268,435,455."""

SILENT = None
"""Closed without a word."""


def connect(rest: bytes, *, name: str = "MQTT", level: int = 5, flags: int = 2) -> bytes:
    """A CONNECT with `rest` behind its keep alive."""
    return packet(0x10, text(name) + bytes([level, flags]) + b"\0\x3c" + rest)


def subscribe_of(size: int) -> bytes:
    """A SUBSCRIBE of `size` bytes in all that ends before the options byte."""
    rest = size - 5 if size < 130 else size - 6
    return packet(0x82, b"\0\1\0" + text("a" * (rest - 2)))


# -- before CONNECT ------------------------------------------------------------------------------

# What is sent first, and the reason code of the CONNACK.
FIRST: dict[str, tuple[bytes, int | None]] = {
    "CVE-2017-7651 the largest CONNECT": (b"\x10" + ENDLESS + b"x" * 4096, SILENT),
    "CVE-2023-0809 a large PUBLISH": (b"\x30" + ENDLESS + b"x" * 60_000, SILENT),
    "CVE-2023-0809 a large PUBLISH that is complete": (packet(0x30, b"\0\1a" * 10_000), SILENT),
    "hmq#177 a SUBSCRIBE without its flags": (b"\x80" + ENDLESS, SILENT),
    "CVE-2019-19307 remaining length 0": (b"\x10\0", SILENT),
    "CVE-2019-19307 remaining length 1": (b"\x10\1\0", SILENT),
    "CVE-2025-66168 five bytes of remaining length": (
        b"\x10\x80\x80\x80\x80\x01" + connect_packet("smuggled"), SILENT
    ),
    "CVE-2026-40046 five bytes that mean 14": (
        b"\x10\x8e\x80\x80\x80\0" + connect_packet("smuggled")[2:], SILENT
    ),
    "CVE-2026-21888 a property length of five bytes": (
        connect(b"\xff\xff\xff\xff\x01" + text("x")), 0x81
    ),
    "CVE-2026-21888 a property length of five bytes that is 0": (
        connect(b"\x80\x80\x80\x80\0" + text("x")), 0x81
    ),
    "nanomq#1169 an unknown property": (connect(b"\2\x7f\0" + text("x")), 0x81),
    "nanomq#1169 a property of another packet": (connect_packet("x", alias=1), 0x82),
    "nanomq#1181 a CONNECT without its payload": (connect(b"\0"), 0x81),
    "nanomq#1181 a client id longer than the packet": (connect(b"\0\xff\xffx"), 0x81),
    "nanomq#1181 a user name that is not there": (connect(b"\0" + text("x"), flags=0x82), 0x81),
    "CVE-2021-34431 authentication data without a method": (
        connect(b"\4\x16\0\1x" + text("x")), 0x82
    ),
    "CVE-2021-34431 an unknown method": (connect(b"\5\x15\0\2XX" + text("x")), 0x8C),
    "CVE-2021-34431 receive maximum 0": (connect_packet("x", receive_maximum=0), 0x82),
    "CVE-2017-7654 a password that is cut off": (
        connect(b"\0" + text("x") + text("u") + b"\0\x40p", flags=0xC2), 0x81
    ),
    "CVE-2017-7653 a client id that is no UTF-8": (connect(b"\0" + text(b"\xff\xfe")), 0x81),
    "CVE-2017-7653 a user name that is a surrogate": (
        connect(b"\0" + text("x") + text(b"\xed\xa0\x80"), flags=0x82), 0x81
    ),
    "CVE-2017-7653 a will topic that is no UTF-8": (
        connect(b"\0" + text("x") + b"\0" + text(b"\xc3\x28") + text("m"), flags=6), 0x81
    ),
    "CVE-2023-3592 a will property that wills have not": (
        connect(b"\0" + text("x") + b"\3\x21\0\1" + text("t") + text("m"), flags=6), 0x81
    ),
    "CVE-2023-3592 a will delay twice": (
        connect(b"\0" + text("x") + b"\x0a" + b"\x18\0\0\0\1" * 2 + text("t") + text("m"), flags=6),
        0x82,
    ),
    "CVE-2023-3592 will properties longer than the packet": (
        connect(b"\0" + text("x") + b"\x7f" + text("t") + text("m"), flags=6), 0x81
    ),
    "CVE-2023-3592 a response topic with a wildcard in a will": (
        connect(b"\0" + text("x") + b"\4\x08\0\1#" + text("t") + text("m"), flags=6), 0x82
    ),
    "CVE-2016-10523 a will of QoS 3": (
        connect(b"\0" + text("x") + b"\0" + text("t") + text("m"), flags=0x1E), 0x81
    ),
    "mqtt-packet#83 MQIsdp with level 5": (connect(b"\0" + text("x"), name="MQIsdp"), 0x01),
    "mqtt-packet#83 MQTT with level 3": (connect(text("x"), level=3), 0x01),
    "mqtt-packet#83 MQIsdp with level 4": (connect(text("x"), name="MQIsdp", level=4), 0x01),
    "mqtt-packet#157 mqtt in small letters": (connect(text("x"), name="mqtt", level=4), SILENT),
    "mqtt-packet#157 an empty name": (connect(text("x"), name="", level=4), SILENT),
    "mqtt-packet#157 level 0": (connect(text("x"), level=0), 0x01),
    "mqtt-packet#157 level 255": (connect(text("x"), level=255), 0x84),
    "mosquitto#2325 packet type 0": (b"\0\0", SILENT),
    "mosquitto#2325 packet type 15": (b"\xf0\0", SILENT),
    "CVE-2021-28166 CONNACK": (b"\x20\2\0\0", SILENT),
    **{
        f"sol#15 an acknowledgement of type {kind} before CONNECT": (
            packet(kind << 4 | (2 if kind == 6 else 0), b"\0\1"), SILENT
        )
        for kind in (4, 5, 6, 7, 9, 11)
    },
}  # fmt: skip


@pytest.mark.parametrize("what", FIRST)
async def test_before_connect(victim, what):
    data, code = FIRST[what]

    async def attack() -> None:
        raw = await Raw.open(victim.port)
        raw.send(data)
        answer = await raw.closed()
        if code is SILENT:
            # Who did not get as far as a protocol name may be told why in the words of MQTT 5.
            assert not answer or (answer[0] == 0x20 and answer[3] in (0x81, 0x82, 0x84))
        else:
            assert answer[0] == 0x20
            assert answer[3] == code or {answer[3], code} == {0x81, 0x82}
        raw.close()

    await flat(victim, attack)


@pytest.mark.parametrize("version", [5, 4])
async def test_nanomq_1181_a_connect_that_is_cut_anywhere(victim, version):
    """nanomq#1181, CVE-2017-7654, amqtt#359: every prefix, with a length that says it is whole."""
    whole = connect_packet(
        "cut", version, username="u", password="p", will=("t", "m", 1, True),
        **({"session_expiry": 5, "user": [("a", "b")]} if version == 5 else {}),
    )[2:]  # fmt: skip
    for size in range(len(whole)):
        raw = await Raw.open(victim.port, version)
        raw.send(packet(0x10, whole[:size]))
        answer = await raw.closed()
        assert not answer or (answer[0] == 0x20 and answer[3])
        raw.close()


@pytest.mark.parametrize("version", [5, 4])
async def test_amqtt_359_random_bytes(victim, version):
    """amqtt#359, CVE-2024-50948: nothing is known of what was sent, so everything is."""
    found = random.Random(version)
    kinds = [0x10, 0x30, 0x32, 0x34, 0x3D, 0x40, 0x50, 0x62, 0x82, 0xA2, 0xC0, 0xE0, 0xF0]
    for _ in range(150):
        data = connect_packet("random", version) if found.random() < 0.7 else b""
        for _ in range(found.randrange(1, 4)):
            data += packet(found.choice(kinds), found.randbytes(found.randrange(40)))
        raw = await Raw.open(victim.port, version)
        raw.send(data + b"\0\0")  # what ends it, if nothing did
        await raw.closed()
        raw.close()


# -- in an open session --------------------------------------------------------------------------

# What is sent in both versions (None: not in 3.1.1), and the reason code of the DISCONNECT.
LATER: dict[str, tuple[bytes, bytes | None, int]] = {
    "CVE-2025-66168 a packet behind a length of five bytes": (
        b"\x30\x80\x80\x80\x80\x01" + publish_packet("good/5", "smuggled"),
        b"\x30\x80\x80\x80\x80\x01" + publish_packet("good/5", "smuggled", version=4),
        0x81,
    ),
    "CVE-2026-21888 a property length of five bytes": (
        packet(0x30, text("a") + b"\xff\xff\xff\xff\x01x"), None, 0x81
    ),
    "CVE-2026-21888 a property length of five bytes in SUBSCRIBE": (
        packet(0x82, b"\0\1\x80\x80\x80\x80\0" + text("a") + b"\0"), None, 0x81
    ),
    "CVE-2019-19307 a length that is not minimal": (b"\xc0\x80\0", None, 0x81),
    "CVE-2019-19307 a length that wraps to a small one": (
        b"\x30\x84\x80\x80\x80\x02" + text("a"), b"\x30\x84\x80\x80\x80\x02" + text("a"), 0x81
    ),
    "nanomq#1169 properties longer than the packet": (
        packet(0x30, text("a") + b"\x7f"), None, 0x81
    ),
    "nanomq#1169 a user property that is cut off": (
        packet(0x30, text("a") + b"\4\x26\0\1a"), None, 0x81
    ),
    "nanomq#2268 a SUBSCRIBE that ends before the options": (
        packet(0x82, b"\0\1\0" + text("a")), packet(0x82, b"\0\1" + text("a")), 0x81
    ),
    "nanomq#2268 the same with exactly 1024 bytes": (subscribe_of(1024), subscribe_of(1024), 0x81),
    "mochi#501 a SUBSCRIBE that ends inside the filter": (
        packet(0x82, b"\0\1\0\0\x10a"), packet(0x82, b"\0\1\0\x10a"), 0x81
    ),
    "mochi#501 a SUBSCRIBE without a filter": (
        packet(0x82, b"\0\1\0"), packet(0x82, b"\0\1"), 0x82
    ),
    "nanomq#2270 QoS 1 without a packet id": (
        packet(0x32, text("a")), packet(0x32, text("a")), 0x81
    ),
    "nanomq#2270 QoS 2 with half a packet id": (
        packet(0x34, text("a") + b"\1"), packet(0x34, text("a") + b"\1"), 0x81
    ),
    "nanomq#2270 QoS 1 with packet id 0": (
        packet(0x32, text("a") + b"\0\0\0"), packet(0x32, text("a") + b"\0\0"), 0x82
    ),
    "CVE-2021-34432 an empty topic": (
        publish_packet("", "x"), publish_packet("", "x", version=4), 0x82
    ),
    "CVE-2021-34432 an empty topic with QoS 2": (
        publish_packet("", "x", 2, 1), publish_packet("", "x", 2, 1, version=4), 0x82
    ),
    "CVE-2021-28166 CONNACK": (packet(0x20, b"\0\0\0"), packet(0x20, b"\0\0"), 0x82),
    "CVE-2021-28166 SUBACK": (packet(0x90, b"\0\1\0\0"), packet(0x90, b"\0\1\0"), 0x82),
    "CVE-2017-7653 a topic that is no UTF-8": (
        publish_packet(b"\xc3\x28", "x"), publish_packet(b"\xc3\x28", "x", version=4), 0x81
    ),
    "CVE-2017-7653 a filter with U+0000": (
        packet(0x82, b"\0\1\0" + text(b"a\0b") + b"\0"),
        packet(0x82, b"\0\1" + text(b"a\0b") + b"\0"),
        0x81,
    ),
    "CVE-2017-7655 UNSUBSCRIBE without a filter": (
        packet(0xA2, b"\0\1\0"), packet(0xA2, b"\0\1"), 0x82
    ),
    "mosquitto#2325 packet type 0": (b"\0\0", b"\0\0", 0x81),
    "mosquitto#2325 AUTH, which MQTT 3 has not": (packet(0xF0), packet(0xF0), 0x82),
    "sol#17 CONNECT again": (connect_packet("x"), connect_packet("x", 4), 0x82),
    "CVE-2024-8376 no local on a shared subscription": (
        packet(0x82, b"\0\1\0" + text("$share/g/a") + b"\4"), None, 0x82
    ),
    "CVE-2024-8376 a share name with a wildcard": (
        packet(0x82, b"\0\1\0" + text("$share/+/a") + b"\0"),
        packet(0x82, b"\0\1" + text("$share/+/a") + b"\0"),
        0x8F,
    ),
    "EMQX#12344 a payload of 90 MB": (b"\x30\x80\x89\xf5\x2a", b"\x30\x80\x89\xf5\x2a", 0x95),
}  # fmt: skip


@pytest.mark.parametrize("version", [5, 4])
@pytest.mark.parametrize("what", LATER)
async def test_in_an_open_session(victim, what, version):
    v5, v4, code = LATER[what]
    data = v5 if version == 5 else v4
    if data is None:
        data, code = b"\0\0", 0x81  # without properties there is nothing to get wrong

    async def attack() -> None:
        raw = await Raw.client(victim.port, "bad", version)
        raw.send(data)
        if version == 5:
            goodbye = await raw.expect(DISCONNECT)
            assert goodbye.code == code or {goodbye.code, code} == {0x81, 0x82}
        assert await raw.closed() == b""  # MQTT-4.8.0-1 of 3.1.1: closed, without a word
        raw.close()

    await flat(victim, attack)


@pytest.mark.parametrize("version", [5, 4])
async def test_cve_2018_12543_topics_that_begin_with_dollar(victim, version):
    """CVE-2018-12543, CVE-2017-7655: $ topics are topics, those of the broker are its own."""
    raw = await Raw.client(victim.port, "dollar", version)
    for topic in ("$", "$a", "$SYSTEM/x", "$/", "$share", "$aws/things/x"):
        assert await raw.published(topic, "x", 1) in (0, 0x10)
    for topic in ("$SYS/broker/version", "$SYS/", "$SYS/x"):
        code = await raw.published(topic, "forged", 1, retain=True)
        assert code == (0x87 if version == 5 else 0)  # MQTT-3.3.5-2 of 3.1.1: a positive answer
    assert await raw.subscribe("$SYS/#") == [0]
    assert all(found.payload != b"forged" for found in await raw.arrived())


@pytest.mark.parametrize("version", [5, 4])
async def test_tinymqtt_16_everything_behind_connect(victim, version):
    """tinyMQTT#16: a client need not wait for its CONNACK (MQTT-3.1.4-5)."""
    raw = await Raw.open(victim.port, version)
    properties_ = b"\0" if version == 5 else b""
    raw.send(
        connect_packet("pipe", version),
        packet(0x82, b"\0\1" + properties_ + text("pipe") + b"\0"),
        publish_packet("pipe", "x", 1, 2, version=version),
    )
    kinds = [(await raw.packet()).kind for _ in range(4)]
    assert kinds[:2] == [CONNACK, 9]
    assert set(kinds[2:]) == {PUBACK, PUBLISH}


@pytest.mark.parametrize("version", [5, 4])
async def test_sol_17_a_client_id_twice(victim, version):
    """sol#17: the older connection is closed (MQTT-3.1.4-3), and there is one client."""
    first = await Raw.client(victim.port, "twice", version)
    await first.subscribe("twice")
    second = await Raw.client(victim.port, "twice", version)
    if version == 5:
        assert (await first.expect(DISCONNECT)).code == 0x8E
    assert await first.closed() == b""
    await second.subscribe("twice")
    second.publish("twice", "x")
    assert (await second.message()).payload == b"x"
    await second.nothing()


async def test_cve_2019_11778_a_will_delay_above_the_session_expiry(victim):
    """CVE-2019-11778: the will comes with the end of the session (MQTT-3.1.3-9), once."""
    watching = await Raw.client(victim.port, "watching")
    await watching.subscribe("will")
    for expiry in (0, 1):
        raw = await Raw.client(
            victim.port,
            "willing",
            session_expiry=expiry,
            will=("will", str(expiry), 0, False),
            will_properties={"will_delay": 0xFFFFFFFF},
        )
        raw.reset()
        assert (await watching.message()).payload == str(expiry).encode()
    await watching.nothing()


@pytest.mark.parametrize("version", [5, 4])
async def test_cve_2019_11779_65535_slashes(victim, version):
    """CVE-2019-11779: topic, filter and will of 65,535 levels; refused, and no stack is used up."""
    deep = b"/" * 65_535
    raw = await Raw.client(victim.port, "deep", version)
    properties_ = b"\0" if version == 5 else b""
    for _ in range(20):
        raw.send(publish_packet(deep, "", 1, 9, version=version))
        assert (await raw.expect(PUBACK)).code == (0x90 if version == 5 else 0)
        raw.send(packet(0x82, b"\0\1" + properties_ + text(deep) + b"\1"))
        assert (await raw.expect(9)).codes == [0x8F if version == 5 else 0x80]
        raw.send(packet(0xA2, b"\0\1" + properties_ + text(deep)))
        assert (await raw.expect(11)).codes == ([0x11] if version == 5 else [])
    will = await Raw.open(victim.port, version)
    will.send(connect_packet("w", version, will=(deep.decode(), b"", 0, False)))
    if version == 5:
        assert (await will.expect(CONNACK)).code == 0x90
    assert await will.closed() == b""  # 3.1.1 has no return code for it


@pytest.mark.parametrize("version", [5, 4])
async def test_cve_2023_28366_a_qos_2_id_that_is_never_released(victim, version):
    """CVE-2023-28366: the same id is one message (MQTT-4.3.3-10); others are counted."""
    watching = await Raw.client(victim.port, "watching", session_expiry=0)
    await watching.subscribe("twice", qos=0)
    raw = await Raw.client(victim.port, "repeating", version)
    one = publish_packet("twice", "x" * 1000, 2, 7, dup=True, version=version)

    async def attack() -> None:
        raw.send(one * 100)
        for _ in range(100):
            assert (await raw.expect(PUBREC)).packet_id == 7

    await flat(victim, attack)
    assert len(await watching.arrived()) == 1
    # 1,000 is the receive maximum. MQTT 3 knows none, so it gets ten times as many.
    allowed = 1000 if version == 5 else 10_000
    for start in range(1, allowed + 1000, 500):
        raw.send(
            b"".join(
                publish_packet("other", "", 2, number, version=version)
                for number in range(start, start + 500)
            )
        )
    answers = await raw.closed()
    assert answers[:4000].count(b"\x50\x02") >= 999
    if version == 5:
        assert answers[4000] == 0xE0
        assert answers[4002] == 0x93


@pytest.mark.parametrize("version", [5, 4])
async def test_cve_2024_8376_shared_and_plain_are_two_subscriptions(victim, version):
    """CVE-2024-8376: what one unsubscribes says nothing about the other."""
    raw = await Raw.client(victim.port, "mixed", version)
    assert await raw.subscribe("mixed") == [0]
    for _ in range(50):
        await raw.unsubscribe("$share/g/mixed")
        await raw.subscribe("$share/g/mixed")
        await raw.unsubscribe("$share/other/mixed")
        await raw.unsubscribe("$share/g/mixed", "$share/g/mixed")
    raw.publish("mixed", "x")
    assert [found.payload for found in await raw.arrived()] == [b"x"]
    assert await raw.unsubscribe("mixed") == ([0] if version == 5 else [])
    assert await raw.subscribe("mixed", "mixed") == [0, 0]
    raw.publish("mixed", "y")
    assert [found.payload for found in await raw.arrived()] == [b"y"]


@pytest.mark.parametrize("version", [5, 4])
async def test_cve_2024_8376_groups_that_come_and_go(victim, version):
    """CVE-2024-8376: members that leave with messages on their way, by every way of leaving."""
    boss = await Raw.client(victim.port, "boss")

    async def attack() -> None:
        raws = [await Raw.client(victim.port, f"m{n}", version) for n in range(3)]
        for raw in raws:
            assert await raw.subscribe("$share/g/come/#", "come/#", "$share/h/come/+", qos=2)
        boss.send(*(publish_packet("come/x", b"x" * 500, 2, n) for n in range(1, 9)))
        for _ in range(8):
            assert (await boss.packet()).code == 0
        boss.send(*(ack_packet(PUBREL, n) for n in range(1, 9)))
        await boss.arrived()
        await raws[0].arrived()
        await raws[0].unsubscribe("$share/g/come/#", "$share/g/come", "$share/h/come/+")
        raws[0].send(packet(0xE0))
        raws[1].reset()
        again = await Raw.client(victim.port, "m2", version)  # takes the place of the third
        for raw in (raws[0], again):
            raw.close()

    await flat(victim, attack, times=30)
    watching = await Raw.client(victim.port, "watching")
    await watching.subscribe("come/#", "$share/g/come/#")
    boss.publish("come/x", "last")
    found = await watching.arrived()
    assert [one.payload for one in found] == [b"last"] * 2


async def test_cve_2021_34431_connects_that_end_at_every_step_leave_nothing(victim):
    """CVE-2021-34431, CVE-2017-7654, CVE-2023-3592: refused late, with everything already read."""
    will = {"will": ("will/#", b"m" * 20_000, 0, False)}
    more = {"user": [("key", "v" * 1000)] * 20}

    async def attack() -> None:
        raw = await Raw.open(victim.port)
        raw.send(connect_packet("x" * 500, will_properties=more, **will, **more))
        assert (await raw.expect(CONNACK)).code == 0x90
        await raw.closed()
        raw.close()

    await flat(victim, attack)


async def test_cve_2024_48080_crafted_topics(victim):
    """CVE-2024-48080, CVE-2024-42644: names that a tree or a table might stumble over."""
    watching = await Raw.client(victim.port, "watching")
    await watching.subscribe("#", qos=0)
    raw = await Raw.client(victim.port, "crafted")
    names = ["/", "//", "a//b", " ", "__proto__", "constructor/prototype", "%s%n", "..", "../..",
             "\ufeff", "a\u0301", "\U0001f600", "a" * 65_000, "'; drop table x --"]  # fmt: skip
    for name in names:
        assert await raw.published(name, "x", 1, retain=True) == 0
        assert (await watching.message()).topic == name
        assert await raw.published(name, "", 1, retain=True) == 0
        await watching.message()


async def test_the_log_cannot_be_forged(victim):
    """Section 4, log injection: what a stranger sends comes out as escapes, or not at all."""
    forged = "2026-01-01T00:00:00.000Z INFO broker: forged"
    for ending in ("\r\n", "\n", "\x1b[2J", "\x85"):
        raw = await Raw.open(victim.port)
        raw.send(connect_packet(f"evil{ending}{forged}"))
        assert (await raw.expect(CONNACK)).code == 0x81  # MQTT 5, 1.5.4: it may be refused
        await raw.closed()
    for ending in ("\u2028", "\u202e"):
        raw = await Raw.client(victim.port, f"evil{ending}{forged}")
        raw.send(publish_packet(f"$SYS/{ending}{forged}", "x", 1, 1), b"\0\0")
        await raw.closed()
    raw = await Raw.open(victim.port)
    raw.send(connect(text("x"), name=f"MQTT\n{forged}"))
    await raw.closed()
    await until(lambda: "forged" in victim.log)
    assert not set("\x1b\r\x85\u2028\u202e") & set(victim.log)
    assert not any(line.startswith("2026-01-01T00:00:00") for line in victim.log.splitlines())
