"""Topic maps: the topic that a message is published on, from the topic it came with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.routing.template import Template

if TYPE_CHECKING:
    from isthmus.routing.settings import RouteSettings


class TopicMap:
    """A template, or a prefix to take away and one to put in front.

    A prefix that ends with `/` stands for the level above it too, as `a/b/#` matches `a/b`: with
    `strip: a/b/` and `prepend: r/`, `a/b` becomes `r`, and without `prepend` nothing is left of it,
    which is no topic. `personal` says that the result depends on who published, `connection` that
    it depends on the connection that the message leaves by.
    """

    __slots__ = ("_prepend", "_strip", "_template", "connection", "personal")

    def __init__(
        self,
        template: str | None = None,
        *,
        strip: str | None = None,
        prepend: str | None = None,
        node: str | None = "",
    ) -> None:
        self._strip = (strip or "").encode()
        self._prepend = (prepend or "").encode()
        self._template: Template | None = None
        if template is not None:
            self._template = Template(template, node)
            prefix = self._template.prefix
            if prefix is not None:
                self._template = None
                self._prepend = prefix.encode()
        self.personal = self._template is not None and self._template.personal
        self.connection = self._template is not None and self._template.connection

    @classmethod
    def of(cls, settings: RouteSettings, node: str | None) -> TopicMap:
        """The map of a route's settings, from `from` to `to`; `node` names this process."""
        return cls(settings.topic, strip=settings.strip, prepend=settings.prepend, node=node)

    @property
    def changes(self) -> bool:
        """Whether a message can leave with another topic than it came with."""
        return self._template is not None or self._strip != self._prepend

    @property
    def strip(self) -> str:
        """What is taken from the front; "" for nothing, and for a template."""
        return self._strip.decode()

    def apply(
        self,
        topic: bytes,
        filter_: bytes = b"#",
        *,
        client_id: str = "",
        username: str = "",
        connection: str = "",
    ) -> bytes:
        """The topic to publish on; `filter_` is the one that `topic` matched.

        It may be no valid topic name: the caller checks.

        Raises:
            ProtocolViolation: The topic lacks a level that the template names (0x90).
        """
        if self._template is not None:
            return self._template.fill(
                topic, filter_, client_id=client_id, username=username, connection=connection
            )
        strip = self._strip
        if topic.startswith(strip):
            return self._prepend + topic[len(strip) :]
        if topic + b"/" == strip:
            return self._prepend.removesuffix(b"/")
        return self._prepend + topic

    def inverse(self) -> TopicMap | None:
        """The map that leads back, for topics that began with `strip`; None for a template."""
        if self._template is not None:
            return None
        found = TopicMap()
        found._strip, found._prepend = self._prepend, self._strip
        return found

    def image(self, filter_: bytes) -> bytes:
        """A filter for what becomes of the topics of `filter_`: it matches all of that, or more."""
        if self._template is not None:
            return self._template.image
        return self.exact_image(filter_) or _below(self._prepend)

    def exact_image(self, filter_: bytes) -> bytes | None:
        """The filter whose topics are what becomes of those of `filter_`, if there is one.

        There is none for a template, where `filter_` does not begin with `strip`, and where
        `prepend` would leave a wildcard in the middle of a level.
        """
        if self._template is not None or not filter_.startswith(self._strip):
            return None
        rest = filter_[len(self._strip) :]
        if rest.partition(b"/")[0] in (b"+", b"#") and self._prepend[-1:] not in (b"", b"/"):
            return None
        return self._prepend + rest

    def __str__(self) -> str:
        if self._template is not None:
            return str(self._template)
        return f"{self._prepend.decode()}${{topic}}"


def _below(prefix: bytes) -> bytes:
    """A filter for all topics that begin with `prefix`, and more."""
    return prefix[: prefix.rfind(b"/") + 1] + b"#"
