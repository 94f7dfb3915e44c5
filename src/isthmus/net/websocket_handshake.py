"""The opening handshake of MQTT over WebSocket, without I/O.

The `websockets` library reads and checks HTTP; here is what MQTT asks for: the subprotocol
(MQTT-6.0.0-3, MQTT-6.0.0-4), the path, and the origin. A handshake is bounded in size here and in
time by whoever waits for it.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from http import HTTPStatus
from ipaddress import ip_address
from typing import NamedTuple, cast
from urllib.parse import urlsplit

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from isthmus.net.peer import printable

MAX_REQUEST = 16 * 1024
"""Bytes of a request or an answer up to its empty line; browsers send a tenth of it."""

SUBPROTOCOLS = [Subprotocol("mqtt"), Subprotocol("mqttv3.1")]
"""MQTT-6.0.0-3; the second is what clients of MQTT 3.1 ask for."""

_END = b"\r\n\r\n"

# It would tell of each connection, which the listener does in its own words.
_quiet = logging.getLogger("isthmus.net.websocket.library")
_quiet.setLevel(logging.CRITICAL)


class Offer(NamedTuple):
    """What a listener accepts.

    Attributes:
        path: The path to be asked for; `*` is any.
        origins: Web sites whose pages may connect, in lower case; `*` is every site.
        loopback: Only this machine can connect. A page of a stranger could then reach us under a
            name of the stranger's that leads here, so its own address must be a numeric one.
    """

    path: str
    origins: tuple[str, ...] = ()
    loopback: bool = False


class Handshake(ABC):
    """One side of an opening handshake.

    Attributes:
        server_side: This is the side that is asked.
        reply: Bytes to send now.
        done: It is over, well or not.
        error: Why it failed, or "".
        hint: What to try after an error, or "".
        rest: What came behind it.
    """

    server_side = False

    def __init__(self) -> None:
        self.reply = b""
        self.done = False
        self.error = ""
        self.hint = ""
        self.rest = b""
        self._got = b""

    def receive(self, data: bytes) -> None:
        """Take bytes of the peer; afterwards look at the attributes."""
        self._got += data
        self.reply = b""
        if not self._plausible(self._got):
            self._fail("it does not begin with HTTP", "is it the port for WebSocket?")
            return
        head, end, rest = self._got.partition(_END)
        if end and len(head) <= MAX_REQUEST:
            self.rest = rest
            self._got = b""
            self._read(head + end)
            self.done = True
        elif len(head) > MAX_REQUEST:
            self._fail(f"the HTTP header is longer than {MAX_REQUEST} bytes")

    @abstractmethod
    def _plausible(self, got: bytes) -> bool:
        """Whether HTTP can begin so; others need not wait for the end of a header."""

    @abstractmethod
    def _read(self, head: bytes) -> None:
        """Answer the complete header."""

    def _fail(self, text: str, hint: str = "") -> None:
        self.done = True
        self._got = b""
        self.error = text
        self.hint = hint


class ServerHandshake(Handshake):
    """The listener's side."""

    server_side = True

    def __init__(self, offer: Offer) -> None:
        super().__init__()
        self._offer = offer

    def _plausible(self, got: bytes) -> bool:
        return got[:1].isupper()

    def _read(self, head: bytes) -> None:
        protocol = ServerProtocol(subprotocols=SUBPROTOCOLS, logger=_quiet)
        protocol.receive_data(head)
        events = protocol.events_received()
        if events:
            response = self._answer(protocol, cast("Request", events[0]))
            protocol.send_response(response)
            if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS and not self.error:
                self.error = _cause(protocol.handshake_exc)
        else:
            self.error = _cause(protocol.handshake_exc)
        self.reply = b"".join(protocol.data_to_send())
        protocol.parser.close()  # it and its protocol hold each other

    def _answer(self, protocol: ServerProtocol, request: Request) -> Response:
        path = request.path.partition("?")[0]
        if self._offer.path not in ("*", path):
            self.error = f"it asks for {path[:100]!r}, not for {self._offer.path}"
            text = f"MQTT is at {self._offer.path}.\n"
            return protocol.reject(HTTPStatus.NOT_FOUND, text)
        origins = request.headers.get_all("Origin")
        hosts = request.headers.get_all("Host")
        if not all(self._welcome(origin, hosts) for origin in origins):
            self.error = f"pages of {origins[0][:100]!r} may not connect; see origins"
            text = "Pages of this site may not connect: the listener's setting is 'origins'.\n"
            return protocol.reject(HTTPStatus.FORBIDDEN, text)
        return protocol.accept(request)

    def _welcome(self, origin: str, hosts: list[str]) -> bool:
        origin = origin.lower()
        allowed = self._offer.origins
        if "*" in allowed or origin in allowed:
            return True
        site = origin.partition("://")[2]
        if len(hosts) != 1 or not site or site != hosts[0].lower():
            return False
        return not self._offer.loopback or _is_numeric(site)


class ClientHandshake(Handshake):
    """The connector's side; `reply` is the request from the start."""

    def __init__(self, host: str, port: int, path: str, *, secure: bool) -> None:
        super().__init__()
        path, _, query = path.partition("?")
        uri = WebSocketURI(secure, host, port, path, query)
        self._protocol = ClientProtocol(uri, subprotocols=SUBPROTOCOLS[:1], logger=_quiet)
        self._protocol.send_request(self._protocol.connect())
        self.reply = b"".join(self._protocol.data_to_send())

    def _plausible(self, got: bytes) -> bool:
        return b"HTTP/1.".startswith(got[:7])

    def _read(self, head: bytes) -> None:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 1)
        status = words[1].strip() if len(words) > 1 else ""
        if not status.startswith("101"):
            # Its page is of no interest, so the library need not wait for it.
            hint = "is the path in 'url' right?" if status.startswith("404") else ""
            self._fail(f"the far side answers {printable(status)}", hint)
            return
        self._protocol.receive_data(head)
        self._protocol.events_received()
        self._protocol.parser.close()  # it and its protocol hold each other
        if self._protocol.handshake_exc is not None:
            self._fail(f"the far side's answer is wrong: {_cause(self._protocol.handshake_exc)}")
        elif self._protocol.subprotocol is None:
            # MQTT-6.0.0-4
            self._fail(
                "the far side does not agree to the subprotocol 'mqtt'",
                "is MQTT spoken at this path?",
            )


def _cause(error: Exception | None) -> str:
    """The innermost reason, in one line."""
    while error is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = printable(str(error)) or type(error).__name__
    return f"not proper WebSocket: {text}" if isinstance(error, InvalidHandshake) else text


def _is_numeric(site: str) -> bool:
    """Whether host and port of a site are this machine's own, and no name of somebody's."""
    try:
        host = urlsplit(f"//{site}").hostname or ""
        return host == "localhost" or bool(ip_address(host))
    except ValueError:
        return False
