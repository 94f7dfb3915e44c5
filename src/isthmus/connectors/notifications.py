"""Notifications: retained messages that say whether each connection is up.

Nothing here is ever queued. The far side hears `1` as the first message of a connection, and `0` as
its will or as the last message before the goodbye; so no old `0` can come after a newer `1`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.connectors.connection_settings import CLIENT_ID_VARIABLE
from isthmus.delivery.message import Message
from isthmus.mqtt.packets import Will

if TYPE_CHECKING:
    from isthmus.connectors.connection_settings import NotificationSettings
    from isthmus.connectors.far_client import FarClient
    from isthmus.delivery.endpoint import Endpoint

UP, DOWN = b"1", b"0"


class Notifications:
    """The notifications of one connector. `local` is the broker, where they are published too."""

    def __init__(self, settings: NotificationSettings) -> None:
        self._settings = settings
        self.local: Endpoint | None = None

    def replace(self, settings: NotificationSettings) -> None:
        """Take other settings."""
        self._settings = settings

    @property
    def far(self) -> bool:
        """Whether the far side is told as well."""
        return self._settings.enabled and not self._settings.local_only

    def will(self, client_id: str) -> Will | None:
        """The will that tells the far side that the connection is lost."""
        return Will(self._topic(client_id), DOWN, 1, retain=True) if self.far else None

    def up(self, client: FarClient, client_id: str) -> bool:
        """The connection is open; whether its window has room for one message less."""
        self._tell_local(client_id, UP)
        return self.far and client.notify(self._topic(client_id), UP, 1)

    def goodbye(self, client: FarClient, client_id: str) -> None:
        """The connection is about to be closed in order, without its will."""
        if self.far:
            client.notify(self._topic(client_id), DOWN, 0)

    def down(self, client_id: str) -> None:
        """There is no connection, or no more."""
        self._tell_local(client_id, DOWN)

    def _tell_local(self, client_id: str, payload: bytes) -> None:
        if self._settings.enabled and self.local is not None:
            self.local.publish(Message(self._topic(client_id), payload, 1, retain=True), None)

    def _topic(self, client_id: str) -> bytes:
        # The id may hold what is no part of a topic name.
        name = "".join("_" if sign in "+#" else sign for sign in client_id)
        return self._settings.topic.replace(CLIENT_ID_VARIABLE, name).encode()
