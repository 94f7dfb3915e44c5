"""The one exception tree.

IsthmusError
├── ConfigError                 the configuration is wrong; nothing was started
│   └── ListenError             an address cannot be listened on now, such as a port in use
├── MQTTError                   carries the reason code to answer with
│   ├── MalformedPacket         the peer sent bytes that are no packet (0x81)
│   ├── ProtocolViolation       the peer sent a packet that the specification forbids here
│   └── LocalProtocolError      we were about to send something illegal: a fault of the caller
├── StoreError                  what is in the data folder cannot be used
├── ConnectError                a connection to a far service could not be made: which step, why
└── LinkClosed                  a connection ended; `reason` says why

Classes differ by what the caller can do about them: mend the file, answer and close, fix the code,
try again later.
"""

from __future__ import annotations

from typing import Self


class IsthmusError(Exception):
    """Base of every error that Isthmus raises on purpose."""


class ConfigError(IsthmusError):
    """The configuration cannot be used.

    `problems` holds one text per problem, each with file, line and path where they are known.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def said(self, *problems: str) -> Self:
        """The same error in other words, such as with file and line in front."""
        return type(self)(*problems)


class ListenError(ConfigError):
    """The configuration may be right, but this machine does not give us an address in it.

    `errno` is what the system said, None where it was not asked.
    """

    def __init__(self, *problems: str, errno: int | None = None) -> None:
        super().__init__(*problems)
        self.errno = errno

    def said(self, *problems: str) -> Self:
        """The same error in other words; see `ConfigError.said`."""
        return type(self)(*problems, errno=self.errno)


class MQTTError(IsthmusError):
    """An MQTT error with the answer to send.

    `reason` is the MQTT 5 reason code for CONNACK, DISCONNECT or an acknowledgement. Peers with an
    older version get its CONNACK return code before the session is open, and a closed connection
    after. `clause` is the normative statement that was broken, such as `MQTT-3.3.1-4`, or "".
    `limit` is the name of a limit of ours that was exceeded, as the settings have it, or "".
    """

    reason = 0x80

    def __init__(
        self, text: str, reason: int | None = None, clause: str = "", *, limit: str = ""
    ) -> None:
        super().__init__(f"{text} [{clause}]" if clause else text)
        self.clause = clause
        self.limit = limit
        if reason is not None:
            self.reason = reason


class MalformedPacket(MQTTError):
    """The peer's bytes cannot be decoded as the packet that they claim to be."""

    reason = 0x81


class ProtocolViolation(MQTTError):
    """The peer's packet is well formed and not allowed here, by the specification or a limit."""

    reason = 0x82


class LocalProtocolError(MQTTError):
    """This side was asked to send what the specification or the peer forbids."""

    reason = 0x82


class StoreError(IsthmusError):
    """The store cannot be used: the text says which file, why, and what to do."""


class ConnectError(IsthmusError):
    """A connection to a far service could not be made.

    `step` is one of "name", "tcp", "unix", "proxy", "tls", "websocket", "connack", "timeout";
    `hint` says what to try.
    """

    def __init__(self, step: str, text: str, *, hint: str = "", reason: int | None = None) -> None:
        super().__init__(text)
        self.step = step
        self.hint = hint
        self.reason = reason


class LinkClosed(IsthmusError):
    """A connection ended; the text says why."""
