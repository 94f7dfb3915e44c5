"""The decoder: bytes of a network connection to events, a whole buffer in one loop.

This is the hot file of the package (see `bodies` and `encoder` for all that is not hot). What it
owns: framing, the fixed header, PUBLISH, plain PUBACKs, and the order of first packet and rest.

Events, in the order of arrival:

- PUBLISH: a `PublishFields` tuple, no object, since nothing on the way needs one.
- PUBACKs of plain success (`40 02 id id`) that follow each other: one list of two-byte identifiers.
- Anything else: a record of `packets`.
- An MQTTError, always the last: what came before it is valid, what comes after it is ignored.

Invariants: memory follows the bytes received and never the length announced; first byte and length
are judged as soon as they are there; work is linear in the bytes received, however they are cut.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from struct import Struct
from typing import Final, TypeAlias

from isthmus.errors import MalformedPacket, MQTTError, ProtocolViolation
from isthmus.mqtt.aliases import InboundAliases
from isthmus.mqtt.bodies import (
    Receiver,
    UnsupportedProtocol,
    decode_body,
    decode_connect,
    read_protocol,
)
from isthmus.mqtt.packet_type import FLAGS, RECEIVED_BY, PacketType, Role, receivable
from isthmus.mqtt.packets import Packet
from isthmus.mqtt.properties import BLOCKS, PropertyId, PublishBlock
from isthmus.mqtt.topics import VALID_NAMES, check_name
from isthmus.mqtt.wire import MAX_VARINT, read_varint

PublishFields: TypeAlias = tuple[int, bytes, bytes, bytes, bytes]
"""(flags, topic, packet id, properties, payload) of a PUBLISH.

flags: low four bits of the first byte: DUP 8, QoS 6, RETAIN 1. packet id: two wire bytes, empty for
QoS 0. properties: the v5 block to pass on, without its length, topic alias and subscription
identifiers; empty below version 5.
"""

Event: TypeAlias = PublishFields | list[bytes] | Packet | MQTTError

MAX_PACKET_SIZE: Final = MAX_VARINT + 5
"""The largest packet that MQTT can express, in bytes."""

# What a first byte is to the loop. Everything legal is below _ILLEGAL.
_PUBLISH_0: Final = 0
_PUBLISH_12: Final = 1
_PUBACK: Final = 2
_OTHER: Final = 3
_ILLEGAL: Final = 4

_NO_BLOCKS: Final[dict[bytes, PublishBlock]] = {}
_LOGIN: Final = b"\x10\xf0"  # CONNECT and AUTH
_RUN: Final = 64  # PUBACKs looked at in one step of a run
_RUNS: Final = [Struct("2x2s" * count) for count in range(_RUN + 1)]


@cache
def _kinds(
    role: Role,
    version: int,
    first: PacketType | None,
    past: PacketType | None,
    auth: bool,
    max_qos: int,
    retain: bool,
) -> tuple[int, ...]:
    """The kind of each first byte.

    `first` is the packet that has to come first and did not yet, `past` the one that may not come
    again; `auth` tells whether enhanced authentication was agreed on. `max_qos` and `retain` say
    which messages we take.
    """
    kinds = [_ILLEGAL] * 256
    types = receivable(role, version)
    if first is not None:
        types &= {first, PacketType.AUTH} if role is Role.CLIENT else {first}
    if past is not None:
        types -= {past}
    if not auth:
        types -= {PacketType.AUTH}
    for kind in types:
        if kind is PacketType.PUBLISH:
            for flags in (0x0, 0x1, 0x2, 0x3, 0x4, 0x5, 0xA, 0xB, 0xC, 0xD):
                if flags >> 1 & 3 <= max_qos and (retain or not flags & 1):
                    kinds[0x30 | flags] = _PUBLISH_12 if flags & 6 else _PUBLISH_0
            continue
        legal = _PUBACK if kind is PacketType.PUBACK else _OTHER
        kinds[kind << 4 | FLAGS[kind]] = legal
        if version == 3 and FLAGS[kind]:  # MQTT 3.1 sends these again with DUP
            kinds[kind << 4 | FLAGS[kind] | 8] = legal
    return tuple(kinds)


@cache
def _receiver(role: Role, max_filters: int) -> Receiver:
    """One object for all connections that take the same."""
    return Receiver(role, max_filters)


class Decoder:
    """Decodes what the other side sends.

    Args:
        role: Ours. A server takes what clients send.
        version: 3, 4 or 5; None on a server, which learns it from CONNECT.
        max_packet_size: Of a whole packet in bytes; larger ones are an error (0x95).
        max_login_size: The same for CONNECT and AUTH, where that is less: a peer can make us keep
            this much before we know who it is.
        first_packet: The type that the first packet must have (CONNECT, CONNACK), and that may not
            come again. None decodes packets in any order.
        aliases: The topic aliases that the peer may use; None for none.
        strict_client_id: Refuse client identifiers above 23 characters in MQTT 3.1.
        auth: AUTH packets are allowed. A server learns it from CONNECT.
        max_qos: The highest QoS of messages that we take; higher ones are an error (0x9B).
        retain: Whether we take messages to retain; without, they are an error (0x9A).
        max_payload: Of a message in bytes; larger ones are an error (0x95).
        max_filters: In one SUBSCRIBE or UNSUBSCRIBE; more are an error (0x97).
    """

    __slots__ = (
        "_auth",
        "_first",
        "_kinds",
        "_limit",
        "_login_limit",
        "_max_payload",
        "_max_qos",
        "_need",
        "_partial",
        "_past",
        "_receiver",
        "_retain",
        "_role",
        "_small",
        "_strict_client_id",
        "aliases",
        "ended",
        "failed",
        "level",
        "version",
    )

    def __init__(
        self,
        role: Role,
        *,
        version: int | None = None,
        max_packet_size: int = MAX_PACKET_SIZE,
        max_login_size: int = MAX_PACKET_SIZE,
        first_packet: PacketType | None = None,
        aliases: InboundAliases | None = None,
        strict_client_id: bool = False,
        auth: bool = True,
        max_qos: int = 2,
        retain: bool = True,
        max_payload: int = MAX_PACKET_SIZE,
        max_filters: int = MAX_PACKET_SIZE,
    ) -> None:
        self.version = version
        self.aliases = aliases
        self.failed = False
        """An error was found; bytes are ignored from there on."""
        self.ended = False
        """A DISCONNECT came; bytes behind it are ignored."""
        self.level: int | None = None
        """The protocol level that a CONNECT asked for, supported or not; None: no MQTT was seen."""
        self._role = role
        self._receiver = _receiver(role, max_filters)
        self._first = first_packet
        self._past: PacketType | None = None
        self._auth = auth
        self._strict_client_id = strict_client_id
        self._max_qos = max_qos
        self._retain = retain
        self._max_payload = max_payload
        self._limit = max_packet_size
        self._login_limit = min(max_login_size, max_packet_size)
        self._small = min(127, self._login_limit - 2)
        self._partial: bytearray | None = None
        self._need = 0
        self._choose()

    def expect(self, version: int, aliases: InboundAliases | None, *, auth: bool) -> None:
        """On a client, which chooses: the version of its CONNECT, and what it allows the server."""
        self.version = version
        self.aliases = aliases
        self._auth = auth
        self._choose()

    def limit_filters(self, most: int) -> None:
        """Take another `max_filters` from here on."""
        self._receiver = _receiver(self._role, most)

    @property
    def pending_bytes(self) -> int:
        """How many bytes of an incomplete packet are held."""
        return 0 if self._partial is None else len(self._partial)

    def _choose(self) -> None:
        self._kinds = _kinds(
            self._role,
            self.version or 4,
            self._first,
            self._past,
            self._auth,
            self._max_qos,
            self._retain,
        )

    def feed(self, data: bytes) -> list[Event]:
        """Decode every packet that is complete with `data`, and keep the rest."""
        if self.failed or self.ended:
            return []
        if self._partial is not None:
            self._partial += data
            if len(self._partial) < self._need:
                return []
            data = bytes(self._partial)
            self._partial = None
        events: list[Event] = []
        try:
            self._decode(data, events)
        except MQTTError as error:
            self.failed = True
            # Its traceback holds this frame, and with it everything that was read, in a circle.
            events.append(error.with_traceback(None))
        return events

    def _decode(self, data: bytes, events: list[Event]) -> None:  # noqa: C901
        # One loop without calls for what is frequent; local names, since each costs a look-up less.
        raw = data  # a C pointer where this file is compiled
        names = VALID_NAMES
        kinds = self._kinds
        small = self._small
        max_payload = self._max_payload
        v5 = self.version == 5
        blocks = BLOCKS.young if v5 else _NO_BLOCKS
        size = len(data)
        at = 0
        last = size - 1
        while at < last:
            length = raw[at + 1]
            start = at + 2
            if length > small:
                length, start = self._length(data, at, size)
                if not start:
                    break
            end = start + length
            if end > size:
                break
            kind = kinds[raw[at]]
            if kind < _PUBACK:
                if length < 2:
                    raise MalformedPacket("PUBLISH ends before its topic")
                start += 2
                stop = start + (raw[start - 2] << 8) + raw[start - 1]
                # Compiled, a slice of `raw` is a read of memory: the bounds are checked before it.
                if stop + 2 * kind > end:
                    raise MalformedPacket("PUBLISH ends before its payload")
                topic = raw[start:stop]
                packet_id = properties = b""
                if kind:
                    packet_id = raw[stop : stop + 2]
                    stop += 2
                    if packet_id == b"\0\0":
                        raise ProtocolViolation("the packet identifier is 0", None, "MQTT-2.2.1-3")
                if v5:
                    if stop == end:
                        raise MalformedPacket("PUBLISH without properties", None, "MQTT-2.2.2-1")
                    length = raw[stop]
                    stop += 1
                    if length:
                        if length > 127:
                            length, stop = read_varint(data, stop - 1, end)
                        if stop + length > end:
                            raise MalformedPacket("the properties are longer than the packet")
                        properties = raw[stop : stop + length]
                        stop += length
                        block = blocks.get(properties)
                        if block is None:
                            block = BLOCKS.look(properties)
                        properties = block.forward
                        if block.special:
                            topic = self._special(block, topic)
                known = names.get(topic)
                if known is None:
                    self._check_topic(topic)
                else:
                    topic = known
                if end - stop > max_payload:
                    raise ProtocolViolation(f"a payload of {end - stop} bytes is too large", 0x95)
                events.append((raw[at] & 15, topic, packet_id, properties, raw[stop:end]))
                at = end
            elif kind == _PUBACK and length == 2:
                at = _pubacks(data, at, size, events)
            else:
                if kind == _ILLEGAL:
                    raise self._illegal(data[at])
                if data[at] == 0x10:
                    self._connect(data, start, end, events)
                else:
                    self._other(data[at], data, start, end, events)
                if self.ended:
                    return
                kinds = self._kinds
                v5 = self.version == 5
                at = end
        if at < size:
            self._keep(data, at)

    def _length(self, data: bytes, at: int, size: int) -> tuple[int, int]:
        """Read a remaining length that is no small one: (length, start of body).

        The start is 0 if the length is not complete yet. First byte and size are checked as soon as
        they are known, before any byte of the body is kept.
        """
        if self._kinds[data[at]] == _ILLEGAL:
            raise self._illegal(data[at])
        length = shift = 0
        for start in range(at + 1, min(at + 5, size)):
            byte = data[start]
            length |= (byte & 127) << shift
            if byte < 128:
                if not byte and shift and self.version == 5:
                    raise MalformedPacket(
                        "the remaining length is not minimal", None, "MQTT-1.5.5-1"
                    )
                limit = self._login_limit if data[at] in _LOGIN else self._limit
                if start + 1 - at + length > limit:
                    raise self._too_large(data, at, start + 1, length, limit)
                return length, start + 1
            shift += 7
        if at + 5 <= size:
            raise MalformedPacket("the remaining length has more than four bytes")
        return 0, 0

    def _too_large(self, data: bytes, at: int, start: int, length: int, limit: int) -> MQTTError:
        """Why a packet is refused by its length; of a CONNECT, the version for the answer is read.

        Its first bytes are there if they came with the length, as they do from most clients.
        """
        if data[at] == 0x10:
            with suppress(MQTTError):
                self.level = self.version = read_protocol(data, start, len(data))[0]
        size = start - at + length
        return ProtocolViolation(
            f"a packet of {size} bytes is above {limit}",
            0x95,
            limit="login_bytes" if limit < self._limit else "",
        )

    def _keep(self, data: bytes, at: int) -> None:
        """Keep the start of a packet whose end is still to come, if it may come at all."""
        size = len(data)
        length, start = self._length(data, at, size)
        self._need = start - at + length if start else size - at + 1
        self._partial = bytearray(data[at:])

    def _illegal(self, first: int) -> MQTTError:
        """Why a packet with this first byte may not come."""
        number, flags = first >> 4, first & 15
        if not number:
            return MalformedPacket("packet type 0 is reserved")
        kind = PacketType(number)
        if self._first is not None and kind is not self._first:
            text = f"{kind.name} where {self._first.name} has to come first"
            return ProtocolViolation(text, None, "MQTT-3.1.0-1")
        if kind is self._past:
            return ProtocolViolation(f"a second {kind.name}", None, "MQTT-3.1.0-2")
        version = self.version or 4
        if kind is PacketType.PUBLISH:
            if flags & 6 == 6:
                return MalformedPacket("PUBLISH with QoS 3", None, "MQTT-3.3.1-4")
            if flags >> 1 & 3 > self._max_qos:
                return ProtocolViolation(
                    f"a message above QoS {self._max_qos}", 0x9B, "MQTT-3.2.2-11"
                )
            if flags & 1 and not self._retain:
                return ProtocolViolation("a message to retain", 0x9A, "MQTT-3.2.2-14")
            return MalformedPacket("PUBLISH with DUP and QoS 0", None, "MQTT-3.3.1-2")
        if kind not in RECEIVED_BY[self._role]:
            return ProtocolViolation(f"{kind.name} from the wrong side")
        if kind not in receivable(self._role, version):
            return MalformedPacket(f"{kind.name} does not exist in this version of MQTT")
        if flags != FLAGS[kind]:
            return MalformedPacket(f"{kind.name} with flags {flags}", None, "MQTT-2.1.3-1")
        return ProtocolViolation("AUTH without an authentication method", None, "MQTT-4.12.0-7")

    def _check_topic(self, topic: bytes) -> None:
        if not topic:  # an alias would have put its topic here
            raise ProtocolViolation("PUBLISH without topic or alias", None, "MQTT-4.7.3-1")
        check_name(topic)

    def _special(self, block: PublishBlock, topic: bytes) -> bytes:
        """Settle what belongs to this connection alone; the topic that the message is for."""
        if block.subscription_ids and self._role is Role.SERVER:
            raise ProtocolViolation("subscription identifier from a client", None, "MQTT-3.3.4-6")
        if not block.alias:
            return topic
        if topic:
            check_name(topic)  # before the alias remembers it
        if self.aliases is None:
            raise ProtocolViolation("topic aliases are not allowed", 0x94, "MQTT-3.3.2-9")
        return self.aliases.resolve(block.alias, topic)

    def _connect(self, data: bytes, at: int, end: int, events: list[Event]) -> None:
        try:
            version, bridge, at = read_protocol(data, at, end)
        except UnsupportedProtocol as error:
            self.level = error.level
            raise
        self.level = self.version = version
        packet = decode_connect(
            data, at, end, version, bridge=bridge, strict_client_id=self._strict_client_id
        )
        self._auth = PropertyId.AUTHENTICATION_METHOD in packet.properties
        self._past_first(PacketType.CONNECT)
        events.append(packet)

    def _other(self, first: int, data: bytes, at: int, end: int, events: list[Event]) -> None:
        packet = decode_body(first, data, at, end, self.version or 4, self._receiver)
        kind = packet.packet_type
        if kind is self._first:
            self._past_first(kind)
        self.ended = kind is PacketType.DISCONNECT
        events.append(packet)

    def _past_first(self, kind: PacketType) -> None:
        if self._first is not None:
            self._past, self._first = kind, None
        self._choose()


def _pubacks(data: bytes, at: int, size: int, events: list[Event]) -> int:
    """Take a run of plain PUBACKs that begins at `at`; returns where it ends.

    A run is taken in steps of `_RUN`, so that a buffer in which PUBACKs and other packets alternate
    costs no more than its length.
    """
    last = events[-1] if events else None
    if type(last) is list:
        ids = last
    else:
        ids = []
        events.append(ids)
    if data[at + 4 : at + 6] != b"\x40\x02":
        count = 1
        ids.append(data[at + 2 : at + 4])
    else:
        count = min(_RUN, (size - at) // 4)
        step = data[at : at + 4 * count]
        heads = step[0::4]
        lengths = step[1::4]
        count = min(
            count - len(heads.lstrip(b"\x40")),
            count - len(lengths.lstrip(b"\x02")),
        )
        ids.extend(_RUNS[count].unpack_from(step))
    if b"\0\0" in ids[-count:]:
        del ids[len(ids) - count + ids[-count:].index(b"\0\0") :]
        if not ids:
            events.pop()
        raise ProtocolViolation("the packet identifier is 0", None, "MQTT-2.2.1-3")
    return at + 4 * count
