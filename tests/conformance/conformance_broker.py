"""A broker under test, whichever it is, and what tests do to its clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raw import (
    CONNACK,
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    SUBACK,
    Packet,
    Raw,
    packet,
)


@dataclass
class Broker:
    """A running broker under test; `name` says which."""

    name: str
    port: int

    async def client(self, client_id: str = "", version: int = 5, **how: Any) -> Raw:
        return await Raw.client(self.port, client_id, version, **how)

    async def open(self, version: int = 5) -> Raw:
        return await Raw.open(self.port, version)

    async def outcome(self, raw: Raw, data: bytes) -> str:
        """What `data` leads to, in words: the answer's type and code, `open` or `closed`."""
        raw.send(data, packet(PINGREQ << 4))
        try:
            found = await raw.packet()
        except (EOFError, ConnectionResetError):
            return "closed"
        words = describe(found)
        if found.kind in (DISCONNECT, CONNACK) and found.code:
            # What comes after a refusal is the end (MQTT-4.13.2-1, MQTT-3.2.2-7).
            assert await raw.closed() == b""
        return words


ACKNOWLEDGEMENTS = {PUBACK: "PUBACK", PUBREC: "PUBREC", PUBREL: "PUBREL", PUBCOMP: "PUBCOMP"}


def describe(found: Packet) -> str:
    """A packet in words that a table can hold."""
    if found.kind == PINGRESP:
        return "open"
    if found.kind == DISCONNECT:
        return f"DISCONNECT 0x{found.code:02X}"
    if found.kind == CONNACK:
        return f"CONNACK 0x{found.code:02X}"
    if found.kind == SUBACK:
        return "SUBACK " + " ".join(f"0x{code:02X}" for code in found.codes)
    return f"{ACKNOWLEDGEMENTS[found.kind]} 0x{found.code:02X}"


def kept(version: int, seconds: int = 60) -> dict[str, Any]:
    """What CONNECT says to have its session kept."""
    return {"clean": False} | ({"session_expiry": seconds} if version == 5 else {})


async def leave(raw: Raw) -> None:
    """Say goodbye, and wait until the broker knows."""
    raw.send(packet(DISCONNECT << 4))
    await raw.closed()


async def drop(raw: Raw) -> None:
    """Go without goodbye, and wait until the broker knows."""
    raw.writer.write_eof()
    await raw.closed()
