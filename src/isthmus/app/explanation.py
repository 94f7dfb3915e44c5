"""A configuration in words: what `isthmus check` prints.

User names and passwords are not repeated: they may have come from `${env:...}` or `${file:...}`.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from isthmus.config.units import format_duration, format_rate, format_size
from isthmus.config.version import LEVELS
from isthmus.connectors.identity import static_identities
from isthmus.delivery.queue_limits import QueueLimits
from isthmus.errors import MQTTError
from isthmus.routing.leg import Leg, legs
from isthmus.routing.rings import echoes, rings
from isthmus.routing.shared_queue import shared_limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic import SecretStr

    from isthmus.app.door import BrokerListenerSettings, Door
    from isthmus.app.settings import Settings
    from isthmus.connectors.identity import Identity
    from isthmus.connectors.settings import ConnectorSettings
    from isthmus.web.settings import HttpSettings

LOCAL = "local"


def explain(settings: Settings) -> Iterator[str]:
    """The lines that say what a process with these settings does."""
    yield f"This is node {settings.node}."
    for listener in settings.listeners:
        yield f"Clients connect to {_listener(listener)}."
        limits = ", ".join(_limits(listener))
        if limits:
            yield f"  There: {limits}."
    if not settings.listeners:
        yield "No client can connect: there are no listeners."
    for door in settings.doors:
        if door.listeners:
            places = ", ".join(listener.place for listener in door.listeners.values())
            where = f" at {places}" if len(door.listeners) < len(settings.listeners) else ""
            yield f"Clients{where} need {_access(door)}."
    if settings.http is not None:
        yield _http(settings.http)
    yield _memory(settings)
    used = {end for route in settings.routes.values() for end in (route.source, route.to)}
    for name, connector in settings.connectors.items():
        own = static_identities(connector, settings.node)
        if connector.static_client_ids and not own:
            yield (
                f"Connector {name}: no connection is opened, as 'static_client_ids' has no client "
                f"id for node {settings.node}; messages for it wait."
            )
            yield from _without_effect(connector)
            continue
        yield f"Connector {name}: {_connector(connector, own)}."
        yield from _when(connector)
        yield from _without_effect(connector)
        if name not in used:
            yield f"  No route uses {name}: it connects, and nothing moves."
        logins = [one.password for one in own] or [connector.password]
        if any(logins) and not connector.use_tls and not _near(connector.host):
            yield f"  Everybody on the way to {connector.host} can read the password: use mqtts://."
    if not settings.routes:
        yield "There are no routes: messages stay between the clients of this broker."
    directions = list(legs(settings.routes, settings.node))
    for leg in directions:
        yield f"Route {leg.route}, from {leg.source} to {leg.target}: {_mapping(leg)}."
        yield f"  {_qos(leg)}; {_retain(leg.settings.retain)}."
        target = settings.connectors.get(leg.target)
        waits = leg.settings.queue_qos0 or (target is not None and target.start == "lazy")
        yield f"  {_safety(leg, on_disk=settings.broker.stores, waits=waits)}."
        there = [one.settings for one in directions if one.target == leg.target]
        on_disk = settings.broker.stores and any(one.durability == "disk" for one in there)
        yield from _particulars(leg, target, on_disk=on_disk)
        shared = shared_limits([one.queue for one in there])
        if leg.target != LOCAL and shared != QueueLimits():
            yield _queue(shared, leg.target)
    yield from _circles(settings, directions)


def _listener(settings: BrokerListenerSettings) -> str:
    tls = settings.tls
    if tls is None:
        text = f"{settings.place}, not encrypted"
    elif tls.require_client_certificate:
        text = f"{settings.place} with TLS, showing a certificate signed by {tls.client_ca}"
        if not tls.verify_client_dates:
            text += " (also one that has expired)"
    else:
        text = f"{settings.place} with TLS"
    if settings.transport == "websocket":
        text += f", by WebSocket at {settings.path}"
    if settings.proxy_protocol:
        text += f", behind a load balancer ({', '.join(settings.proxy_networks)})"
    return f"{text}, from this machine only" if settings.loopback else text


def _http(settings: HttpSettings) -> str:
    """The HTTP port in words."""
    parts = [f"Metrics and health are at {settings.url}"]
    if settings.on_this_machine:
        parts.append("for this machine only")
    if settings.asks_certificates and settings.tls is not None:
        parts.append(f"showing a certificate signed by {settings.tls.client_ca}")
    else:
        parts.append("without a password")
    if "bind" not in settings.model_fields_set:
        parts.append("unless something else is there already")
    return f"{', '.join(parts)}."


def _limits(settings: BrokerListenerSettings) -> Iterator[str]:
    """What holds for the clients of one listener alone."""
    if settings.mount_point is not None:
        yield f"their topic t is {settings.mount_point}t in the broker"
    if settings.max_connections is not None:
        yield f"at most {settings.max_connections} clients"
    if settings.max_qos is not None:
        yield f"QoS {settings.max_qos} at most"
    if settings.username_as_client_id:
        yield "the user name is the client id"
    if settings.allow_empty_client_id is False:
        yield "a client id is needed"
    if set(settings.versions) != set(LEVELS):
        yield f"MQTT {' and '.join(sorted(set(settings.versions)))} only"


def _access(door: Door) -> str:
    auth = door.auth
    parts = []
    if auth.identity != "username":
        name = "common name" if auth.identity == "common_name" else "subject"
        parts.append(f"a client certificate, whose {name} is the user name")
    if auth.jwt is not None:
        parts.append("a token")
    if auth.password_file is not None:
        parts.append(f"a user name and password of {auth.password_file}")
    if auth.http is not None:
        parts.append(f"the consent of {auth.http.url}")
    if auth.scram is not None:
        parts.append(f"SCRAM-SHA-256 with a user of {auth.scram}")
    parts += [f"the method of {path}" for path in auth.methods]
    if door.anonymous_allowed:
        parts.append("none" if parts else "no user name and no password")
    text = " or ".join(parts) or "a client certificate"
    if auth.acl_file is not None:
        return f"{text}, and may read and write what {auth.acl_file} allows"
    return f"{text}, and may read and write every topic"


def _memory(settings: Settings) -> str:
    folder = settings.broker.data
    if settings.broker.stores:
        return (
            "Sessions with what waits for them, retained messages, what waits for connectors and "
            f"generated client ids are kept in {folder}."
        )
    text = "Sessions and retained messages are in memory: a restart forgets them."
    if folder is not None:
        return f"{text} Generated client ids are kept in {folder}."
    if any(
        connector.client_id is None and not connector.static_client_ids
        for connector in settings.connectors.values()
    ):
        text += (
            " Without a data folder (broker.data) generated client ids are new at each start, "
            "so far sides keep nothing for this one over a restart."
        )
    return text


def _connector(settings: ConnectorSettings, own: Sequence[Identity]) -> str:
    """A connector in words; `own` are its static client ids for this node."""
    count = len(own) or settings.pool
    pool = "one connection" if count == 1 else f"{count} connections"
    where = f"{settings.host} port {settings.port}" if settings.port else f"unix:{settings.host}"
    parts = [f"{pool} to {where}", _security(settings)]
    if settings.address.path:
        parts.insert(1, f"by WebSocket at {settings.address.path.partition('?')[0]}")
    backups = ", then ".join(str(address) for address in settings.addresses[1:])
    if backups:
        parts.append(f"if that fails {backups}")
    if settings.proxy_address is not None:
        parts.append(f"through the proxy {settings.proxy_address}")
    version = f"MQTT {settings.version}"
    parts.append(f"{version}, or 3.1.1 if that is refused" if settings.version == "5" else version)
    if own:
        parts += [f"client id {one.client_id} {_proof(settings, one)}" for one in own]
    else:
        parts.append(_login(settings.username, settings.password))
    if settings.client_id is not None:
        parts.append(f"client id {settings.client_id}")
    return ", ".join(parts)


def _when(settings: ConnectorSettings) -> Iterator[str]:
    """When it connects, where that is not always."""
    lazy = settings.lazy
    if settings.start == "lazy":
        yield (
            f"  It connects when {lazy.threshold} messages wait, or one for "
            f"{format_duration(lazy.after)}, and closes after "
            f"{format_duration(lazy.idle_timeout)} without a message."
        )
    elif settings.start == "once":
        yield "  It connects once, when this process starts, and not again."


def _without_effect(settings: ConnectorSettings) -> Iterator[str]:
    if settings.without_effect:
        yield f"  Without effect beside 'static_client_ids': {settings.without_effect}."


def _login(username: str | None, password: SecretStr | None) -> str:
    if username is None:
        return "with a password alone" if password else "without a user name"
    return f"with a user name and {'a' if password else 'no'} password"


def _proof(settings: ConnectorSettings, identity: Identity) -> str:
    """What a static client id proves who it is with."""
    text = _login(identity.username, identity.password)
    shown = identity.tls.certificate
    common = None if settings.tls is None else settings.tls.certificate
    if shown is not None and shown != common and settings.use_tls:
        text += f" and the certificate {shown}"
    return text


def _security(settings: ConnectorSettings) -> str:
    if not settings.use_tls:
        return "not encrypted"
    tls = settings.tls
    roots = "the authorities of this system" if tls is None or tls.ca is None else str(tls.ca)
    text = f"TLS verified with {roots}"
    if tls is not None and not tls.verify_hostname:
        text += " (but for any host name)"
    shown = None if tls is None else tls.certificate or tls.store
    if shown is not None:
        text += f", showing {shown}"
    return text


def _mapping(leg: Leg) -> str:
    filters = _listed(_texts(leg.subscribed))
    if leg.source == LOCAL:
        text = f"what clients of this broker publish on {filters}"
    else:
        text = f"what {leg.source} sends on {filters}"
    if leg.selection.excluded:
        sides = f" here at {leg.target}" if leg.back else ""
        text += f", but not {_listed(_texts(leg.selection.excluded))}{sides},"
    text += (
        " goes to the clients of this broker" if leg.target == LOCAL else f" goes to {leg.target}"
    )
    topics = leg.topics
    if not topics.changes:
        return f"{text}, on the same topic"
    taken = topics.strip
    if taken:
        text += f", with {taken} taken from the front"
    if str(topics) != "${topic}":
        text += f", as {topics}"
    before = _sample(leg.filters[0])
    try:
        after = topics.apply(
            before.encode(),
            leg.filters[0],
            client_id="CLIENTID",
            username="USERNAME",
            connection="CONNECTION",
        ).decode()
    except MQTTError:
        return text  # only longer topics have what it names
    example = "" if leg.subscribed == (before.encode(),) else "for example "
    return f"{text}: {example}{before} becomes {after}"


def _texts(filters: Sequence[bytes]) -> list[str]:
    return [filter_.decode() for filter_ in filters]


def _listed(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]]).removeprefix(" and ")


def _sample(filter_: bytes) -> str:
    """A topic that the filter matches."""
    levels = filter_.decode().split("/")
    return "/".join({"+": "a", "#": "b"}.get(level, level) for level in levels)


def _qos(leg: Leg) -> str:
    route = leg.settings
    if route.qos != "keep":
        return f"Every message leaves with QoS {route.qos}"
    if route.max_qos is not None and route.max_qos < 2:
        return f"Messages keep their QoS, but leave with {route.max_qos} at most"
    return "Messages keep their QoS"


def _carries_qos_2(leg: Leg) -> bool:
    route = leg.settings
    return route.qos == 2 or (route.qos == "keep" and route.max_qos in (None, 2))


def _retain(retain: str) -> str:
    return {
        "keep": "they are retained if they were",
        "set": "all are retained",
        "clear": "none is retained",
    }[retain]


def _safety(leg: Leg, *, on_disk: bool, waits: bool) -> str:
    route, target = leg.settings, leg.target
    publisher = "Their publisher" if leg.source == LOCAL else leg.source
    if target == LOCAL:
        return f"{publisher} gets the acknowledgement when this broker has the message"
    if route.qos == 0 or route.max_qos == 0:
        fate = "wait in memory" if waits else "are dropped"
        return (
            f"{publisher} gets the acknowledgement at once, as the messages leave with QoS 0: "
            f"they {fate} while {target} is away"
        )
    if route.durability == "memory":
        text = (
            f"{publisher} gets the acknowledgement when the message is in memory here: "
            "what waits there is lost with the process"
        )
    else:
        text = f"{publisher} gets the acknowledgement of QoS 1 and 2 when {target} has sent its own"
        if on_disk:
            text += ", or when the message is on disk here"
    raised = "waits" if on_disk else "waits in memory"
    kept = "waits in memory" if waits else "is dropped"
    fate = kept if route.qos == "keep" else raised
    return f"{text}; QoS 0 {fate} while {target} is away"


def _queue(limits: QueueLimits, target: str) -> str:
    """What becomes of what is too much, in words."""
    room = format_size(limits.max_bytes)
    if limits.max_messages:
        room += f" or {limits.max_messages} messages"
    full = {
        "block": "publishers wait",
        "reject": "more is refused: MQTT 5 publishers get 0x97, MQTT 3 ones no acknowledgement",
        "drop_oldest": "the oldest messages are dropped, although they were acknowledged",
        "dead_letter": "more goes to the dead letters",
    }[limits.when_full]
    text = f"  When {room} wait for a connection of {target}, {full}"
    if limits.max_age_s:
        text += f"; what waited for more than {format_duration(limits.max_age_s)} is not sent"
    return f"{text}."


def _particulars(leg: Leg, target: ConnectorSettings | None, *, on_disk: bool) -> Iterator[str]:
    """What a route has that most have not."""
    route = leg.settings
    if target is not None and len(target.addresses) > 1 and _carries_qos_2(leg):
        yield (
            f"  What is on its way with QoS 2 when {leg.target} changes its address can arrive at "
            "both addresses."
        )
    if route.connection is not None and not leg.back:
        yield f"  Messages leave by the connection with the client id {route.connection}."
    if route.may_overtake:
        yield f"  {_overtaking(leg.target, target, on_disk=on_disk)}."
    if route.drain_rate is not None:
        yield f"  {_drain_rate(leg, route.drain_rate, target, on_disk=on_disk)}."
    if route.check_as is not None:
        yield f"  Only what user {route.check_as} may do is done; the rest is refused and counted."
    if route.priority or route.stop:
        text = f"  It comes with priority {route.priority}"
        if route.stop:
            text += ", and what it takes is not taken by routes that come after it"
        yield f"{text}."


def _overtaking(name: str, target: ConnectorSettings | None, *, on_disk: bool) -> str:
    """What `may_overtake` does."""
    why = _nothing_drains(name, target, on_disk=on_disk)
    if why:
        return f"may_overtake has no effect: {why}"
    return "After an outage new messages are sent before those that waited, out of order"


def _drain_rate(leg: Leg, rate: float, target: ConnectorSettings | None, *, on_disk: bool) -> str:
    """What `drain_rate` does."""
    why = _nothing_drains(leg.target, target, on_disk=on_disk)
    if why:
        return f"drain_rate has no effect: {why}"
    topics = ", ".join(image.decode() for image in leg.images)
    return (
        f"What an outage has left for {topics} is sent at {format_rate(rate)} at most, and what "
        "stands behind it waits with it"
    )


def _nothing_drains(name: str, target: ConnectorSettings | None, *, on_disk: bool) -> str:
    """Why an outage leaves nothing on disk whose sending could be ruled; empty where it does."""
    if target is None:
        return "nothing on the way to local waits on disk"
    if target.rate_limit is not None:
        return f"{name} has a rate_limit, which holds for all messages"
    return "" if on_disk else "nothing waits on disk without a data folder and 'durability: disk'"


def _circles(settings: Settings, directions: list[Leg]) -> Iterator[str]:
    """What can go round or come back."""

    def place(endpoint: str) -> object:
        connector = settings.connectors.get(endpoint)
        return endpoint if connector is None else (connector.host.lower(), connector.port)

    for ring in rings(directions, place, LOCAL):
        way = ", ".join(f"{leg.name} ({leg.source} to {leg.target})" for leg in ring)
        text = "A ring" if len(ring) > 1 else "A ring of one"
        far = sorted({leg.target for leg in ring} - {LOCAL})
        same = f"; {' and '.join(far)} are one service" if len(far) > 1 else ""
        leaving = [leg for leg in ring if leg.target != LOCAL]
        if leaving and all(_guarded(settings, leg) for leg in leaving):
            yield (
                f"{text}: messages can come back by {way}{same}; the loop guard drops them, as "
                "long as every broker between passes user properties of MQTT 5 on."
            )
        else:
            yield (
                f"{text}: messages can go round for ever by {way}{same}. "
                "Use other topics on one of the ways, or exclude them with '!'."
            )
    for out, back in echoes(directions, LOCAL):
        connector = settings.connectors[out.target]
        if connector.version != "5":
            knows = f", unless {connector.host} is Mosquitto or Isthmus" * connector.bridge_bit
            drops = "drops" if out.settings.loop_guard.memory else "would drop"
            yield (
                f"What goes to {out.target} by {out.name} comes back once by {back.name}{knows}: "
                f"MQTT {connector.version} cannot say that we do not want our own messages. "
                f"`loop_guard: {{memory: true}}` on {out.name} {drops} what comes back."
            )


def _guarded(settings: Settings, leg: Leg) -> bool:
    """Whether what leaves by this route carries its hops."""
    return leg.settings.loop_guard.hops and settings.connectors[leg.target].version == "5"


def _near(host: str) -> bool:
    try:
        return host == "localhost" or host.startswith("/") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
