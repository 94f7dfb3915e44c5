"""Topic aliases of MQTT 5, one object per direction and network connection (MQTT-3.3.2-10)."""

from __future__ import annotations

from isthmus.errors import ProtocolViolation


class InboundAliases:
    """What the peer's aliases stand for. `maximum` is the topic alias maximum that we announced."""

    __slots__ = ("_topics", "maximum")

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._topics: dict[int, bytes] = {}

    def resolve(self, alias: int, topic: bytes) -> bytes:
        """The topic of a PUBLISH with `alias`; a topic that is not empty is (re)assigned to it.

        Raises:
            ProtocolViolation: 0x94 for an alias of 0 or above the maximum, 0x82 for an unknown one.
        """
        if not 0 < alias <= self.maximum:
            raise ProtocolViolation(f"topic alias {alias}", 0x94, "MQTT-3.3.2-9")
        if topic:
            self._topics[alias] = topic
            return topic
        known = self._topics.get(alias)
        if known is None:
            raise ProtocolViolation(f"topic alias {alias} stands for nothing yet", 0x82)
        return known


class OutboundAliases:
    """The aliases that we use. `maximum` is the topic alias maximum that the peer announced.

    Aliases go to the first topics that come. When all are given away, a topic gets the oldest one
    at its second appearance, so that topics seen once do not push out those that repeat.
    """

    __slots__ = ("_aliases", "_once", "maximum")

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._aliases: dict[bytes, int] = {}
        self._once: set[bytes] = set()

    def assign(self, topic: bytes) -> tuple[int, bool]:
        """The alias to send with `topic`: (alias, the peer knows it already).

        With `True` the PUBLISH carries an empty topic, with `False` the topic and the alias. (0,
        False) is no alias. The PUBLISH has to be sent, or the peer does not learn a new alias.
        """
        aliases = self._aliases
        alias = aliases.get(topic)
        if alias is not None:
            return alias, True
        if not self.maximum:
            return 0, False
        if len(aliases) < self.maximum:
            alias = len(aliases) + 1
        else:
            once = self._once
            if topic not in once:
                if len(once) >= self.maximum:
                    once.clear()
                once.add(topic)
                return 0, False
            once.discard(topic)
            alias = aliases.pop(next(iter(aliases)))
        aliases[topic] = alias
        return alias, False
