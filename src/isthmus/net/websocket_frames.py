"""WebSocket frames (RFC 6455, section 5), without I/O.

The handshake is done by the `websockets` library, whose protocol object costs 7 us per frame and
2 KiB per connection; this reader costs 1 us and 0.3 KiB. Unmasking is the library's C code.

MQTT packets may span frames and frames may hold several (MQTT-6.0.0-2), so payloads are handed on
as they come, frame by frame, and no message is ever put together. What a stranger may send is
bounded by the limit on one frame.
"""

from __future__ import annotations

import os
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # it was installed without its C code
    from websockets.utils import apply_mask

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

NORMAL: Final = 1000
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED_DATA: Final = 1003
NO_STATUS: Final = 1005
"""Stands for a close frame without a code; never sent."""
INVALID_DATA: Final = 1007
TOO_BIG: Final = 1009

MAX_CONTROL: Final = 125
"""Payload bytes of a control frame (RFC 6455, 5.5)."""

MAX_SENT: Final = 0xFFFF
"""Payload bytes of a frame that we send: services limit frames, some to 128 KiB."""

_FIN: Final = 0x80
_MASKED: Final = 0x80
_WHOLE: Final = _FIN | BINARY
_SHORT: Final = tuple(bytes((_WHOLE, size)) for size in range(126))


class Closing:
    """A close frame: the code and reason in it, which may be those to answer with."""

    __slots__ = ("code", "reason")

    def __init__(self, code: int, reason: str = "") -> None:
        self.code = code
        self.reason = reason

    def frame(self, *, masked: bool) -> bytes:
        """The bytes that say so."""
        if self.code == NO_STATUS:
            return control_frame(CLOSE, b"", masked=masked)
        # Cut at a whole character.
        text = self.reason.encode()[: MAX_CONTROL - 2].decode(errors="ignore").encode()
        return control_frame(CLOSE, self.code.to_bytes(2, "big") + text, masked=masked)


class FrameReader:
    """Takes frames apart.

    Attributes:
        masked: The frames that come are masked, as those of clients must be.
        limit: Largest payload of one frame, in bytes.
        kept: How much is kept of a frame whose end has not come, in bytes; None for all of it.
        ping: Payload of the last ping that was not answered yet; the earlier ones need no answer
            (RFC 6455, 5.5.3).
        end: Why nothing more is read: the peer's close frame, or `failure` in its place.
        failure: What was wrong with the peer's frames; `end` is the close frame that says so.
    """

    __slots__ = (
        "_buffer",
        "_fragmented",
        "_needed",
        "end",
        "failure",
        "kept",
        "limit",
        "masked",
        "ping",
    )

    def __init__(self, limit: int, *, masked: bool) -> None:
        self.limit = limit
        self.kept: int | None = None
        self.masked = masked
        self.ping: bytes | None = None
        self.end: Closing | None = None
        self.failure = ""
        self._fragmented = False
        self._buffer: bytearray | None = None  # an incomplete frame
        self._needed = 0

    def read(self, data: bytes) -> list[bytes]:  # noqa: C901 - a call per part would double it
        """Return the payloads in `data`, and in what waited for it. Look at `ping` and `end`."""
        if self.end is not None:
            return []
        if self._buffer is not None:
            self._buffer += data
            if len(self._buffer) < self._needed:
                if self.kept is not None and len(self._buffer) > self.kept:
                    self._fail(TOO_BIG, f"a frame of more than {self.kept} bytes before its login")
                return []
            data = bytes(self._buffer)
            self._buffer = None
        payloads: list[bytes] = []
        key_size = 4 if self.masked else 0
        # The first two bytes of a whole binary frame, all but its size.
        mask = _MASKED if self.masked else 0
        limit, at, stop = self.limit, 0, len(data)
        while True:
            have = stop - at
            if have < 2:
                needed = 2
                break
            first = data[at]
            size = (data[at + 1] ^ mask) & 0xFF
            if size > 127:
                self._fail(PROTOCOL_ERROR, "a frame of the wrong masking")
                return payloads
            plain = first == _WHOLE and not self._fragmented
            if not plain and not self._may_come(first, size):
                return payloads
            start = at + 2
            if size == 126:
                start += 2
                if have < 4:
                    needed = 4
                    break
                size = data[at + 2] << 8 | data[at + 3]
            elif size == 127:
                start += 8
                if have < 10:
                    needed = 10
                    break
                size = int.from_bytes(data[at + 2 : at + 10], "big")
            if size > limit:
                self._fail(TOO_BIG, f"a frame of {size} bytes; {limit} are allowed")
                return payloads
            start += key_size
            end = start + size
            if end > stop:
                needed = end - at
                break
            payload = data[start:end]
            if key_size:
                payload = apply_mask(payload, data[start - 4 : start])
            at = end
            if plain:
                payloads.append(payload)
            elif first & 0x08:
                if self._ends(first & 0x0F, payload):
                    return payloads
            else:
                self._fragmented = not first & _FIN
                payloads.append(payload)
        if have:
            self._buffer = bytearray(data[at:])
            self._needed = needed
        return payloads

    def _may_come(self, first: int, size: int) -> bool:
        """Whether a frame that is no whole message may come now; it has failed if not.

        `size` is what the second byte says: 126 and 127 stand for more.
        """
        kind = first & 0x0F
        if first & 0x70:
            self._fail(PROTOCOL_ERROR, "a frame with reserved bits")
        elif kind in (CLOSE, PING, PONG):
            if not first & _FIN or size > MAX_CONTROL:
                self._fail(PROTOCOL_ERROR, "a control frame that is too long or in pieces")
        elif kind == TEXT:
            # MQTT-6.0.0-1
            self._fail(UNSUPPORTED_DATA, "a text frame; MQTT is sent in binary frames")
        elif kind not in (CONTINUATION, BINARY):
            self._fail(PROTOCOL_ERROR, f"a frame of the unknown kind {kind:#x}")
        elif (kind == CONTINUATION) != self._fragmented:
            self._fail(PROTOCOL_ERROR, "a piece of a message out of place")
        return self.end is None

    def _ends(self, kind: int, payload: bytes) -> bool:
        """Take a control frame; whether it was the last."""
        if kind == PING:
            self.ping = payload
        elif kind == CLOSE:
            self._closing(payload)
        return self.end is not None

    def _closing(self, payload: bytes) -> None:
        if not payload:
            self.end = Closing(NO_STATUS)
            return
        code = int.from_bytes(payload[:2], "big")
        if len(payload) < 2 or not (
            1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code < 5000
        ):
            self._fail(PROTOCOL_ERROR, "a close frame with a code that does not exist")
            return
        try:
            self.end = Closing(code, payload[2:].decode())
        except UnicodeDecodeError:
            self._fail(INVALID_DATA, "a close frame with a reason that is no UTF-8")

    def _fail(self, code: int, text: str) -> None:
        self.failure = text
        self.end = Closing(code, text)
        self._buffer = None


def control_frame(kind: int, payload: bytes, *, masked: bool) -> bytes:
    """A frame of at most `MAX_CONTROL` bytes."""
    head = bytes((_FIN | kind, len(payload) | (_MASKED if masked else 0)))
    return head + _mask(payload) if masked else head + payload


def put_in_frames(chunks: list[bytes], *, masked: bool) -> None:
    """Replace chunks by binary frames that hold the same: one, unless that gets too big."""
    size = sum(map(len, chunks))
    if not masked and size <= MAX_SENT:
        chunks.insert(0, _head(size))  # not joined here: whoever writes them does that
        return
    data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    chunks.clear()
    for start in range(0, size, MAX_SENT):
        piece = data[start : start + MAX_SENT]
        head = _head(len(piece))
        if masked:
            chunks.append(bytes((head[0], head[1] | _MASKED)) + head[2:] + _mask(piece))
        else:
            chunks += (head, piece)


def _head(size: int) -> bytes:
    return _SHORT[size] if size < 126 else b"\x82\x7e" + size.to_bytes(2, "big")


def _mask(payload: bytes) -> bytes:
    """The masking key, and the payload masked with it."""
    key = os.urandom(4)
    return key + apply_mask(payload, key)
