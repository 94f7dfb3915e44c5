"""SUBSCRIBE and UNSUBSCRIBE at the broker."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from isthmus.broker.mount import is_open, mounted
from isthmus.broker.retained_delivery import RetainedDelivery
from isthmus.broker.session import Subscription
from isthmus.mqtt.packets import Suback, Unsuback
from isthmus.mqtt.properties import PropertyId
from isthmus.mqtt.reasons import ReasonCode, explanation
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
    identifiers = packet.properties.get(PropertyId.SUBSCRIPTION_IDENTIFIER)
    identifier = identifiers[0] if identifiers else 0
    codes = []
    told: dict[int, str] = {}
    retained = []
    changed = False
    for own, asked in packet.filters:
        group, bare = split_shared(own)
        wide = is_open(own)
        filter_ = own
        if session.mount:
            filter_, bare = mounted(session.mount, own), session.mount + bare
        options = asked
        if asked.qos > client.entrance.max_qos:
            options = replace(asked, qos=client.entrance.max_qos)
        if client.bridge:
            options = replace(options, no_local=True, retain_as_published=True)
        new = filter_ not in session.subscriptions
        code = _refusal(broker, client, filter_, bare, shared=group is not None)
        told |= _too_deep(broker, client, bare) if code == ReasonCode.TOPIC_FILTER_INVALID else {}
        if wide and session.mount and not session.mount.endswith(b"/"):
            code = ReasonCode.TOPIC_FILTER_INVALID  # a wildcard is a whole level
        if not code:
            subscription = Subscription(options, identifier, wide)
            other = session.subscriptions.get(filter_) != subscription
            take(broker, session, filter_, subscription)
            if other and broker.kept is not None and session.kept:
                broker.kept.table.subscribed(session, filter_)
                changed = True
            if (
                group is None
                and (options.retain_handling == 0 or (options.retain_handling == 1 and new))
                and broker.retained.may_match(filter_)
            ):
                retained.append((filter_, subscription))
            code = options.qos
        elif not client.v5:
            code = V3_FAILURE
        codes.append(code)

    def answer() -> None:
        client.respond(Suback(packet.packet_id, codes, explanation(codes, told)))
        for filter_, subscription in retained:
            if session.subscriptions.get(filter_) is not subscription:
                continue  # it has changed while this waited for the disk
            delivery = session.retained_delivery
            if delivery is None:
                delivery = session.retained_delivery = RetainedDelivery(broker.retained, session)
            delivery.add(filter_, subscription)

    client.when_kept(answer, changed=changed)


def take(broker: Broker, session: Session, filter_: bytes, subscription: Subscription) -> None:
    """Make a subscription of `session`, or replace the one that it has to this filter."""
    group, bare = split_shared(filter_)
    if filter_ not in session.subscriptions:
        _account(session, bare, 1)
    session.subscriptions[filter_] = subscription
    if group is not None:
        broker.join_share(filter_, session, subscription)
    else:
        broker.exchange.subscribe(filter_, session, subscription)


def unsubscribe(broker: Broker, client: Client, packet: Unsubscribe) -> None:
    """Remove each filter and answer."""
    session = client.session
    assert session is not None
    codes: list[int] = []
    changed = False
    for own in packet.filters:
        filter_ = mounted(session.mount, own) if session.mount else own
        known = session.subscriptions.pop(filter_, None) is not None
        if known:
            _account(session, split_shared(filter_)[1], -1)
            broker.forget_subscription(filter_, session)
            if broker.kept is not None and session.kept:
                broker.kept.table.unsubscribed(session, filter_)
                changed = True
            if session.retained_delivery is not None:
                session.retained_delivery.discard(filter_)
        codes.append(ReasonCode.SUCCESS if known else ReasonCode.NO_SUBSCRIPTION_EXISTED)
    unsuback = Unsuback(packet.packet_id, codes, explanation(codes))
    client.when_kept(partial(client.respond, unsuback), changed=changed)


def _refusal(broker: Broker, client: Client, filter_: bytes, bare: bytes, *, shared: bool) -> int:
    """Why a subscription may not be, as a reason code; 0 if it may.

    `bare` is what `filter_` matches by, without `$share` and the group.
    """
    session = client.session
    assert session is not None
    if filter_ not in session.subscriptions:
        limit = _limit_met(broker.settings.limits, session, bare)
        if shared and not limit:
            limit = broker.share_limit_met(filter_)
        if limit:
            broker.limits_met.say(
                limit, client.origin.client_id, f"client {client.name}: a subscription is refused"
            )
            return ReasonCode.QUOTA_EXCEEDED
    return session.rights.subscribe_refusal(session.principal, bare)


def _too_deep(broker: Broker, client: Client, bare: bytes) -> dict[int, str]:
    """What a client is told of a filter beyond `limits.topic_levels`, which is counted."""
    session = client.session
    assert session is not None
    if not session.rights.too_deep(bare):
        return {}
    text = f"more than {session.rights.topic_levels} levels"
    broker.limits_met.say(
        "topic_levels",
        client.origin.client_id,
        f"client {client.name}: a subscription is refused: {text}",
    )
    return {ReasonCode.TOPIC_FILTER_INVALID: text}


def _limit_met(limits: LimitSettings, session: Session, filter_: bytes) -> str:
    """The name of the limit of a session that a new subscription would break, or ""."""
    count = len(session.subscriptions)
    if count >= limits.subscriptions_per_session:
        return "subscriptions_per_session"
    if session.subscription_bytes + _memory(filter_) > limits.subscription_bytes:
        return "subscription_bytes"
    if count >= limits.wildcard_shapes and _adds_a_shape(session, filter_, limits):
        return "wildcard_shapes"
    return ""


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
