"""Connections of `mosquitto.conf` as connectors and routes."""

from __future__ import annotations

import re
import socket
from itertools import count
from pathlib import Path

from isthmus.app.mosquitto.blocks import Block, Configuration, Setting
from isthmus.app.mosquitto.draft import Draft, literal
from isthmus.app.mosquitto.grammar import ValueProblem
from isthmus.app.mosquitto.options import OPTIONS
from isthmus.app.mosquitto.topic_lines import (
    TopicLine,
    by_precedence,
    overlap,
    parse_topic_line,
)
from isthmus.config.problems import Loc
from isthmus.mqtt.topics import covers

LOCAL = "local"
DEFAULT_PORT = 1883
DEFAULT_INFLIGHT = 20
DEFAULT_MAX_PACKET_SIZE_BYTES = 2_000_000

VERSIONS = {"mqttv31": "3.1", "mqttv311": "3.1.1", "mqttv50": "5"}
LEAST_KEEPALIVE_S = 5
LONGEST_RESTART_S = 3600
LONGEST_CAP_S = 7200

_NO_NAME = re.compile(r"[^A-Za-z0-9_-]")
_LEADING_NUMBER = re.compile(r"[+-]?\d+")
_NEEDS_TLS = (
    "bridge_certfile",
    "bridge_keyfile",
    "bridge_alpn",
    "bridge_insecure",
    "bridge_tls_version",
    "bridge_ciphers",
)
_TLS_SWITCHES = ("bridge_cafile", "bridge_capath", "bridge_tls_use_os_certs")


def write_bridges(configuration: Configuration, draft: Draft) -> None:
    """Write a connector for every connection, and the routes of its topic lines."""
    taken = {LOCAL}
    local_ids: dict[str, Block] = {}
    for connection in configuration.connections:
        assert connection.opened is not None
        name = _free_name(connection.opened.statement.words[0], taken)
        client_id = _connector(configuration, connection, name, draft)
        found = connection.last("local_clientid")
        local_id = str(found.value) if found else f"local.{client_id}"
        if local_id in local_ids:
            draft.problem(found or connection, "another connection has the same local client id")
        local_ids[local_id] = connection
        draft.put(("connectors", name, "local_client_id"), literal(local_id), found)
        _routes(configuration, connection, name, draft)


def _connector(configuration: Configuration, block: Block, name: str, draft: Draft) -> str:
    """Write the connector itself; returns its client id."""
    loc: Loc = ("connectors", name)
    tls = any(block.last(option) for option in _TLS_SWITCHES[:2]) or block.is_on(_TLS_SWITCHES[2])
    _addresses(block, loc, draft, tls=tls)
    _version(block, loc, draft)
    assert block.opened is not None
    found = block.last("remote_clientid")
    connection = block.opened.statement.words[0]
    client_id = str(found.value) if found else f"{socket.gethostname()}.{connection}"
    draft.put((*loc, "client_id"), literal(client_id), found or block)
    draft.take(block, "remote_username", (*loc, "username"))
    draft.take(block, "remote_password", (*loc, "password"))
    if block.last("remote_password") and not block.last("remote_username"):
        found = block.last("remote_password")
        assert found is not None
        if "bridge_protocol_version" not in block.lines:
            draft.note(found, "without 'remote_username' it needs MQTT 5")
    _session(block, loc, draft)
    _limits(configuration, block, loc, draft)
    _life(block, loc, draft)
    _notifications(block, loc, draft, client_id)
    if tls:
        _tls(block, loc, draft)
    else:
        for option in _NEEDS_TLS:
            setting = block.last(option)
            if setting is not None and setting.value is not False:
                text = (
                    "has no effect without bridge_cafile, bridge_capath or "
                    "bridge_tls_use_os_certs, as in Mosquitto: the connection is not encrypted"
                )
                draft.note(setting, text, loud=True)
    return client_id


def _addresses(block: Block, loc: Loc, draft: Draft, *, tls: bool) -> None:
    found = block.last("address")
    if found is None:
        return
    urls = []
    for word in found.statement.words:
        if word.startswith("#"):
            break
        try:
            urls.append(f"{'mqtts' if tls else 'mqtt'}://{_address(word)}")
        except ValueProblem as problem:
            draft.problem(found, str(problem))
    if urls:
        draft.put((*loc, "url"), urls[0] if len(urls) == 1 else urls, found)
    if len(urls) > 1 and block.is_on("round_robin"):
        draft.put((*loc, "round_robin"), True, block.last("round_robin"))


def _address(word: str) -> str:
    """`host:port` with brackets around IPv6; the port is what follows the last colon."""
    if "," in word:
        raise ValueProblem("commas do not separate addresses; write spaces")
    host, colon, port = word.rpartition(":")
    if not colon:
        return f"{word}:{DEFAULT_PORT}"
    if word.startswith("[") and word.endswith("]"):
        return f"{word}:{DEFAULT_PORT}"
    bare = host.removeprefix("[").removesuffix("]")
    if not bare.strip(":") or (bare.endswith(":") and not bare.endswith("::")):
        raise ValueProblem("an IPv6 address needs a port behind it: ::1:1883")
    match = _LEADING_NUMBER.match(port)
    if match is None or not 1 <= int(match[0]) <= 65_535:
        raise ValueProblem("the port must be between 1 and 65535")
    return f"[{bare}]:{int(match[0])}" if ":" in bare else f"{bare}:{int(match[0])}"


def _version(block: Block, loc: Loc, draft: Draft) -> None:
    found = block.last("bridge_protocol_version")
    version = VERSIONS.get(str(found.value)) if found else "3.1.1"
    if version is None:
        assert found is not None
        draft.problem(found, f"must be one of {', '.join(VERSIONS)}")
        return
    draft.put((*loc, "version"), version, found)


def _session(block: Block, loc: Loc, draft: Draft) -> None:
    clean = draft.take(block, "cleansession", (*loc, "clean_start"))
    if clean is not None and clean.value and block.last("local_cleansession") is None:
        draft.note(
            clean, f"local_cleansession has no effect: {OPTIONS['local_cleansession'].becomes}"
        )
    found = block.last("bridge_session_expiry_interval")
    if found is not None:
        draft.put((*loc, "session_expiry"), f"{found.value}s", found)
    elif clean is not None and clean.value:
        draft.put((*loc, "session_expiry"), "0s", clean)
    else:
        draft.put((*loc, "session_expiry"), "never")
    draft.take(block, "try_private", (*loc, "bridge_bit"))
    draft.put((*loc, "filters_per_subscribe"), 1)
    draft.put((*loc, "join_filters"), False)


def _limits(configuration: Configuration, block: Block, loc: Loc, draft: Draft) -> None:
    inflight = configuration.general.last("max_inflight_messages")
    window = inflight_of(inflight)
    draft.put((*loc, "max_inflight"), window, inflight)
    found = block.last("bridge_receive_maximum")
    draft.put((*loc, "receive_maximum"), found.value if found else window, found or inflight)
    size = configuration.general.last("max_packet_size")
    draft.put(
        (*loc, "max_packet_size"), size.value if size else DEFAULT_MAX_PACKET_SIZE_BYTES, size
    )
    found = block.last("bridge_max_topic_alias")
    for key in ("topic_alias_maximum", "topic_aliases_out"):
        draft.put((*loc, key), found.value if found else 10, found)
    found = block.last("bridge_max_packet_size")
    if found is not None and found.value:
        draft.put((*loc, "max_packet_size_out"), found.value, found)


def _life(block: Block, loc: Loc, draft: Draft) -> None:
    """Keep alive, start, reconnect, TCP."""
    found = block.last("keepalive_interval")
    seconds = found.value if found else 60
    assert isinstance(seconds, int)
    if seconds < LEAST_KEEPALIVE_S:
        draft.note(found, f"is too low, it is {LEAST_KEEPALIVE_S} s, as in Mosquitto")
    draft.put((*loc, "keepalive"), f"{max(seconds, LEAST_KEEPALIVE_S)}s", found)
    _reconnect(block, loc, draft)
    start = _start(block, draft)
    if start != "automatic":
        draft.put((*loc, "start"), start, block.last("start_type"))
    if start == "lazy":
        found = block.last("threshold")
        draft.put((*loc, "lazy", "threshold"), max(1, _number(found, 10)), found)
        found = block.last("idle_timeout")
        draft.put((*loc, "lazy", "idle_timeout"), f"{max(1, _number(found, 60))}s", found)
    draft.take(block, "bridge_bind_address", (*loc, "bind_address"))
    found = block.last("bridge_tcp_user_timeout")
    if found is not None:
        draft.put((*loc, "tcp_user_timeout"), f"{found.value}ms", found)
    found = block.last("bridge_tcp_keepalive")
    if found is not None:
        words = found.statement.words
        if len(words) < 3 or not all(word.isdigit() and int(word) > 0 for word in words[:3]):
            draft.problem(found, "needs three numbers above 0: idle, interval, counter")
        else:
            draft.put((*loc, "tcp_keepalive", "idle"), f"{int(words[0])}s", found)
            draft.put((*loc, "tcp_keepalive", "interval"), f"{int(words[1])}s", found)
            draft.put((*loc, "tcp_keepalive", "count"), int(words[2]), found)


def _start(block: Block, draft: Draft) -> str:
    found = block.last("start_type")
    kind = found.statement.words[0] if found else "automatic"
    if kind not in ("automatic", "lazy", "once"):
        assert found is not None
        draft.problem(found, "must be automatic, lazy or once")
    return kind


def _reconnect(block: Block, loc: Loc, draft: Draft) -> None:
    found = block.last("restart_timeout")
    numbers = []
    for word in found.statement.words[:3] if found else ["5", "30"]:
        match = _LEADING_NUMBER.match(word)
        numbers.append(int(match[0]) if match else 0)
    base = min(max(numbers[0], 1), LONGEST_RESTART_S)
    cap = numbers[1] if len(numbers) > 1 else base
    if cap < base:
        assert found is not None
        draft.problem(found, "the second number (cap) must not be below the first (base)")
        return
    draft.put((*loc, "reconnect", "min"), f"{base}s", found)
    draft.put((*loc, "reconnect", "max"), f"{min(cap, LONGEST_CAP_S)}s", found)
    if len(numbers) > 2 and numbers[2] > 0:
        draft.put((*loc, "reconnect", "stable"), f"{min(numbers[2], LONGEST_CAP_S)}s", found)
    if found is not None and base != numbers[0]:
        draft.note(found, f"is out of range, it is {base} s, as in Mosquitto")


def _notifications(block: Block, loc: Loc, draft: Draft, client_id: str) -> None:
    switch = block.last("notifications")
    enabled = switch is None or switch.value is True
    draft.put((*loc, "notifications", "enabled"), enabled, switch)
    if not enabled:
        return
    topic = block.last("notification_topic")
    value = str(topic.value) if topic else f"$SYS/broker/connection/{client_id}/state"
    draft.put((*loc, "notifications", "topic"), literal(value), topic)
    draft.take(block, "notifications_local_only", (*loc, "notifications", "local_only"))


def _tls(block: Block, loc: Loc, draft: Draft) -> None:
    loc = (*loc, "tls")
    draft.put(loc, {}, block.last("bridge_tls_use_os_certs"))
    take_authorities(block, "bridge_cafile", "bridge_capath", (*loc, "ca"), draft)
    take_path(block, "bridge_certfile", (*loc, "certificate"), draft)
    take_path(block, "bridge_keyfile", (*loc, "key"), draft)
    draft.take(block, "bridge_ciphers", (*loc, "ciphers"))
    found = block.last("bridge_alpn")
    if found is not None:
        draft.put((*loc, "alpn"), [literal(found.value)], found)
    if block.is_on("bridge_insecure"):
        found = block.last("bridge_insecure")
        draft.put((*loc, "verify_hostname"), False, found)
        draft.note(found, "the certificate may be for any host name", loud=True)
    take_tls_version(block, "bridge_tls_version", (*loc, "min_version"), draft)


# -- topic lines -----------------------------------------------------------------------------------


def _routes(configuration: Configuration, block: Block, name: str, draft: Draft) -> None:
    lines = []
    queued = configuration.general.last("queue_qos0_messages")
    for setting in block.all("topic"):
        try:
            line = parse_topic_line(setting.statement)
        except ValueProblem as problem:
            draft.problem(setting, str(problem))
            continue
        if not line.qos_given:
            kept = queued is not None and queued.value and line.directions == {"out"}
            lost = "" if kept else " and is lost while the link is down"
            draft.note(
                setting,
                f"has no QoS, so it is 0, as in Mosquitto: {line.pattern or line.local} moves with "
                f"QoS 0{lost}; write the QoS behind the direction",
            )
        lines.append((setting, line))
    _unsubscribe([line for _, line in lines], block, ("connectors", name), draft)
    clear = block.last("bridge_outgoing_retain")
    upgrade = configuration.general.is_on("upgrade_outgoing_qos")
    order = {
        direction: by_precedence([line for _, line in lines], direction)
        for direction in ("out", "in")
    }
    for number, (setting, line) in enumerate(lines, 1):
        for direction in ("out", "in"):
            if direction not in line.directions:
                continue
            before = order[direction][: order[direction].index(line)]
            both = len(line.directions) > 1
            loc: Loc = ("routes", f"{name}-{number}-{direction}" if both else f"{name}-{number}")
            if not _route(draft, loc, setting, line, direction, before, name):
                continue
            raised = upgrade and direction == "out"
            draft.put((*loc, "qos" if raised else "max_qos"), line.qos, setting)
            if direction == "out" and clear is not None and clear.value is False:
                draft.put((*loc, "retain"), "clear", clear)
            if direction == "out" and queued is not None and queued.value:
                draft.put((*loc, "queue_qos0"), True, queued)


def _unsubscribe(lines: list[TopicLine], block: Block, loc: Loc, draft: Draft) -> None:
    """Write what lines that only send may have subscribed to when they still brought messages."""
    found = block.last("bridge_attempt_unsubscribe")
    if found is not None and found.value is False:
        return
    subscribed = {line.source("in") for line in lines if "in" in line.directions}
    filters = dict.fromkeys(
        line.remote + line.pattern for line in lines if "in" not in line.directions
    )
    left = [literal(filter_) for filter_ in filters if filter_ not in subscribed]
    if left:
        draft.put((*loc, "unsubscribe_out"), left, found)


def _route(
    draft: Draft,
    loc: Loc,
    setting: Setting,
    line: TopicLine,
    direction: str,
    before: list[TopicLine],
    name: str,
) -> bool:
    """Write one direction of a line; false if the lines before it leave nothing for it.

    A line that brings messages is subscribed in any case, as the far side may refuse the lines
    before it. What comes of it is then what the line that takes it makes of it, which is the same
    message: it goes on once.
    """
    filter_ = line.source(direction)
    earlier = [one for one in before if overlap(one.source(direction), filter_)]
    taker = next((one for one in earlier if _takes_all(one, line, direction)), None)
    if taker is not None:
        text = f"{direction}: every message takes {taker.statement.where} instead"
        draft.note(setting, text)
        if direction == "out":
            return False
        earlier = earlier[: earlier.index(taker)]
        line = taker
    excluded = [f"!{one.source(direction)}" for one in earlier]
    draft.put((*loc, "from"), LOCAL if direction == "out" else name, setting)
    draft.put((*loc, "to"), name if direction == "out" else LOCAL, setting)
    draft.put((*loc, "topics"), [literal(one) for one in [filter_, *excluded]], setting)
    strip, prepend = line.prefixes(direction)
    if strip:
        draft.put((*loc, "strip"), literal(strip), setting)
    if prepend:
        draft.put((*loc, "prepend"), literal(prepend), setting)
    return True


def _takes_all(one: TopicLine, other: TopicLine, direction: str) -> bool:
    """Whether `one` takes every message of `other`."""
    return covers(one.source(direction).encode(), other.source(direction).encode())


# -- shared with listeners -------------------------------------------------------------------------


def take_path(block: Block, option: str, loc: Loc, draft: Draft) -> None:
    """Write a path, which in Mosquitto is relative to the folder that it is started in."""
    found = block.last(option)
    if found is not None:
        draft.put(loc, literal(str(Path(str(found.value)).absolute())), found)


def take_authorities(block: Block, file: str, folder: str, loc: Loc, draft: Draft) -> None:
    """Write whose certificates are trusted: a file, or else a folder of files."""
    take_path(block, file if block.last(file) else folder, loc, draft)
    if block.last(file) and block.last(folder):
        draft.note(block.last(folder), f"no effect: {file} is there, and one of both is used")


def take_tls_version(block: Block, option: str, loc: Loc, draft: Draft) -> None:
    """Write the oldest TLS version."""
    found = block.last(option)
    if found is None:
        return
    match found.value:
        case "tlsv1.2" | "tlsv1.3":
            draft.put(loc, str(found.value).removeprefix("tlsv"), found)
        case "tlsv1" | "tlsv1.1":
            draft.note(found, "is too old to be safe: 1.2 or newer is used")
        case _:
            draft.problem(found, "must be tlsv1.2 or tlsv1.3")


def inflight_of(setting: Setting | None) -> int:
    """The messages in flight that `max_inflight_messages` allows; 0 means as many as MQTT can."""
    number = _number(setting, DEFAULT_INFLIGHT)
    return number if 0 < number < 65_535 else 65_535


def _number(setting: Setting | None, default: int) -> int:
    return setting.value if setting and isinstance(setting.value, int) else default


def _free_name(name: str, taken: set[str]) -> str:
    """A name that connectors may have, and that no other has."""
    name = _NO_NAME.sub("-", name) or "bridge"
    for number in count(1):
        found = name if number == 1 else f"{name}-{number}"
        if found not in taken:
            break
    taken.add(found)
    return found
