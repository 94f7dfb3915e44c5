"""The verbs that everything is made of: an endpoint can be subscribed to and published to.

The broker is an endpoint and every connector is one. A route is a subscriber of its source that
resolves to its target's outlets. However many layers lie between, a message costs one flat loop
over the outlets of its plan: `resolve` runs once per topic, `send` once per message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.auth.rights import Writer
    from isthmus.delivery.message import Message
    from isthmus.delivery.plan import Plan
    from isthmus.delivery.receipt import Receipt


class Origin:
    """Where a message came from: what a plan may depend on besides the topic.

    `key` is the session or the connector that sent it. Outlets that must not echo carry the same
    object and are left out of the plan. `client_id` and `username` are those of the publisher, for
    templates that name them; both are "" where there is none. `writer` answers whether the
    publisher of a retained message may still publish it; None where nobody asks. `way` names the
    sender for the loop guard: equal for whoever comes back, also with a new session.
    """

    __slots__ = ("client_id", "key", "username", "way", "writer")

    def __init__(
        self,
        key: object,
        client_id: str = "",
        username: str = "",
        writer: Writer | None = None,
        way: object = None,
    ) -> None:
        self.key = key
        self.way = key if way is None else way
        self.client_id = client_id
        self.username = username
        self.writer = writer


class Subscriber(Protocol):
    """Who is asked, once per topic, where a message goes."""

    def __hash__(self) -> int:
        """Subscribers are told apart by identity."""

    def resolve(self, topic: bytes, options: list[Any], plan: Plan, origin: Origin | None) -> None:
        """Add the outlets for `topic` to `plan`.

        `options` are those of all of the subscriber's filters that match. `origin` is None while
        the plan for everyone is made; a subscriber whose answer depends on the publisher then adds
        itself to `plan.personal` and is asked again with the origin.
        """


class Endpoint(Protocol):
    """Something that can be subscribed to and published to, under its configured `name`."""

    name: str

    def subscribe(self, filter_: bytes, subscriber: Subscriber, options: Any) -> None:
        """Give `subscriber` the messages whose topic matches `filter_`."""

    def unsubscribe(self, filter_: bytes, subscriber: Subscriber) -> None:
        """Undo `subscribe`."""

    final: bool
    """Messages end here: what `route` adds depends on nothing else, and may be used again."""

    def when_ways_change(self, forget: Callable[[], None]) -> None:
        """Call `forget`, a method, when what `route` added before is no longer right.

        Asking twice is asking once, and it keeps nobody alive.
        """

    def forget_plans(self) -> None:
        """Make every plan anew."""

    def route(
        self,
        topic: bytes,
        plan: Plan,
        *,
        origin: Origin,
        flags: tuple[int, ...],
        order_key: bytes,
        memory: bool,
        connection: bytes | None = None,
        hops: bool = True,
        keeps_qos0: bool = False,
        overtakes: bool = False,
    ) -> None:
        """Add to `plan` what it takes to publish to `topic` here.

        `flags` maps the flags of the message to those it is published with. Messages with equal
        `order_key` stay in order. `memory` says that a message is safe once it is in memory.
        `connection` is the client id of the connection to use, for an endpoint with several.
        `hops` gives messages the user property with their hops, over MQTT 5; see `hops`.
        `keeps_qos0` queues messages of QoS 0 too while there is no connection. `overtakes` lets
        messages go before what an outage has left.
        """

    def client_id_of(self, order_key: bytes, connection: bytes | None) -> str:
        """The client id of the connection that `route` chooses, "" where there are none."""

    def publish(self, message: Message, receipt: Receipt | None) -> None:
        """Publish one message: for control work, not for the message path."""
