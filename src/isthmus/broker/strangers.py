"""What a peer that does not speak MQTT probably wanted, told by its first bytes."""

from __future__ import annotations

HTTP_METHODS = (b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"CONN", b"DELE", b"PATC", b"PRI ")
"""The first four bytes of HTTP requests, HTTP/2 included."""


def hint(data: bytes) -> str:
    """A remark for the log about the first bytes of a connection; "" where there is nothing to say.

    `data` must have come on a connection that turned out not to speak MQTT.
    """
    if data[:2] == b"\x16\x03":
        return "this looks like TLS: the client needs a listener with `tls`, or a URL without"
    if data[:4] in HTTP_METHODS:
        return "this looks like HTTP: the port speaks plain MQTT, not HTTP or WebSocket"
    return ""
