"""Topic maps: the topic that a message is published on, from the topic it came with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isthmus.routing.settings import RouteSettings

_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")

PUBLISHER_NAMES = frozenset({"clientid", "username"})
"""Template names whose value is the publisher's: such a route is resolved per publisher."""


class TopicMap:
    """A template, or a prefix to take away and one to put in front.

    `personal` says that the result depends on who published.
    """

    __slots__ = ("_parts", "_prepend", "_strip", "personal")

    def __init__(
        self,
        template: str | None = None,
        *,
        strip: str | None = None,
        prepend: str | None = None,
        node: str = "",
    ) -> None:
        self._strip = (strip or "").encode()
        self._prepend = (prepend or "").encode()
        # Text and names in turn, as `re.split` with a group gives them: even places are text.
        parts = _PLACEHOLDER.split(template) if template is not None else []
        for index in range(1, len(parts), 2):
            if parts[index] == "node":
                parts[index - 1] += node
                parts[index] = ""
        self._parts = parts
        self.personal = any(name in PUBLISHER_NAMES for name in parts[1::2])

    @classmethod
    def of(cls, settings: RouteSettings, node: str) -> TopicMap:
        """The map that a route's settings describe; `node` is the name of this process."""
        return cls(settings.topic, strip=settings.strip, prepend=settings.prepend, node=node)

    def apply(self, topic: bytes, client_id: str = "", username: str = "") -> bytes:
        """The topic to publish on. It may be no valid topic name: the caller checks."""
        if not self._parts:
            return self._prepend + topic.removeprefix(self._strip)
        values = {"topic": topic, "clientid": client_id.encode(), "username": username.encode()}
        return b"".join(
            part.encode() if index % 2 == 0 else values.get(part, b"")
            for index, part in enumerate(self._parts)
        )

    def __str__(self) -> str:
        if self._parts:
            return "".join(
                part if index % 2 == 0 else f"${{{part}}}" if part else ""
                for index, part in enumerate(self._parts)
            )
        return f"{self._prepend.decode()}${{topic}}"
