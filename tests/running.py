"""Isthmus in the test's own process: started from a configuration, its ports known."""

from __future__ import annotations

from typing import Any

from isthmus.app.app import App
from isthmus.app.settings import Settings
from isthmus.connectors.connector import Connector
from raw import Raw, until

QUICK = {"min": "20ms", "max": "100ms"}
"""Reconnect times for tests."""


def bridge(port: int, *, routes: dict[str, Any], **connector: Any) -> dict[str, Any]:
    """A configuration with one connector `cloud` to a far side on `port`."""
    url = connector.pop("url", f"127.0.0.1:{port}")
    return {
        "node": "edge",
        "connectors": {"cloud": {"url": url, "reconnect": QUICK, **connector}},
        "routes": routes,
    }


def out(*topics: str, **route: Any) -> dict[str, Any]:
    return {"from": "local", "topics": list(topics) or ["#"], "to": "cloud", **route}


def back(*topics: str, **route: Any) -> dict[str, Any]:
    return {"from": "cloud", "topics": list(topics) or ["#"], "to": "local", **route}


def without_http(configuration: dict[str, Any] | Settings) -> Settings:
    """The settings without an HTTP port, unless they say where: all would want one address."""
    if isinstance(configuration, dict):
        return Settings.model_validate({"http": None, **configuration})
    if "http" in configuration.model_fields_set:
        return configuration
    return configuration.model_copy(update={"http": None})


def with_listener(configuration: dict[str, Any] | Settings) -> dict[str, Any] | Settings:
    """The same on a port that is free, where it is written out and names none."""
    if isinstance(configuration, dict):
        return {"listeners": [{"bind": "127.0.0.1:0"}], **configuration}
    return configuration


def waiting(near: Isthmus) -> int:
    """Messages that wait for the far side or are on their way, on disk or not."""
    return near.cloud.unsettled + near.cloud.stored


class Isthmus:
    """A running application. `port` is its first listener's."""

    def __init__(self, app: App) -> None:
        self.app = app

    @classmethod
    async def start(cls, configuration: dict[str, Any] | Settings) -> Isthmus:
        app = App(without_http(with_listener(configuration)))
        await app.start()
        return cls(app)

    async def reload(self, configuration: dict[str, Any] | Settings) -> None:
        """Become another configuration; who names no listener keeps that of the start."""
        await self.app.reload(without_http(with_listener(configuration)))

    @property
    def port(self) -> int:
        return self.app.listeners[0].address[1]

    @property
    def ports(self) -> list[int]:
        return [listener.address[1] for listener in self.app.listeners]

    @property
    def url(self) -> str:
        """Where the pages of the HTTP port begin."""
        assert self.app.http is not None
        return self.app.http.where

    @property
    def cloud(self) -> Connector:
        return self.app.connectors["cloud"]

    @property
    def subscribed(self) -> dict[str, int]:
        """What the far side answered to each filter."""
        return {name.decode(): code for name, code in self.cloud.subscriptions.answers.items()}

    def status(self, number: int = 0) -> dict[str, Any]:
        """What is known about one connection of the pool."""
        member = self.cloud.members[number]
        granted, refused = self.cloud.subscriptions.counts(member.index)
        return {
            "client_id": member.client_id,
            "state": member.state,
            "reason": member.reason,
            "connects": member.connects,
            "address": str(member.address),
            "version": "" if member.dialect is None else str(member.dialect),
            "filters": granted,
            "filters_refused": refused,
            "queued": member.lane.queued,
            "sent": member.lane.sent,
            "acknowledged": member.lane.acknowledged,
            "refused": member.lane.refused,
        }

    async def connected(self, name: str = "cloud") -> None:
        """Wait until all members are connected and every filter has its answer."""
        connector = self.app.connectors[name]
        await until(
            lambda: (
                connector.state == "connected"
                and all(
                    filter_ in connector.subscriptions.answers
                    for filter_ in connector.subscriptions.cover()
                )
            )
        )

    async def client(self, client_id: str = "", version: int = 5, **how: Any) -> Raw:
        return await Raw.client(self.port, client_id, version, **how)
