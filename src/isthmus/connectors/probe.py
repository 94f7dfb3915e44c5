"""Opening a connection once, to use it or only to see whether it works.

A connector tries again for ever; a person at a terminal wants to know what is wrong, now. `opened`
lets the first real failure out; `trials` gives the settings with which a configured connector is
tried beside the running process: nothing is subscribed or published, and nothing is kept for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from isthmus.connectors.connection_settings import NotificationSettings, ReconnectSettings
from isthmus.connectors.dialects import UNSUPPORTED_VERSION, dialects
from isthmus.connectors.identity import static_identities

if TYPE_CHECKING:
    from isthmus.connectors.client_ids import ClientIds
    from isthmus.connectors.connector import Connector
    from isthmus.connectors.member import Member
    from isthmus.connectors.settings import ConnectorSettings
    from isthmus.errors import ConnectError

STEPS = {
    "name": "name look-up",
    "tcp": "TCP",
    "unix": "unix socket",
    "proxy": "proxy",
    "tls": "TLS",
    "websocket": "WebSocket",
    "connack": "CONNACK",
    "timeout": "time-out",
}
"""What the steps of a `ConnectError` are called in front of people."""

BETWEEN_VERSIONS_S = 0.05
"""Longest wait before a far side that refused one version of MQTT is asked with another."""


class Trial(NamedTuple):
    """Settings that try one login, and the fixed client id that is configured for it, if any."""

    settings: ConnectorSettings
    configured_id: str | None


def trials(name: str, settings: ConnectorSettings, client_ids: ClientIds, node: str) -> list[Trial]:
    """What tries connector `name` beside the one that may be running in the process `node`.

    There is one for each of its logins: for each static client id of this node, else one. The
    client ids are their own: with the same one the far side would close the running connection.
    """
    if settings.static_client_ids:
        return [
            Trial(
                _trial(
                    settings,
                    f"{one.client_id}-test",
                    {"username": one.username, "password": one.password, "tls": one.tls},
                ),
                one.client_id,
            )
            for one in static_identities(settings, node)
        ]
    fixed = settings.client_id
    client_id = (
        f"{fixed}-test"
        if fixed is not None
        else client_ids.client_id(name, settings.client_id_prefix, 0)
    )
    return [Trial(_trial(settings, client_id, {}), fixed)]


def _trial(settings: ConnectorSettings, client_id: str, login: dict[str, Any]) -> ConnectorSettings:
    return settings.model_copy(
        update={
            **login,
            "client_id": client_id,
            "client_id_prefix": None,
            "pool": 1,
            "clean_start": True,
            "session_expiry": 0.0,
            "static_client_ids": {},
            "will": None,
            "notifications": NotificationSettings(),
            "start": "automatic",
            "reconnect": once(settings.reconnect),
        }
    )


def once(reconnect: ReconnectSettings) -> ReconnectSettings:
    """The same for a connection of which only the first success or failure matters."""
    return reconnect.model_copy(update={"min": BETWEEN_VERSIONS_S, "attempts": "forever"})


class Opening:
    """A watcher that waits for the first connection of a connector with one member."""

    def __init__(self, connector: Connector) -> None:
        self._versions_left = len(dialects(connector.settings)) - 1
        self._done: asyncio.Future[Member] = asyncio.get_running_loop().create_future()

    async def wait(self) -> Member:
        """Return the connected member.

        Raises:
            ConnectError: it cannot be connected; all versions that the settings allow were tried.
        """
        return await self._done

    def connected(self, member: Member) -> None:
        """The connection is open."""
        if not self._done.done():
            self._done.set_result(member)

    def failed(self, member: Member, error: ConnectError) -> None:
        """A failure is final unless another version of MQTT is still to be tried."""
        del member
        other_version = error.step == "connack" and (
            error.reason is None or error.reason in UNSUPPORTED_VERSION
        )
        if other_version and self._versions_left:
            self._versions_left -= 1
        elif not self._done.done():
            self._done.set_exception(error)

    def lost(self, member: Member, reason: str) -> None:
        """Of no interest here."""

    def granted(self, answers: dict[bytes, int]) -> None:
        """Of no interest here."""


async def opened(connector: Connector) -> Member:
    """Start `connector` and wait for its first connection; the caller stops it.

    Raises:
        ConnectError: see `Opening.wait`.
    """
    opening = Opening(connector)
    connector.watcher = opening
    connector.start()
    return await opening.wait()


REFUSED_FOR_GOOD = frozenset({0x02, 0x85, 0x04, 0x86, 0x05, 0x87, 0x8A, 0x8C})
"""CONNACK codes that come again whenever the same client tries: id, login, right, ban."""

# CONNACK codes of MQTT 3 and 5 that mean the same, and what to try.
_CREDENTIALS = "check 'username' and 'password'"
_LOGIN_REFUSED = frozenset({0x04, 0x86, 0x05, 0x87})
_ONLY_AUTH = "; a service that takes only logins by AUTH, such as SCRAM, cannot be used from here"
_LATER = "try again later, and ask who runs the service if it goes on"
_TO_TRY: dict[int, str] = {
    0x01: "set 'version' to one that the service speaks: 3.1, 3.1.1 or 5",
    0x84: "set 'version' to one that the service speaks: 3.1, 3.1.1 or 5",
    0x02: "set 'client_id' or 'client_id_prefix' to what the service expects",
    0x85: "set 'client_id' or 'client_id_prefix' to what the service expects",
    0x03: _LATER,
    0x88: _LATER,
    0x89: _LATER,
    0x97: _LATER,
    0x9F: _LATER,
    0x04: _CREDENTIALS,
    0x86: f"{_CREDENTIALS}{_ONLY_AUTH}",
    0x05: f"{_CREDENTIALS}, or ask who runs the service to let this user and client id in",
    0x87: (
        f"{_CREDENTIALS}, or ask who runs the service to let this user and client id in{_ONLY_AUTH}"
    ),
    0x8A: "ask who runs the service to let this client in again",
    0x8C: (
        "log in with 'username' and 'password' or with a client certificate: logins by AUTH, such "
        "as SCRAM, cannot be done from here"
    ),
    0x95: "set a smaller 'max_packet_size', or shorter credentials",
    0x9C: "set 'url' to another server of the service",
    0x9D: "set 'url' to the new address of the service",
}


def login_advice(error: ConnectError) -> str:
    """What to check where the far side has refused the login; else ""."""
    refused = error.step == "connack" and error.reason in _LOGIN_REFUSED
    return _CREDENTIALS if refused else ""


def advice(error: ConnectError, settings: ConnectorSettings, configured_id: str | None) -> str:
    """What to try after `error`; `configured_id` is the connector's fixed client id, if any."""
    if error.step == "tls" and not error.hint:
        return "is it the port for TLS? The log of the far side may say more"
    if error.step != "connack":
        return error.hint or "see the log of the far side"
    if error.reason is None:
        text = "is it a port for MQTT"
        text += "" if settings.use_tls else " without TLS (else write mqtts:// in 'url')"
        return f"{text}? The log of the far side may say why it closed"
    text = _TO_TRY.get(error.reason, "see the log of the far side")
    identity = error.reason in (0x02, 0x85, 0x05, 0x87)
    if identity and configured_id is not None and settings.client_id != configured_id:
        text += (
            f"; this test used the client id '{settings.client_id}', so as not to push a running "
            f"connection out, and the service may let only '{configured_id}' in"
        )
    return text


def cause(error: ConnectError) -> str:
    """What went wrong, with what the far side itself said about it."""
    if error.step == "connack" and error.hint:
        return f"{error} ({error.hint})"
    return str(error)
