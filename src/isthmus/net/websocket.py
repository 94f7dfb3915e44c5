"""Links that carry MQTT in WebSocket frames, over TCP or over TLS, on the same reactor.

A link becomes a WebSocket by `upgrade`, after the TLS handshake if there is one. From then on its
owner sees the payloads: all frames of a read in one call, and what it writes in a turn leaves as
one frame.

- The request or answer of the handshake and pongs go out before the frames of a flush; the close
  frame goes out as the very last thing, with `last_flush`.
- A peer that pings and does not read gets one pong when it does.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from isthmus.net.link import Link, discard
from isthmus.net.peer import CLOSED_BY_PEER
from isthmus.net.tls import TLSLink
from isthmus.net.websocket_frames import (
    NORMAL,
    PONG,
    Closing,
    FrameReader,
    control_frame,
    put_in_frames,
)

if TYPE_CHECKING:
    from isthmus.net.reactor import Reactor
    from isthmus.net.websocket_handshake import Handshake

FRAME_ROOM = 64 * 1024
"""A frame may be this much bigger than the biggest packet, as it may hold several."""


class Framing:
    """What a link keeps for WebSocket.

    Attributes:
        deliver: The owner's `on_data`, or None until it is set.
        handshake: The opening handshake, or None when it is over.
        early: Payload that came before `deliver`.
        raw: What to send ahead of the next frame, as it is.
        sealed: The close frame was sent.
    """

    __slots__ = ("deliver", "early", "handshake", "raw", "reader", "sealed")

    def __init__(self, reader: FrameReader, handshake: Handshake) -> None:
        self.reader = reader
        self.handshake: Handshake | None = handshake
        self.deliver: Callable[[bytes], None] | None = None
        self.early = b""
        self.raw: list[bytes] = []
        self.sealed = False


class _Framed(Link):
    """What WebSocket adds to a link, whatever is below; both kinds have the slot for it."""

    __slots__ = ()  # two bases with slots of their own cannot be combined

    @property
    def _framing(self) -> Framing | None:
        """The state; a slot of each kind. None before `upgrade` and after the end."""
        return None

    @_framing.setter
    def _framing(self, framing: Framing | None) -> None: ...

    def upgrade(
        self, handshake: Handshake, done: Callable[[str], None], *, max_packet_size: int
    ) -> None:
        """Begin the opening handshake; call `done("")` when it is through, or `done(reason)`.

        The handshake of a listener is a `ServerHandshake`, whose peer masks its frames. There is
        no deadline here; whoever waits aborts the link.
        """
        reader = FrameReader(max_packet_size + FRAME_ROOM, masked=handshake.server_side)
        self._framing = Framing(reader, handshake)
        self.on_close = done
        if handshake.reply:
            self._say(handshake.reply)
        self._take_bytes(self._unframe)

    def _take_bytes(self, receive: Callable[[bytes], None]) -> None:
        """Have what is below call `receive`, and read."""
        self.on_bytes = receive
        self.resume()

    # --- for the owner ---------------------------------------------------------------------------

    @property
    def on_data(self) -> Callable[[bytes], None]:
        """Called with the payloads of each read. Reading begins when this is first set."""
        framing = self._framing
        return discard if framing is None or framing.deliver is None else framing.deliver

    @on_data.setter
    def on_data(self, receive: Callable[[bytes], None]) -> None:
        framing = self._framing
        if framing is not None and not self.closed:
            first = framing.deliver is None
            framing.deliver = receive
            if first:
                self.resume()

    def resume(self) -> None:
        """Read again, beginning with what came before there was a reader."""
        super().resume()
        if self._framing is not None and self._framing.early and not self.closed:
            self.reactor.later(self)

    def keep(self, size: int | None) -> None:
        """Close a peer that has more than `size` bytes of one frame kept, and no end of it."""
        if self._framing is not None:
            self._framing.reader.kept = None if size is None else size + FRAME_ROOM

    # --- for the reactor -------------------------------------------------------------------------

    def step(self) -> None:
        """Go on with what waited for a reader."""
        super().step()
        framing = self._framing
        if framing is None or self.closed or self.paused or framing.deliver is None:
            return
        early, framing.early = framing.early, b""
        if early:
            framing.deliver(early)

    def flush(self) -> None:
        """Write everything in `out` as one frame."""
        framing = self._framing
        if framing is not None and not framing.sealed:
            self._put_in_frames(framing)
        super().flush()

    def last_flush(self) -> None:
        """Write what is left in `out`, and the close frame behind it."""
        framing = self._framing
        if framing is not None and not framing.sealed:
            self._put_in_frames(framing)
            framing.sealed = True
            if framing.handshake is None:
                end = framing.reader.end or Closing(NORMAL)
                self.out.append(end.frame(masked=not framing.reader.masked))
        super().last_flush()

    def release(self) -> None:
        """Leave the poller now and have the descriptor closed at the end of the turn."""
        super().release()
        self._framing = None

    # --- the two directions ----------------------------------------------------------------------

    def _unframe(self, data: bytes) -> None:
        """Take what is below the frames."""
        framing = self._framing
        if framing is None:
            return
        if framing.handshake is not None:
            data = self._go_on(framing, framing.handshake, data)
            if not data:
                return
        reader = framing.reader
        payloads = reader.read(data)
        if payloads:
            payload = payloads[0] if len(payloads) == 1 else b"".join(payloads)
            if framing.early:
                payload, framing.early = framing.early + payload, b""
            if framing.deliver is not None:
                framing.deliver(payload)
                if self.closed:
                    return
            else:
                framing.early = payload
                self.pause()
        if reader.ping is not None:
            self._pong(framing)
        if reader.end is not None:
            if reader.failure:
                self.close(f"WebSocket: the peer sent {reader.failure}")
            else:
                self.close(CLOSED_BY_PEER)

    def _go_on(self, framing: Framing, handshake: Handshake, data: bytes) -> bytes:
        """Go on with the handshake; return the frames behind it."""
        handshake.receive(data)
        if handshake.reply:
            self._say(handshake.reply)
        if not handshake.done:
            return b""
        if handshake.error:
            self.close(f"WebSocket: {handshake.error}")
            return b""
        framing.handshake = None
        done, self.on_close = self.on_close, None
        if done is not None:
            done("")
        if framing.deliver is None and not self.closed:
            self.pause()
        return b"" if self.closed else handshake.rest

    def _pong(self, framing: Framing) -> None:
        """Answer the last ping, once the peer reads."""
        reader = framing.reader
        payload, reader.ping = reader.ping or b"", None
        if self.blocked:
            framing.raw.clear()  # it did not read the pong before this one either
        self._say(control_frame(PONG, payload, masked=not reader.masked))

    def _say(self, data: bytes) -> None:
        assert self._framing is not None
        self._framing.raw.append(data)
        self.touch()

    def _put_in_frames(self, framing: Framing) -> None:
        out = self.out
        if out:
            put_in_frames(out, masked=not framing.reader.masked)
        if framing.raw:
            out[:0] = framing.raw
            framing.raw.clear()


class WebSocketLink(_Framed):
    """MQTT over WebSocket over TCP; see `upgrade`. `bytes_in` and `bytes_out` count frames."""

    __slots__ = ("_framing",)

    def __init__(self, reactor: Reactor, sock: socket.socket, peername: Any) -> None:
        """Take over a connected, non-blocking socket."""
        super().__init__(reactor, sock, peername)
        self._framing = None


class SecureWebSocketLink(_Framed, TLSLink):
    """MQTT over WebSocket over TLS: `handshake` first, then `upgrade`."""

    __slots__ = ("_framing",)

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        peername: Any,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
    ) -> None:
        """Take over a connected socket, as `TLSLink` does."""
        TLSLink.__init__(
            self,
            reactor,
            sock,
            peername,
            context,
            server_side=server_side,
            server_name=server_name,
        )
        self._framing = None

    def _take_bytes(self, receive: Callable[[bytes], None]) -> None:
        self._deliver = receive
        self.resume()
