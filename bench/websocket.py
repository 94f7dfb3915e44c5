"""WebSocket for the load generators: the handshake on a blocking socket, and frames by the run.

Like `wire` it shares no code with what it measures. What is sent during a measurement is masked
before it starts, with one key: the other end has the same work as with a new key for each frame.
"""

from __future__ import annotations

import base64
import hashlib
import socket

from bench import wire

KEY = bytes.fromhex("37fa213d")  # of all masked frames
BINARY, CLOSE, PING, PONG = 0x82, 0x88, 0x89, 0x8A
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_NONCE = base64.b64encode(bytes(16))


def mask(data: bytes, key: bytes = KEY) -> bytes:
    """Mask or unmask."""
    size = len(data)
    stream = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


def frame(data: bytes, *, masked: bool, first: int = BINARY) -> bytes:
    """One frame around `data`."""
    size, bit = len(data), 0x80 if masked else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 1 << 16:
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    return head + KEY + mask(data) if masked else head + data


class Frames:
    """The frames of one connection.

    Attributes:
        out: Bytes to send before anything else, in frames already.
    """

    __slots__ = ("masks", "out", "rest")

    def __init__(self, *, masks: bool) -> None:
        """`masks`: this end is the client."""
        self.masks = masks
        self.out = bytearray()
        self.rest = b""

    def seal(self, data: bytearray) -> None:
        """Move `data` into `out`, as one frame."""
        if data:
            self.out += frame(bytes(data), masked=self.masks)
            data.clear()

    def open(self, data: bytes) -> bytes:
        """The payloads of all whole frames; ConnectionError for a close frame."""
        if self.rest:
            data = self.rest + data
        found: list[bytes] = []
        pos, end = 0, len(data)
        while end - pos >= 2:
            size = data[pos + 1] & 0x7F
            head = {126: 4, 127: 10}.get(size, 2)
            if size >= 126:
                size = int.from_bytes(data[pos + 2 : pos + head], "big")
            head += 0 if self.masks else 4
            whole = head + size
            if end - pos < whole:
                break
            plain = data[pos] & 0x0F <= 2
            if plain and self.masks:
                pos += self.run(data, pos, head, whole, found)
                continue
            payload = data[pos + head : pos + whole]
            if not self.masks:
                payload = mask(payload, data[pos + head - 4 : pos + head])
            if plain:
                found.append(payload)
            else:
                self.control(data[pos], payload)
            pos += whole
        self.rest = data[pos:]
        return found[0] if len(found) == 1 else b"".join(found)

    @staticmethod
    def run(data: bytes, pos: int, head: int, whole: int, found: list[bytes]) -> int:
        """Take the payloads of a run of frames of one size; returns its bytes."""
        count, size = wire.run_length(data, pos, head, whole), whole - head
        stop = pos + count * whole
        if count < size:  # fewer frames than columns
            found += [data[at + head : at + whole] for at in range(pos, stop, whole)]
        else:
            payloads = bytearray(count * size)
            for column in range(size):
                payloads[column::size] = data[pos + head + column : stop : whole]
            found.append(bytes(payloads))
        return stop - pos

    def control(self, first: int, payload: bytes) -> None:
        if first == CLOSE:
            raise ConnectionError(f"WebSocket closed: {payload.hex()}")
        if first == PING:
            self.out += frame(payload, masked=self.masks, first=PONG)


def head_of(sock: socket.socket) -> bytes:
    """Read one HTTP head; nothing comes behind it before it is answered."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        piece = sock.recv(4096)
        if not piece:
            raise ConnectionError(f"closed in the WebSocket handshake: {data!r}")
        data += piece
    return data


def ask(sock: socket.socket) -> None:
    """The client's side of the handshake."""
    sock.sendall(
        b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n"
        b"Sec-WebSocket-Key: " + _NONCE + b"\r\n\r\n"
    )
    answer = head_of(sock)
    if b" 101 " not in answer.split(b"\r\n", 1)[0]:
        raise ConnectionError(f"no WebSocket: {answer[:100]!r}")


def answer(sock: socket.socket) -> None:
    """The server's side of the handshake."""
    lines = [line.partition(b":") for line in head_of(sock).split(b"\r\n")]
    headers = {name.strip().lower(): value.strip() for name, _, value in lines}
    accept = base64.b64encode(hashlib.sha1(headers[b"sec-websocket-key"] + _GUID).digest())
    sock.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
