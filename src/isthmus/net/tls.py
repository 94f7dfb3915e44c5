"""A link with TLS: an `ssl.SSLObject` between two memory BIOs, on the same reactor.

An SSLSocket would return one record per system call and would want to be asked again for writes;
here all records of a read are decrypted at once, and everything that is written in a turn leaves
with one call. asyncio's own TLS keeps about 278 KiB per idle connection.

- The BIOs are fed and drained in steps of one record: what they grew to once they keep.
- Handshakes are work of a millisecond. They are done in `step`, which the reactor calls within the
  budget of a turn, and not in the middle of its reading loop.
- Plaintext that nobody takes yet stays encrypted in the incoming BIO while reading is paused;
  `step` goes on with it, since no event will.
- A server makes its SSLObject when the first bytes arrive: a silent peer costs as much as with TCP.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from isthmus.net.contexts import RequestedName
from isthmus.net.link import READ_LIMIT, Link, discard
from isthmus.net.peer import CLOSED_BY_PEER
from isthmus.net.tls_failures import explain

if TYPE_CHECKING:
    from isthmus.net.reactor import Reactor

RECORD = 16 * 1024
"""Most plaintext in one TLS record (RFC 8446, 5.1)."""


class TLSLink(Link):
    """A TLS connection; the owner sees plaintext. `bytes_in` and `bytes_out` count ciphertext.

    Attributes:
        established: The handshake is done.
        error: The exception of `ssl` that ended the link, or None.
    """

    __slots__ = (
        "_context",
        "_deliver",
        "_incoming",
        "_outgoing",
        "_queued",
        "_server_name",
        "_server_side",
        "_tls",
        "error",
        "established",
    )

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
        """Take over a connected socket; `handshake` begins."""
        super().__init__(reactor, sock, peername)
        self.established = False
        self.error: Exception | None = None
        self._context = context
        self._server_side = server_side
        self._server_name = server_name
        self._deliver: Callable[[bytes], None] | None = None
        self._queued = False
        self._tls: ssl.SSLObject | None = None

    def handshake(self, done: Callable[[str], None]) -> None:
        """Begin the handshake; call `done("")` when it is through, or `done(reason)` when not.

        There is no deadline here; whoever waits aborts the link.
        """
        self.on_close = done
        self.on_bytes = self._receive
        self.resume()
        if not self._server_side:
            self._open()
            self._queue()

    # --- for the owner ---------------------------------------------------------------------------

    @property
    def on_data(self) -> Callable[[bytes], None]:
        """Called with the plaintext of each read. Reading begins when this is first set."""
        return self._deliver or discard

    @on_data.setter
    def on_data(self, receive: Callable[[bytes], None]) -> None:
        if not self.closed:
            first = self._deliver is None
            self._deliver = receive
            if first and self.established:
                self.resume()

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """The peer's verified certificate as `ssl` decodes it; None if there is none."""
        if self._tls is None or not self.established:
            return None
        certificate: dict[str, Any] | None = self._tls.getpeercert()
        return certificate or None

    @property
    def peer_certificate_der(self) -> bytes | None:
        """The peer's certificate as it was sent; None if there is none."""
        if self._tls is None or not self.established:
            return None
        return self._tls.getpeercert(binary_form=True)

    @property
    def requested_name(self) -> str | None:
        """The server name that the client asked for (SNI); on the server's side only."""
        return self._tls.requested if isinstance(self._tls, RequestedName) else None

    @property
    def alpn(self) -> str | None:
        """The application protocol that was agreed on."""
        return self._tls.selected_alpn_protocol() if self._tls is not None else None

    @property
    def version(self) -> str | None:
        """The protocol version, such as "TLSv1.3"."""
        return self._tls.version() if self._tls is not None else None

    def resume(self) -> None:
        """Read again, beginning with what was read before the pause."""
        super().resume()
        if self.established and not self.closed and self._incoming.pending:
            self._queue()

    def abort(self, reason: str) -> None:
        """Close now; what was not sent yet is dropped. The peer's last words are heard."""
        if self.established and not self.closed and not self._server_side:
            reason = self._last_words() or reason
        super().abort(reason)

    # --- for the reactor -------------------------------------------------------------------------

    def step(self) -> None:
        """Go on with the handshake, or with data that waited for a reader."""
        self._queued = False
        if self.closed:
            return
        if not self.established and not self._shake_hands():
            return
        if self._deliver is None:
            self.pause()
        elif not self.paused and self._incoming.pending:
            self._decrypt(b"")

    def flush(self) -> None:
        """Encrypt what is in `out` and write it together with what TLS itself has to say."""
        records = self._encrypt()
        if len(records) == 1:
            self._send(records[0])
        elif records:
            self._tail = records
            self.drain()

    def last_flush(self) -> None:
        """Write what is left in `out`, and close_notify, behind the tail if there is one."""
        records = self._encrypt()
        if self._tls is not None and self.established:
            # It then wants to read the peer's close_notify, which we do not wait for.
            with suppress(ssl.SSLError, OSError):
                self._tls.unwrap()
            records += self._encrypt()
        if self._tail is not None:
            self._tail += records
        elif records:
            self._tail = records
            self.drain()

    def release(self) -> None:
        """Leave the poller now and have the descriptor closed at the end of the turn."""
        super().release()
        self._deliver = None

    # --- the two directions ----------------------------------------------------------------------

    def _open(self) -> ssl.SSLObject:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = self._context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=self._server_side,
            server_hostname=self._server_name,
        )
        return self._tls

    def _queue(self) -> None:
        if not self._queued:
            self._queued = True
            self.reactor.later(self)

    def _receive(self, data: bytes) -> None:
        """Take ciphertext from the reactor."""
        if self.established:
            self._decrypt(data)
            return
        if self._tls is None:
            self._open()
        self._incoming.write(data)
        self._queue()
        if self._incoming.pending >= READ_LIMIT:
            self.pause()  # until the step: a stranger may fill this buffer and no more

    def _shake_hands(self) -> bool:
        assert self._tls is not None
        if self.paused:
            self.resume()
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self.touch()
            return False
        except (ssl.SSLError, ssl.CertificateError, OSError) as error:
            self._fail(error)
            return False
        self.established = True
        self.touch()
        done, self.on_close = self.on_close, None
        if done is not None:
            done("")
        return not self.closed

    def _decrypt(self, data: bytes) -> None:
        assert self._tls is not None
        incoming, read = self._incoming, self._tls.read
        plain: list[bytes] = []
        failure: Exception | None = None
        over = False
        for start in range(0, len(data) or 1, RECORD):
            incoming.write(data[start : start + RECORD])
            try:
                while incoming.pending:
                    chunk = read(RECORD)
                    if not chunk:
                        over = True
                        break
                    plain.append(chunk)
            except ssl.SSLWantReadError:
                pass  # the rest of a record is still on its way
            except (ssl.SSLError, OSError) as error:
                failure = error
            if over or failure is not None:
                break
        if plain and self._deliver is not None:
            self._deliver(plain[0] if len(plain) == 1 else b"".join(plain))
        if self._outgoing.pending:
            self.touch()
        if failure is not None:
            self._fail(failure)
        elif over:
            self.close(CLOSED_BY_PEER)

    def _encrypt(self) -> list[bytes]:
        """Return what is in `out` and in the outgoing BIO as chunks of about one record."""
        records: list[bytes] = []
        if self._tls is None:
            return records
        out, outgoing = self.out, self._outgoing
        if out and self.established:
            # Joining is cheap beside encryption, and a record per small chunk would be dear.
            data = memoryview(out[0] if len(out) == 1 else b"".join(out))
            out.clear()
            write, size, done = self._tls.write, len(data), 0
            while done < size:
                done += write(data[done : done + RECORD])
                if outgoing.pending > RECORD:
                    records.append(outgoing.read())
        if outgoing.pending:
            records.append(outgoing.read())
        return records

    def _last_words(self) -> str:
        """Why the peer closes, if it said so in an alert that nobody has read yet.

        With TLS 1.3 a server refuses a client after the client's side is through, and resets the
        connection as it never read what the client sent: the next write may fail before the alert
        is read.
        """
        assert self._tls is not None
        try:
            with suppress(OSError):
                self._incoming.write(self.sock.recv(RECORD))
            while self._tls.read(RECORD):
                pass
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLError, OSError) as error:
            self.error = error.with_traceback(None)
            return f"TLS: {explain(error)[0]}"
        return ""

    def _fail(self, error: Exception) -> None:
        """Close with the reason; the alert for the peer is in the outgoing BIO already."""
        # Its traceback leads back to this link: with it, what a stranger's handshake took stays in
        # memory until the collector comes.
        self.error = error.with_traceback(None)
        self.close(f"TLS: {explain(error)[0]}")
