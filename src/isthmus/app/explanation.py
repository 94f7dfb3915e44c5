"""A configuration in words: what `isthmus check` prints.

User names and passwords are not repeated: they may have come from `${env:...}` or `${file:...}`.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from isthmus.routing.topic_map import TopicMap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isthmus.app.settings import Settings
    from isthmus.connectors.settings import ConnectorSettings
    from isthmus.net.settings import ListenerSettings
    from isthmus.routing.settings import RouteSettings

LOCAL = "local"


def explain(settings: Settings) -> Iterator[str]:
    """The lines that say what a process with these settings does."""
    yield f"This is node {settings.node}."
    for listener in settings.listeners:
        yield f"Clients connect to {_listener(listener)}."
    if not settings.listeners:
        yield "No client can connect: there are no listeners."
    else:
        yield f"Clients need {_access(settings)}."
    yield _memory(settings)
    used = {end for route in settings.routes.values() for end in (route.source, route.to)}
    for name, connector in settings.connectors.items():
        yield f"Connector {name}: {_connector(connector)}."
        if name not in used:
            yield f"  No route uses {name}: it connects, and nothing moves."
        if connector.password is not None and not connector.use_tls and not _near(connector.host):
            yield f"  Everybody on the way to {connector.host} can read the password: use mqtts://."
    if not settings.routes:
        yield "There are no routes: messages stay between the clients of this broker."
    for name, route in settings.routes.items():
        yield f"Route {name}, from {route.source} to {route.to}: {_mapping(route, settings.node)}."
        yield f"  {_qos(route)}; {_retain(route.retain)}."
        yield f"  {_safety(route)}."


def _listener(settings: ListenerSettings) -> str:
    tls = settings.tls
    if tls is None:
        text = f"{settings.bind}, not encrypted"
    elif tls.require_client_certificate:
        text = f"{settings.bind} with TLS, showing a certificate signed by {tls.client_ca}"
    else:
        text = f"{settings.bind} with TLS"
    return f"{text}, from this machine only" if settings.loopback else text


def _access(settings: Settings) -> str:
    auth = settings.auth
    parts = []
    if auth.password_file is not None:
        parts.append(f"a user name and password of {auth.password_file}")
    if settings.anonymous_allowed:
        parts.append("or none" if parts else "no user name and no password")
    text = " ".join(parts) or "a client certificate"
    if auth.acl_file is not None:
        return f"{text}, and may read and write what {auth.acl_file} allows"
    return f"{text}, and may read and write every topic"


def _memory(settings: Settings) -> str:
    folder = settings.broker.data
    text = "Sessions and retained messages are in memory: a restart forgets them."
    if folder is not None:
        return f"{text} Generated client ids are kept in {folder}."
    if any(connector.client_id is None for connector in settings.connectors.values()):
        text += (
            " Without a data folder (broker.data) generated client ids are new at each start, "
            "so far sides keep nothing for this one over a restart."
        )
    return text


def _connector(settings: ConnectorSettings) -> str:
    if settings.static_client_ids:
        pool = "one connection for each client id of this node"
    else:
        pool = "one connection" if settings.pool == 1 else f"{settings.pool} connections"
    parts = [f"{pool} to {settings.host} port {settings.port}", _security(settings)]
    backups = ", then ".join(str(address) for address in settings.addresses[1:])
    if backups:
        parts.append(f"if that fails {backups}")
    version = f"MQTT {settings.version}"
    parts.append(f"{version}, or 3.1.1 if that is refused" if settings.version == "5" else version)
    if settings.username is None:
        parts.append("with a password alone" if settings.password else "without a user name")
    else:
        parts.append(f"with a user name and {'a' if settings.password else 'no'} password")
    if settings.client_id is not None:
        parts.append(f"client id {settings.client_id}")
    return ", ".join(parts)


def _security(settings: ConnectorSettings) -> str:
    if not settings.use_tls:
        return "not encrypted"
    tls = settings.tls
    roots = "the authorities of this system" if tls is None or tls.ca is None else str(tls.ca)
    text = f"TLS verified with {roots}"
    if tls is not None and not tls.verify_hostname:
        text += " (but for any host name)"
    if tls is not None and tls.certificate is not None:
        text += f", showing {tls.certificate}"
    return text


def _mapping(route: RouteSettings, node: str) -> str:
    filters = " and ".join([", ".join(route.topics[:-1]), route.topics[-1]]).removeprefix(" and ")
    if route.source == LOCAL:
        text = f"what clients of this broker publish on {filters}"
    else:
        text = f"what {route.source} sends on {filters}"
    text += " goes to the clients of this broker" if route.to == LOCAL else f" goes to {route.to}"
    if not route.maps_topics:
        return f"{text}, on the same topic"
    topics = TopicMap.of(route, node)
    before = _sample(route)
    after = topics.apply(before.encode(), "CLIENTID", "USERNAME").decode()
    if route.strip:
        text += f", with {route.strip} taken from the front"
    if str(topics) != "${topic}":
        text += f", as {topics}"
    return f"{text}: {before} becomes {after}"


def _sample(route: RouteSettings) -> str:
    """A topic that the route takes."""
    wanted = route.topics[0]
    if wanted.startswith("$share/"):
        wanted = wanted.split("/", 2)[2]
    levels = wanted.split("/")
    return "/".join({"+": "a", "#": "b"}.get(level, level) for level in levels)


def _qos(route: RouteSettings) -> str:
    if route.qos != "keep":
        return f"Every message leaves with QoS {route.qos}"
    if route.max_qos is not None and route.max_qos < 2:
        return f"Messages keep their QoS, but leave with {route.max_qos} at most"
    return "Messages keep their QoS"


def _retain(retain: str) -> str:
    return {
        "keep": "they are retained if they were",
        "set": "all are retained",
        "clear": "none is retained",
    }[retain]


def _safety(route: RouteSettings) -> str:
    publisher = "Their publisher" if route.source == LOCAL else route.source
    if route.to == LOCAL:
        return f"{publisher} gets the acknowledgement when this broker has the message"
    if route.qos == 0 or route.max_qos == 0:
        return (
            f"{publisher} gets the acknowledgement at once, as the messages leave with QoS 0: "
            f"they are dropped while {route.to} is away"
        )
    if route.durability == "memory":
        text = (
            f"{publisher} gets the acknowledgement when the message is in memory here: "
            "what waits there is lost with the process"
        )
    else:
        text = (
            f"{publisher} gets the acknowledgement of QoS 1 and 2 when {route.to} has sent its own"
        )
    waits = "is dropped" if route.qos == "keep" else "waits in memory"
    return f"{text}; QoS 0 {waits} while {route.to} is away"


def _near(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
