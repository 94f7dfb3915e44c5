"""A web service that is asked about logins, or for keys: bounded in time and in bytes.

Blocking, for threads. The standard library does it: a handful of threads that each wait for one
answer is all that is needed, and nothing has to be installed for it. Redirects are not followed
and proxies of the environment are not used: what decides about logins is where the configuration
says. A connection is used again while the service keeps it open.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import closing
from urllib.parse import urlsplit

from isthmus import clock

MAX_IDLE = 16
"""Connections that are kept for the next question."""


class WebServiceError(Exception):
    """The service gave no answer; the text says why, and holds no secret."""


class WebService:
    """One URL.

    Args:
        url: http or https.
        context: How the certificate of an https service is verified.
        timeout_s: For the whole exchange, from the look-up of the name to the last byte.
        max_bytes: The longest answer that is read.
        headers: Sent with every request.
    """

    def __init__(
        self,
        url: str,
        *,
        context: ssl.SSLContext | None,
        timeout_s: float,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._context = context if parts.scheme == "https" else None
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._headers = dict(headers or {})
        self._idle: list[http.client.HTTPConnection] = []

    def get(self) -> bytes:
        """Return the body of a GET; see `post`."""
        return self._request("GET", None)

    def post(self, body: bytes) -> bytes:
        """Return the body of the answer to a POST of JSON.

        Raises:
            WebServiceError: There was none in time, it is too long, or its status is not 200.
        """
        return self._request("POST", body)

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    def _request(self, method: str, body: bytes | None) -> bytes:
        deadline = clock.monotonic() + self._timeout_s
        used = self._idle.pop() if self._idle else None
        if used is not None:
            try:
                return self._exchange(used, method, body)
            except (OSError, http.client.HTTPException) as error:
                closed = isinstance(error, http.client.RemoteDisconnected | ConnectionError)
                if not closed or clock.monotonic() >= deadline:
                    raise self._failure(error, deadline) from error
                # The service had closed it meanwhile.
        try:
            return self._exchange(self._open(), method, body)
        except (OSError, http.client.HTTPException) as error:
            raise self._failure(error, deadline) from error

    def _open(self) -> http.client.HTTPConnection:
        if self._context is not None:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=self._context
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, body: bytes | None
    ) -> bytes:
        # The time-out of a socket is for one read: a service that drips bytes would never end.
        watch = threading.Timer(self._timeout_s, _cut, [connection])
        watch.daemon = True
        watch.start()
        keep = False
        try:
            headers = {"Accept": "application/json", **self._headers}
            if body is not None:
                headers["Content-Type"] = "application/json"
            connection.request(method, self._path, body, headers)
            # An answer that is not read to its end would hold the socket, also of a closed one.
            with closing(connection.getresponse()) as response:
                data = response.read(self._max_bytes + 1)
                if len(data) > self._max_bytes:
                    raise WebServiceError(f"its answer is longer than {self._max_bytes} bytes")
                if response.status != http.client.OK:
                    raise WebServiceError(f"it answered with status {response.status}")
                keep = not response.will_close and len(self._idle) < MAX_IDLE
                return data
        finally:
            watch.cancel()
            if keep:
                self._idle.append(connection)
            else:
                connection.close()

    def _failure(self, error: Exception, deadline: float) -> WebServiceError:
        if isinstance(error, TimeoutError) or clock.monotonic() >= deadline:
            return WebServiceError(f"no answer within {self._timeout_s:g} s")
        if isinstance(error, ssl.SSLCertVerificationError):
            return WebServiceError(f"its certificate is not trusted: {error.verify_message}")
        if isinstance(error, OSError) and error.strerror:
            return WebServiceError(error.strerror)
        return WebServiceError(f"the connection failed ({type(error).__name__})")


def _cut(connection: http.client.HTTPConnection) -> None:
    """End whatever another thread waits for on this connection."""
    sock = connection.sock
    if sock is not None:
        try:
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:
            return
