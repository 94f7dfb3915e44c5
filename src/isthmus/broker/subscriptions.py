"""SUBSCRIBE and UNSUBSCRIBE at the broker."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from isthmus.broker.session import SESSION_FLAGS
from isthmus.delivery.outlet import LaneOutlet
from isthmus.errors import ProtocolViolation
from isthmus.mqtt.packets import Suback, Unsuback
from isthmus.mqtt.properties import PropertyId
from isthmus.mqtt.reasons import ReasonCode

if TYPE_CHECKING:
    from isthmus.broker.broker import Broker
    from isthmus.broker.client import Client
    from isthmus.broker.session import Session
    from isthmus.mqtt.packets import Subscribe, SubscribeOptions, Unsubscribe

SHARED_PREFIX = b"$share/"
V3_FAILURE = 0x80

FLUSH_EVERY = 64
"""Retained messages after which they are handed to the network."""


def subscribe(broker: Broker, client: Client, packet: Subscribe) -> None:
    """Grant or refuse each filter, answer, then send the retained messages that match."""
    session = client.session
    assert session is not None
    if PropertyId.SUBSCRIPTION_IDENTIFIER in packet.properties:
        # CONNACK has said that there are none (MQTT 5, 3.2.2.3.12).
        client.fail(
            ProtocolViolation(
                "subscription identifiers are not supported",
                ReasonCode.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED,
            )
        )
        return
    codes = []
    granted = []
    for filter_, asked in packet.filters:
        options = asked
        if client.bridge:
            options = replace(asked, no_local=True, retain_as_published=True)
        code = _refusal(broker, session, filter_)
        if not code:
            granted.append((filter_, options, filter_ not in session.subscriptions))
            session.subscriptions[filter_] = options
            broker.exchange.subscribe(filter_, session, options)
            code = options.qos
        elif not client.v5:
            code = V3_FAILURE
        codes.append(code)
    client.respond(Suback(packet.packet_id, codes))
    for filter_, options, new in granted:
        if options.retain_handling == 0 or (options.retain_handling == 1 and new):
            _send_retained(broker, session, filter_, options)


def unsubscribe(broker: Broker, client: Client, packet: Unsubscribe) -> None:
    """Remove each filter and answer."""
    session = client.session
    assert session is not None
    codes: list[int] = []
    for filter_ in packet.filters:
        known = session.subscriptions.pop(filter_, None) is not None
        if known:
            broker.exchange.unsubscribe(filter_, session)
        codes.append(ReasonCode.SUCCESS if known else ReasonCode.NO_SUBSCRIPTION_EXISTED)
    client.respond(Unsuback(packet.packet_id, codes))


def _refusal(broker: Broker, session: Session, filter_: bytes) -> int:
    if filter_.startswith(SHARED_PREFIX):
        return ReasonCode.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
    limit = broker.settings.limits.subscriptions_per_session
    if len(session.subscriptions) >= limit and filter_ not in session.subscriptions:
        return ReasonCode.QUOTA_EXCEEDED
    return session.rights.subscribe_refusal(session.principal, filter_)


def _send_retained(
    broker: Broker, session: Session, filter_: bytes, options: SubscribeOptions
) -> None:
    """Send what is retained for `filter_`, with the retain flag (MQTT-3.3.1-8)."""
    found = broker.retained.match(filter_)
    link = session.lane.link
    if not found or link is None:
        return
    unsent = link.unsent + sum(map(len, link.out)) if link.blocked else 0
    if unsent > broker.settings.limits.unsent_bytes:
        broker.drops.add("slow_consumer", filter_.decode(), len(found))
        return
    for number, message in enumerate(found):
        if number % FLUSH_EVERY == 0 and not link.blocked:
            link.flush()  # so that a second SUBSCRIBE of this read sees whether the client reads
        if session.rights.may_read(session.principal, message.topic):
            outlet = LaneOutlet(
                session.lane, message.topic, SESSION_FLAGS[options.qos, True], memory=True
            )
            outlet.send(message.flags, message.properties, message.payload, None)
