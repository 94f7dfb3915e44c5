"""Hypothesis strategies for topics, filters, properties and packets, drawn from the tables."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from isthmus.mqtt import packets, properties
from isthmus.mqtt.packet_type import WILL, PacketType
from isthmus.mqtt.properties import TABLE, Properties, PropertyId, PropertyType
from isthmus.mqtt.reasons import CODES


def unfit(text: str) -> bool:
    """Whether a text holds what MQTT 5, 1.5.4, advises against: such strings are refused here."""
    return any(
        ord(char) < 0x20
        or 0x7F <= ord(char) <= 0x9F
        or 0xFDD0 <= ord(char) <= 0xFDEF
        or ord(char) & 0xFFFE == 0xFFFE
        for char in text
    )


texts = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc",)).filter(lambda char: not unfit(char)),
    max_size=12,
)
packet_ids = st.integers(1, 0xFFFF)
qos = st.integers(0, 2)

_letters = st.sampled_from(["a", "b", "$s", "", "ä", "long-level"])
names = (
    st.lists(_letters, min_size=1, max_size=5)
    .map(lambda levels: "/".join(levels).encode())
    .filter(bool)
)


@st.composite
def filters(draw: st.DrawFn, *, shared: bool = True) -> bytes:
    levels = draw(st.lists(_letters | st.just("+"), max_size=4))
    if not levels or draw(st.booleans()):
        levels.append("#")
    text = "/".join(levels) or "+"
    if shared and draw(st.integers(0, 5)) == 0:
        text = f"$share/group/{text}"
    return text.encode()


def _values(identifier: PropertyId) -> st.SearchStrategy[Any]:
    row = TABLE[identifier]
    match row.type:
        case PropertyType.STRING:
            return texts
        case PropertyType.TOPIC:
            return names
        case PropertyType.BINARY:
            return st.binary(max_size=12)
        case PropertyType.PAIR:
            return st.tuples(texts, texts)
        case PropertyType.VARINT:
            return st.sampled_from([1, 127, 128, 16_383, 16_384, 2_097_152, row.high])
        case PropertyType.BYTE:
            return st.integers(row.low, row.high)
        case _:
            return st.integers(row.low, row.high) | st.sampled_from([row.low, row.high])


@st.composite
def property_sets(draw: st.DrawFn, packet_type: int) -> Properties:
    allowed = [identifier for identifier, row in TABLE.items() if packet_type in row.packets]
    found: Properties = {}
    for identifier in draw(st.lists(st.sampled_from(allowed), unique=True, max_size=5)):
        row = TABLE[identifier]
        if row.repeatable:
            most = 3 if packet_type in row.repeatable else 1
            found[identifier] = draw(st.lists(_values(identifier), min_size=1, max_size=most))
        else:
            found[identifier] = draw(_values(identifier))
    if PropertyId.AUTHENTICATION_DATA in found:
        found.setdefault(PropertyId.AUTHENTICATION_METHOD, "m")
    return found


def for_version(version: int, packet_type: int) -> st.SearchStrategy[Properties]:
    return property_sets(packet_type) if version == 5 else st.just({})


@st.composite
def wills(draw: st.DrawFn, version: int) -> packets.Will:
    return packets.Will(
        draw(names),
        draw(st.binary(max_size=20)),
        draw(qos),
        draw(st.booleans()),
        draw(for_version(version, WILL)),
    )


@st.composite
def connects(draw: st.DrawFn, version: int) -> packets.Connect:
    client_id = draw(texts.filter(bool) if version == 3 else texts)
    username = draw(st.none() | texts)
    return packets.Connect(
        client_id,
        version,
        draw(st.booleans()) or (version == 4 and not client_id),
        draw(st.integers(0, 0xFFFF)),
        username,
        draw(st.none() | st.binary(max_size=9)) if username is not None or version == 5 else None,
        draw(st.none() | wills(version)),
        draw(for_version(version, PacketType.CONNECT)),
        draw(st.booleans()) if version < 5 else False,
    )


def _acknowledgement(record: Any, version: int) -> st.SearchStrategy[Any]:
    kind = record.packet_type
    if version < 5:
        return st.builds(record, packet_ids)
    codes = st.sampled_from(sorted(CODES[kind]))
    return st.builds(record, packet_ids, codes, property_sets(kind))


def _options(version: int, filter_: bytes) -> st.SearchStrategy[packets.SubscribeOptions]:
    if version < 5:
        return st.builds(packets.SubscribeOptions, qos)
    local = st.just(False) if filter_.startswith(b"$share/") else st.booleans()
    return st.builds(packets.SubscribeOptions, qos, local, st.booleans(), st.integers(0, 2))


@st.composite
def subscribes(draw: st.DrawFn, version: int) -> packets.Subscribe:
    wanted = draw(st.lists(filters(), min_size=1, max_size=4))
    return packets.Subscribe(
        draw(packet_ids),
        [(filter_, draw(_options(version, filter_))) for filter_ in wanted],
        draw(for_version(version, PacketType.SUBSCRIBE)),
    )


def _codes(version: int, kind: PacketType) -> st.SearchStrategy[list[int]]:
    codes = sorted(CODES[kind]) if version == 5 else [0, 1, 2, 0x80]
    return st.lists(st.sampled_from(codes), min_size=1, max_size=4)


@st.composite
def connacks(draw: st.DrawFn, version: int) -> packets.Connack:
    codes = sorted(CODES[PacketType.CONNACK]) if version == 5 else range(6)
    code = draw(st.sampled_from(codes))
    present = not code and version > 3 and draw(st.booleans())
    return packets.Connack(present, code, draw(for_version(version, PacketType.CONNACK)))


@st.composite
def publishes(draw: st.DrawFn, version: int) -> packets.Publish:
    level = draw(qos)
    props = draw(for_version(version, PacketType.PUBLISH))
    props.pop(PropertyId.TOPIC_ALIAS, None)
    props.pop(PropertyId.SUBSCRIPTION_IDENTIFIER, None)
    return packets.Publish(
        draw(names),
        draw(st.binary(max_size=200)),
        level,
        draw(st.booleans()),
        bool(level) and draw(st.booleans()),
        draw(packet_ids) if level else 0,
        properties.encode(props, PacketType.PUBLISH),
    )


def _auths(version: int) -> st.SearchStrategy[Any]:
    return property_sets(PacketType.AUTH).flatmap(
        lambda props: st.builds(
            packets.Auth,
            st.sampled_from(sorted(CODES[PacketType.AUTH])),
            st.just({PropertyId.AUTHENTICATION_METHOD: "m", **props}),
        )
    )


def from_clients(version: int) -> st.SearchStrategy[Any]:
    """Packets that a client may send once it is connected; not DISCONNECT, which ends a stream."""
    kinds = [
        publishes(version),
        subscribes(version),
        st.builds(
            packets.Unsubscribe,
            packet_ids,
            st.lists(filters(), min_size=1, max_size=4),
            for_version(version, PacketType.UNSUBSCRIBE),
        ),
        st.just(packets.Pingreq()),
        *_both_ways(version),
    ]
    return st.one_of(kinds)


def from_servers(version: int) -> st.SearchStrategy[Any]:
    """Packets that a server may send once it is connected; not DISCONNECT."""
    unsubacks = st.builds(packets.Unsuback, packet_ids)
    if version == 5:
        unsubacks = st.builds(
            packets.Unsuback,
            packet_ids,
            _codes(5, PacketType.UNSUBACK),
            property_sets(PacketType.UNSUBACK),
        )
    kinds = [
        publishes(version),
        st.builds(
            packets.Suback,
            packet_ids,
            _codes(version, PacketType.SUBACK),
            for_version(version, PacketType.SUBACK),
        ),
        unsubacks,
        st.just(packets.Pingresp()),
        *_both_ways(version),
    ]
    return st.one_of(kinds)


def _both_ways(version: int) -> list[st.SearchStrategy[Any]]:
    records = (packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp)
    found = [_acknowledgement(record, version) for record in records]
    if version == 5:
        found.append(_auths(version))
    return found


def disconnects(version: int, *, server: bool) -> st.SearchStrategy[packets.Disconnect]:
    if version < 5:
        return st.just(packets.Disconnect())
    props = property_sets(PacketType.DISCONNECT)
    if server:
        props = props.map(
            lambda found: {
                key: value
                for key, value in found.items()
                if key is not PropertyId.SESSION_EXPIRY_INTERVAL
            }
        )
    return st.builds(
        packets.Disconnect, st.sampled_from(sorted(CODES[PacketType.DISCONNECT])), props
    )
