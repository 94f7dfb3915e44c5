"""SUBSCRIBE and UNSUBSCRIBE at the broker."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from isthmus.broker.mount import is_open, mounted
from isthmus.broker.retained_delivery import RetainedDelivery
from isthmus.broker.session import Subscription
from isthmus.mqtt.packets import Suback, Unsuback
from isthmus.mqtt.properties import PropertyId
from isthmus.mqtt.reasons import ReasonCode
from isthmus.mqtt.topics import is_wildcard, shape, split_shared

if TYPE_CHECKING:
    from isthmus.broker.broker import Broker
    from isthmus.broker.client import Client
    from isthmus.broker.session import Session
    from isthmus.broker.settings import LimitSettings
    from isthmus.mqtt.packets import Subscribe, Unsubscribe

V3_FAILURE = 0x80

BYTES_PER_PLACE = 300
"""What a filter takes besides its bytes, and what each level of a tree of filters takes."""


def subscribe(broker: Broker, client: Client, packet: Subscribe) -> None:
    """Grant or refuse each filter, answer, then send the retained messages that match."""
    session = client.session
    assert session is not None
    limits = broker.settings.limits
    identifiers = packet.properties.get(PropertyId.SUBSCRIPTION_IDENTIFIER)
    identifier = identifiers[0] if identifiers else 0
    codes = []
    retained = []
    for own, asked in packet.filters:
        filter_ = mounted(session.mount, own)
        options = asked
        if asked.qos > client.entrance.max_qos:
            options = replace(asked, qos=client.entrance.max_qos)
        if client.bridge:
            options = replace(options, no_local=True, retain_as_published=True)
        new = filter_ not in session.subscriptions
        group, bare = split_shared(filter_)
        code = _refusal(limits, session, bare, new=new)
        if is_open(own) and session.mount and not session.mount.endswith(b"/"):
            code = ReasonCode.TOPIC_FILTER_INVALID  # a wildcard is a whole level
        if not code:
            if new:
                _account(session, bare, 1)
            subscription = Subscription(options, identifier, is_open(own))
            session.subscriptions[filter_] = subscription
            if group is not None:
                broker.join_share(filter_, session, subscription)
            else:
                broker.exchange.subscribe(filter_, session, subscription)
                if (options.retain_handling == 0 or (options.retain_handling == 1 and new)) and (
                    broker.retained.may_match(filter_)
                ):
                    retained.append((filter_, subscription))
            code = options.qos
        elif not client.v5:
            code = V3_FAILURE
        codes.append(code)
    client.respond(Suback(packet.packet_id, codes))
    if retained:
        delivery = session.retained_delivery
        if delivery is None:
            delivery = session.retained_delivery = RetainedDelivery(broker.retained, session)
        for filter_, subscription in retained:
            delivery.add(filter_, subscription)


def unsubscribe(broker: Broker, client: Client, packet: Unsubscribe) -> None:
    """Remove each filter and answer."""
    session = client.session
    assert session is not None
    codes: list[int] = []
    for own in packet.filters:
        filter_ = mounted(session.mount, own)
        known = session.subscriptions.pop(filter_, None) is not None
        if known:
            _account(session, split_shared(filter_)[1], -1)
            broker.forget_subscription(filter_, session)
            if session.retained_delivery is not None:
                session.retained_delivery.discard(filter_)
        codes.append(ReasonCode.SUCCESS if known else ReasonCode.NO_SUBSCRIPTION_EXISTED)
    client.respond(Unsuback(packet.packet_id, codes))


def _refusal(limits: LimitSettings, session: Session, filter_: bytes, *, new: bool) -> int:
    if new:
        count = len(session.subscriptions)
        if (
            count >= limits.subscriptions_per_session
            or session.subscription_bytes + _memory(filter_) > limits.subscription_bytes
            or (count >= limits.wildcard_shapes and _adds_a_shape(session, filter_, limits))
        ):
            return ReasonCode.QUOTA_EXCEEDED
    return session.rights.subscribe_refusal(session.principal, filter_)


def _memory(filter_: bytes) -> int:
    """What a subscription to `filter_` takes, roughly; see `limits.subscription_bytes`."""
    size = len(filter_) + BYTES_PER_PLACE
    if is_wildcard(filter_):
        size += (filter_.count(b"/") + 1) * BYTES_PER_PLACE
    return size


def _adds_a_shape(session: Session, filter_: bytes, limits: LimitSettings) -> bool:
    """Whether `filter_` would be one shape too many.

    The shapes are counted only once there are as many subscriptions as there may be shapes: most
    sessions never get there.
    """
    if not is_wildcard(filter_):
        return False
    if session.shapes is None:
        session.shapes = Counter(
            shape(bare)
            for known in session.subscriptions
            if is_wildcard(bare := split_shared(known)[1])
        )
    return len(session.shapes) >= limits.wildcard_shapes and shape(filter_) not in session.shapes


def _account(session: Session, filter_: bytes, change: int) -> None:
    """Count a subscription that comes (1) or goes (-1)."""
    session.subscription_bytes += change * _memory(filter_)
    shapes = session.shapes
    if shapes is not None and is_wildcard(filter_):
        found = shape(filter_)
        left = shapes.get(found, 0) + change
        if left:
            shapes[found] = left
        else:
            del shapes[found]
