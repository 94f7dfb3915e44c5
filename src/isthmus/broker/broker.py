"""The embedded broker: the endpoint `local`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from isthmus import clock
from isthmus.broker.client import Client
from isthmus.broker.limits_met import LimitsMet
from isthmus.broker.retained import RetainedMessages, RetainOutlet
from isthmus.broker.session import NEVER, Session, Subscription
from isthmus.delivery.endpoint import Origin, Subscriber
from isthmus.delivery.exchange import Exchange
from isthmus.delivery.hops import Hops
from isthmus.delivery.lane import Lane
from isthmus.delivery.message import Message
from isthmus.delivery.outlet import KEEP
from isthmus.errors import ProtocolViolation
from isthmus.log import CLIENT_FAULTS
from isthmus.metrics.drops import Drops
from isthmus.metrics.log_limit import LogLimit
from isthmus.metrics.traffic import Traffic
from isthmus.mqtt.properties import Properties, PropertyId
from isthmus.mqtt.reasons import ReasonCode
from isthmus.mqtt.topics import split_shared
from isthmus.net.gate import RATE, Gate
from isthmus.net.peer import peer_network, peer_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.auth.access import Access
    from isthmus.auth.principal import Principal
    from isthmus.auth.rights import Rights
    from isthmus.broker.entrance import Entrance
    from isthmus.broker.kept_sessions import KeptSessions
    from isthmus.broker.settings import BrokerSettings
    from isthmus.broker.share_group import ShareGroup
    from isthmus.delivery.plan import Plan
    from isthmus.delivery.receipt import Receipt
    from isthmus.mqtt.packets import Connect
    from isthmus.net.link import Link
    from isthmus.net.reactor import Reactor

log = logging.getLogger("isthmus.broker")

LOCAL = "local"
"""The name of the broker as an endpoint."""


class LocalExchange(Exchange):
    """The broker's exchange: every plan can also retain."""

    __slots__ = ("_retained",)

    def __init__(self, retained: RetainedMessages) -> None:
        super().__init__(LOCAL)
        self._retained = retained

    def resolve(self, topic: bytes, plan: Plan) -> None:
        """Ask every subscriber, and retain what has the flag."""
        super().resolve(topic, plan)
        plan.add(RetainOutlet(self._retained, topic, KEEP))


class Broker:
    """Sessions, subscriptions and retained messages of the clients nearby.

    `accept` and `gate` are given to listeners. `refusals` counts connections closed by us, by
    reason code; `ends` logs them. `limits_met` counts what was refused because of a limit. `kept`
    has the sessions on disk, None where they are in memory only.
    """

    final = False

    def __init__(
        self,
        settings: BrokerSettings,
        reactor: Reactor,
        access: Access,
    ) -> None:
        self.name = LOCAL
        self.settings = settings
        self.reactor = reactor
        self.access = access
        self.hops = Hops()
        self.traffic = Traffic()
        self.drops = Drops("broker", log)
        self.ends = LogLimit(logging.getLogger(CLIENT_FAULTS), reactor.wheel.at)
        self.limits_met = LimitsMet(self.ends)
        self.gate = Gate(self._refused, self._failed)
        self._set_gate()
        self.retained = RetainedMessages(
            settings.limits.retained_messages,
            settings.limits.retained_bytes,
            self.drops,
            longest_s=settings.retain_expiry,
        )
        self.exchange = LocalExchange(self.retained)
        self.sessions: dict[str, Session] = {}
        self.kept: KeptSessions | None = None
        self.shares: dict[bytes, ShareGroup] = {}
        self.unnamed: set[Client] = set()
        self.connected = 0
        self.connects = 0
        self.most_connected = 0
        self.accepted = 0
        self.expired = 0
        self.refusals: dict[int, int] = {}
        self._origin = Origin(self)
        self.connack_properties = self._connack_properties()

    # -- endpoint --------------------------------------------------------------------------------

    def subscribe(self, filter_: bytes, subscriber: Subscriber, options: Any) -> None:
        """Give `subscriber` the messages whose topic matches `filter_`."""
        self.exchange.subscribe(filter_, subscriber, options)

    def unsubscribe(self, filter_: bytes, subscriber: Subscriber) -> None:
        """Undo `subscribe`."""
        self.exchange.unsubscribe(filter_, subscriber)

    def when_ways_change(self, forget: Callable[[], None]) -> None:
        """Nothing to do: the plans of the broker's topics say when they change."""

    def forget_plans(self) -> None:
        """Make every plan anew."""
        self.exchange.forget()

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
        """Add what publishing to `topic` here takes; see `Endpoint.route`.

        Nothing else matters: each session has one lane, which is on disk or not, is a bridge or
        not, and keeps QoS 0 or not.
        """
        del order_key, memory, connection, hops, keeps_qos0, overtakes
        self.exchange.extend(plan, topic, origin=origin, flags=flags)

    def client_id_of(self, order_key: bytes, connection: bytes | None) -> str:
        """Nothing: what is published here leaves by no connection of ours."""
        del order_key, connection
        return ""

    def publish(self, message: Message, receipt: Receipt | None = None) -> None:
        """Publish a message of the broker's own: a will, a `$SYS` value."""
        plan = self.exchange.plan_for(message.topic, self._origin)
        for outlet in list(plan.retaining if message.retain else plan.outlets):
            outlet.writer = message.writer
            outlet.send(message.flags, message.properties, message.payload, receipt)

    # -- clients ---------------------------------------------------------------------------------

    def accept(self, link: Link, entrance: Entrance) -> None:
        """Take a new connection from a listener, by its `entrance`."""
        self.accepted += 1
        full = self.connected + len(self.unnamed) >= self.settings.limits.connections
        if full or entrance.crowded:
            reason = "too many connections"
            if full:
                self._refused("connections", link.peername)
            else:
                self.count_refusal(ReasonCode.QUOTA_EXCEEDED)
                self.ends.line(
                    reason,
                    peer_network(link.peername),
                    f"client {peer_text(link.peername)} refused: {reason}; "
                    f"see max_connections of {entrance.name}",
                )
            self.gate.leave(link.peername)
            link.abort(reason)
            return
        entrance.open += 1
        self.unnamed.add(Client(self, link, entrance))

    def _refused(self, limit: str, peername: Any) -> None:
        """A connection was closed before it could say anything, because of a limit."""
        code = ReasonCode.CONNECTION_RATE_EXCEEDED if limit == RATE else ReasonCode.QUOTA_EXCEEDED
        self.count_refusal(code)
        text = f"client {peer_text(peername)} refused: too many connections"
        self.limits_met.say(limit, peer_network(peername), text)

    def _failed(self, stage: str, peername: Any, text: str) -> None:
        self.ends.line(f"no connection: {stage}", peer_network(peername), text)

    def _set_gate(self) -> None:
        limits = self.settings.limits
        self.gate.change(
            per_address=limits.connections_per_address,
            rate=limits.connect_rate,
            in_all=limits.connect_rate_in_all,
            now=clock.monotonic(),
        )

    def allowed_expiry(self, asked_s: int) -> int:
        """The session expiry interval granted to a client that asked for `asked_s` seconds."""
        maximum = self.settings.max_session_expiry
        return asked_s if maximum is None else min(asked_s, int(maximum))

    def open_session(
        self, client: Client, packet: Connect, principal: Principal
    ) -> tuple[Session, bool]:
        """Find or make the session of a CONNECT; the second value is "session present".

        A connected client with the same id is taken over (MQTT-3.1.4-3), unless it is another
        user's. A session whose topics are mounted elsewhere ends: to this client they would be
        other topics.
        """
        entrance = client.entrance
        session = self.sessions.get(principal.client_id)
        if session is not None:
            if not principal.is_user_of(session.principal):
                raise ProtocolViolation(
                    "the session belongs to another user", ReasonCode.NOT_AUTHORIZED
                )
            before = session.client
            entrance.check_room(before is not None and before.entrance is entrance)
            if before is not None:
                before.close(ReasonCode.SESSION_TAKEN_OVER, "another client connected with this id")
                session = self.sessions.get(principal.client_id)
        else:
            entrance.check_room(0)
        if session is not None and (packet.clean_start or session.mount != entrance.mount):
            left = session.lane.queued + session.lane.inflight
            if left and not packet.clean_start:
                self.drops.add("other_mount_point", repr(principal.client_id), left)
            self.end_session(session)
            session = None
        present = session is not None
        if session is None:
            if len(self.sessions) >= self.settings.limits.sessions:
                raise ProtocolViolation(
                    "too many sessions", ReasonCode.QUOTA_EXCEEDED, limit="sessions"
                )
            session = self.new_session(principal, client.access.rights, entrance.mount)
        else:
            self.renew_principal(session, principal, client.access.rights)
        if session.expires is not None:
            session.expires.cancel()
            session.expires = None
        if session.will_timer is not None:
            # The client is back before the delay was over (MQTT-3.1.3-9).
            session.will_timer.cancel()
            session.will = session.will_timer = None
        session.last(self.allowed_expiry(_asked_expiry(packet)))
        session.client = client
        if self.kept is not None:
            self.kept.opened(session)
        self.unnamed.discard(client)
        self.connected += 1
        entrance.connected += 1
        self.connects += 1
        self.most_connected = max(self.most_connected, self.connected)
        return session, present

    def new_session(self, principal: Principal, rights: Rights, mount: bytes) -> Session:
        """Make the session of a client id that has none."""
        session = self.sessions[principal.client_id] = Session(
            principal,
            self.new_lane(),
            rights,
            self.hops,
            upgrade=self.settings.upgrade_outgoing_qos,
            mount=mount,
        )
        return session

    def client_left(self, client: Client) -> None:
        """The connection of `client` has ended: keep or end its session, publish its will."""
        session = client.session
        assert session is not None
        self.connected -= 1
        client.entrance.connected -= 1
        session.client = None
        session.lane.detach()
        for group in session.lane.suppliers or ():
            group.disconnected(session.lane)
        if session.retained_delivery is not None:
            session.retained_delivery.stop()
        if client.will is not None:
            self._leave_will(session, client.will, min(client.will_delay_s, session.expiry_s))
        if not session.expiry_s:
            self.end_session(session)
        else:
            if session.expiry_s != NEVER:
                self.expire_in(session, session.expiry_s)
            if self.kept is not None:
                self.kept.changed(session)

    def expire_in(self, session: Session, left_s: float) -> None:
        """End a session without a client after `left_s` seconds, unless it comes back."""
        session.expires = self.reactor.wheel.at(
            clock.monotonic() + left_s, lambda: self._expire(session)
        )

    def _expire(self, session: Session) -> None:
        self.expired += 1
        self.end_session(session)

    def end_session(self, session: Session) -> None:
        """Forget a session and everything that waits for it."""
        if session.expires is not None:
            session.expires.cancel()
            session.expires = None
        if self.kept is not None:
            self.kept.ended(session)
        for filter_ in session.subscriptions:
            self.forget_subscription(filter_, session)
        session.subscriptions = {}
        session.retained_delivery = None
        if session.received_qos2 is not None:
            session.received_qos2.clear()
        session.lane.clear()
        if self.sessions.get(session.principal.client_id) is session:
            del self.sessions[session.principal.client_id]
        self.release_will(session)

    def join_share(self, filter_: bytes, session: Session, subscription: Subscription) -> None:
        """Make `session` a member of the shared subscription `$share/{group}/{filter}`."""
        group = self.shares.get(filter_)
        if group is None:
            from isthmus.broker.share_group import ShareGroup  # only who uses it pays for it

            group = self.shares[filter_] = ShareGroup(self.settings.limits, self.drops)
            self.exchange.subscribe(split_shared(filter_)[1], group, None)
        if self.kept is not None and session.kept:
            self.kept.keep_share(filter_, group)
        group.join(session, subscription)

    def share_limit_met(self, filter_: bytes) -> str:
        """The name of the limit that one more member of a shared subscription breaks, or ""."""
        limits, group = self.settings.limits, self.shares.get(filter_)
        if group is None:
            most, count, name = limits.share_groups, len(self.shares), "share_groups"
        else:
            most, count, name = limits.share_members, len(group), "share_members"
        return name if most is not None and count >= most else ""

    def forget_subscription(self, filter_: bytes, session: Session) -> None:
        """Undo a subscription of `session`, shared or not."""
        group = self.shares.get(filter_)
        if group is None:
            self.exchange.unsubscribe(filter_, session)
            return
        group.leave(session)
        if not len(group):
            del self.shares[filter_]
            self.exchange.unsubscribe(split_shared(filter_)[1], group)

    def change(self, settings: BrokerSettings) -> None:
        """Take other settings. What a client was told when it connected holds until it leaves."""
        self.settings = settings
        self.connack_properties = self._connack_properties()
        limits, retained = settings.limits, self.retained
        retained.maximum, retained.max_bytes = limits.retained_messages, limits.retained_bytes
        retained.longest_s = settings.retain_expiry
        self._set_gate()
        for client in self.unnamed:
            client.keep_to(limits)
        for group in self.shares.values():
            group.limits = limits
        for session in self.sessions.values():
            lane = session.lane
            lane.max_inflight = settings.max_inflight
            lane.max_queued = limits.queued_messages
            lane.max_queued_bytes = limits.queued_bytes
            lane.max_unsent_bytes = limits.unsent_bytes
            lane.keeps_qos0 = settings.queue_qos0
            if session.client is not None:
                session.client.keep_to(limits)

    def clients_of(self, entrance: Entrance) -> list[Client]:
        """The connections that came in by `entrance`, with a session or without."""
        named = (session.client for session in self.sessions.values())
        clients = [*(client for client in named if client is not None), *self.unnamed]
        return [client for client in clients if client.entrance is entrance]

    def rights_changed(self) -> int:
        """Hold live clients to what `Access.replace` brought: end those who may not connect.

        Returns how many.
        """
        ended = 0
        for session in list(self.sessions.values()):
            if session.client is not None and not session.client.still_welcome():
                session.client.close(ReasonCode.NOT_AUTHORIZED, "this login is no longer valid")
                ended += 1
            session.withdraw_unreadable()
        self.forget_rights()
        return ended

    def renew_principal(self, session: Session, principal: Principal, rights: Rights) -> None:
        """The user of a session has logged in again, perhaps with other rights."""
        changed = session.principal.grants != principal.grants or session.rights is not rights
        if (session.principal.grants is None) != (principal.grants is None):
            session.assured = False  # whose rights come with the login is on disk
        session.principal, session.rights = principal, rights
        if changed:
            if self.kept is not None:
                self.kept.changed(session)
            session.withdraw_unreadable()
            self.forget_rights()

    def forget_rights(self) -> None:
        """Ask for every right to publish and to read anew."""
        for session in self.sessions.values():
            if session.client is not None:
                session.client.forget_plans()
        self.forget_plans()

    def count_refusal(self, reason: int, limit: str = "") -> None:
        """Count a connection that we close, by its reason code, and by the limit if it was one."""
        code = int(reason)
        self.refusals[code] = self.refusals.get(code, 0) + 1
        if limit:
            self.limits_met.count(limit)

    def pause(self) -> None:
        """Read nothing more from clients, so that what is on its way can settle."""
        for session in self.sessions.values():
            if session.client is not None:
                session.client.drain()

    def shutdown(self) -> None:
        """Close every client with "server shutting down"; sessions stay."""
        for session in list(self.sessions.values()):
            if session.client is not None:
                session.client.send_away("the broker is stopping")
        for client in list(self.unnamed):
            client.leave("the broker is stopping")

    # -- inside ----------------------------------------------------------------------------------

    def _leave_will(self, session: Session, will: Message, delay_s: int) -> None:
        session.will = will
        if delay_s > 0:
            self.release_will_in(session, delay_s)
        else:
            self.release_will(session)

    def release_will_in(self, session: Session, delay_s: float) -> None:
        """Publish the will of a session after `delay_s` seconds, unless its client comes back."""
        session.will_timer = self.reactor.wheel.at(
            clock.monotonic() + delay_s, lambda: self.release_will(session)
        )

    def release_will(self, session: Session) -> None:
        """Publish the will of a session now, if it has one that waits."""
        will, timer = session.will, session.will_timer
        session.will = session.will_timer = None
        if timer is not None:
            timer.cancel()
        if will is None:
            return
        # Rights may have changed since CONNECT.
        if session.rights.refusal(session.principal, will.topic):
            self.drops.add("denied", will.topic, publisher=session.principal.shown)
        else:
            receipt = None
            if self.kept is not None:
                receipt = self.kept.wills.publication(session.principal, will)
            self.publish(will, receipt)
            if receipt is not None:
                receipt.release()
        if self.kept is not None and self.sessions.get(session.principal.client_id) is session:
            self.kept.changed(session)

    def new_lane(self) -> Lane:
        """The way to a client, as the settings are now."""
        settings = self.settings
        return Lane(
            self.drops,
            blocks=False,
            max_inflight=settings.max_inflight,
            max_queued=settings.limits.queued_messages,
            max_queued_bytes=settings.limits.queued_bytes,
            max_unsent_bytes=settings.limits.unsent_bytes,
            keeps_qos0=settings.queue_qos0,
            traffic=self.traffic,
        )

    def _connack_properties(self) -> Properties:
        settings = self.settings
        properties: Properties = {
            PropertyId.RECEIVE_MAXIMUM: settings.receive_maximum,
            PropertyId.MAXIMUM_PACKET_SIZE: settings.max_packet_size,
        }
        if not settings.retain_available:
            properties[PropertyId.RETAIN_AVAILABLE] = 0
        return properties


def _asked_expiry(packet: Connect) -> int:
    """The session expiry interval of a CONNECT; below MQTT 5 the clean session flag says it."""
    if packet.version < 5:
        return 0 if packet.clean_start else NEVER
    interval = packet.properties.get(PropertyId.SESSION_EXPIRY_INTERVAL, 0)
    assert isinstance(interval, int)
    return interval
