"""Routes: what one endpoint publishes on these topics is published on another."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isthmus.delivery.outlet import flag_table
from isthmus.errors import MQTTError, ProtocolViolation
from isthmus.metrics.drops import Drops
from isthmus.metrics.traffic import Tally
from isthmus.mqtt.topics import check_name, matches
from isthmus.routing.template import Template

if TYPE_CHECKING:
    from isthmus.delivery.endpoint import Endpoint
    from isthmus.routing.checked_as import CheckedAs
    from isthmus.routing.leg import Leg

log = logging.getLogger("isthmus.routing")


@dataclass(slots=True)
class Decision:
    """What a route does with the messages of one topic, which `filter_` matched.

    `verdict` is "sent" (as `topic`, by `connection`), "excluded" (not taken; `detail` is why),
    "stopped" (a route before it has `stop`; `detail` is its name), or the reason of a drop with its
    MQTT 5 `code`: "bad_topic", "denied".
    """

    route: Route
    filter_: bytes
    verdict: str = "sent"
    topic: bytes = b""
    connection: bytes | None = None
    code: int = 0
    detail: str = ""


SYS_PREFIX = b"$SYS/"
BRIDGE_STATE = b"$SYS/broker/connection/+/state"
"""The one topic below $SYS that a route may make: the notifications of other brokers' bridges."""


class Route:
    """One direction of a route: what it makes of a message, decided once per topic.

    `flags` maps the QoS and retain flag of messages, `hops` says that they get theirs over MQTT 5,
    `keeps_qos0` that those with QoS 0 wait for a connection too, `overtakes` that they may go
    before what an outage has left. `drops` counts what is refused.
    `personal` says that the result depends on who published.
    """

    __slots__ = (
        "_connection",
        "_joint",
        "_originals",
        "checked_as",
        "drops",
        "flags",
        "hops",
        "keeps_qos0",
        "leg",
        "memory",
        "name",
        "overtakes",
        "personal",
        "source",
        "stop",
        "tally",
        "target",
    )

    def __init__(
        self,
        leg: Leg,
        source: Endpoint,
        target: Endpoint,
        *,
        node: str,
        checked_as: CheckedAs | None = None,
    ) -> None:
        settings = leg.settings
        self.name = leg.name
        self.leg = leg
        self.source = source
        self.target = target
        self.stop = settings.stop
        self.checked_as = checked_as
        self.flags = flag_table(
            qos=None if settings.qos == "keep" else settings.qos,
            max_qos=2 if settings.max_qos is None else settings.max_qos,
            retain=None if settings.retain == "keep" else settings.retain == "set",
        )
        self.memory = settings.durability == "memory"
        self.hops = settings.loop_guard.hops
        self.keeps_qos0 = settings.queue_qos0
        self.overtakes = settings.may_overtake
        self.drops = Drops(f"route {self.name}", log)
        self.tally = Tally()
        self._joint: list[Tally] = []
        connection = None if leg.back else settings.connection
        self._connection = None if connection is None else Template(connection, node)
        self._originals = dict(zip(leg.filters, leg.selection.included, strict=True))
        self.personal = leg.topics.personal or (
            self._connection is not None and self._connection.personal
        )

    @property
    def messages(self) -> int:
        """Messages that it took and handed on, alone or as one of several that agreed."""
        return self.tally.messages + sum(tally.messages for tally in self._joint)

    def replaces(self, old: Route) -> None:
        """Count on from where `old` is, which had this name."""
        self.drops = old.drops
        self.tally.messages = old.messages

    def joins(self, tally: Tally) -> None:
        """Messages that `tally` counts are also of this route."""
        self._joint.append(tally)

    @property
    def subscribe_qos(self) -> int:
        """The QoS to ask the source for: no more than the route can use."""
        return max(flags >> 1 for flags in self.flags)

    def decide(
        self, topic: bytes, filter_: bytes, client_id: str = "", username: str = ""
    ) -> Decision:
        """What becomes of messages of `topic`, which `filter_` matched, from this publisher."""
        leg = self.leg
        decision = Decision(self, filter_)
        selection = leg.selection
        if not leg.back and (exclusion := selection.exclusion(topic)) is not None:
            return _not_taken(decision, f"!{exclusion.decode()}")
        try:
            self._map(decision, topic, client_id, username)
            if leg.back and (why := self._foreign(decision)):
                return _not_taken(decision, why)
            check_name(decision.topic)
            self._check_sys(topic, decision.topic)
        except MQTTError as error:
            decision.verdict = "bad_topic"
            decision.code = 0x90
            decision.detail = f"{topic.decode()}: {error}"
            return decision
        if self.checked_as is not None:
            code, detail = self.checked_as.refusal(topic, decision.topic)
            if code:
                decision.verdict = "denied" if code == 0x87 else "bad_topic"
                decision.code = code
                decision.detail = detail
        return decision

    def _map(self, decision: Decision, topic: bytes, client_id: str, username: str) -> None:
        topics, filter_ = self.leg.topics, decision.filter_
        if topics.personal:
            for identity in (client_id, username):
                if any(sign in identity for sign in "/+#"):
                    # It would reach topics of other publishers.
                    raise ProtocolViolation(f"publisher {identity!r} holds / + or #", 0x90)
        if self._connection is not None:
            decision.connection = self._connection.fill(
                topic, filter_, client_id=client_id, username=username
            )
        connection = ""
        if topics.connection:
            connection = self.target.client_id_of(topic, decision.connection)
        mapped = topics.apply(
            topic, filter_, client_id=client_id, username=username, connection=connection
        )
        decision.topic = mapped

    def _check_sys(self, topic: bytes, mapped: bytes) -> None:
        """Whoever may publish `x/$SYS/...` must not forge the broker's own figures."""
        if (
            mapped.startswith(SYS_PREFIX)
            and not topic.startswith(SYS_PREFIX)
            and not self.target.final
            and not matches(BRIDGE_STATE, mapped)
        ):
            raise ProtocolViolation("$SYS is the broker's own", 0x90)

    def _foreign(self, decision: Decision) -> str:
        """Why a topic on the way back is none that could have left by this route, or ""."""
        topic, selection = decision.topic, self.leg.selection
        if not topic:
            return "the level above its topics"
        if (exclusion := selection.exclusion(topic)) is not None:
            return f"!{exclusion.decode()}"
        # The filter that this one was made from is nearly always the one, and needs no search.
        if matches(self._originals[decision.filter_], topic) or selection.includes(topic):
            return ""
        return f"{topic.decode()} is none of its topics"


def _not_taken(decision: Decision, why: str) -> Decision:
    decision.verdict = "excluded"
    decision.topic = b""
    decision.detail = why
    return decision
