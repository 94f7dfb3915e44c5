"""What `mosquitto.conf` says for the whole process: the broker, its log, its folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from isthmus.app.mosquitto.blocks import Block, Configuration, Setting
from isthmus.app.mosquitto.bridges import (
    DEFAULT_MAX_PACKET_SIZE_BYTES,
    inflight_of,
    take_path,
)
from isthmus.app.mosquitto.draft import Draft, literal
from isthmus.app.mosquitto.listeners import take_client_ids
from isthmus.app.mosquitto.option import Answer

DEFAULT_QUEUED_MESSAGES = 1000
DEFAULT_TOPIC_ALIASES = 10
DEFAULT_AUTO_ID_PREFIX = "auto-"
UNLIMITED = 1_000_000_000
"""More messages, or subscriptions, than fit into the bytes that they may take."""

LIMITS = {
    "topic_levels": 200,
    "client_id_bytes": 65_535,
    "login_bytes": "1MiB",
    "will_bytes": "1MiB",
    "subscriptions_per_session": UNLIMITED,
    "filters_per_packet": 10_000,
    "wildcard_shapes": 1000,
}
"""Mosquitto's limit of levels, and where it has none as much as one client may cost the others.

A MiB holds a CONNECT whose every text is as long as MQTT allows. A packet of 10,000 filters takes
about a quarter of a second, and 1,000 shapes some milliseconds for each new topic.
"""

LONGEST_RETAIN_EXPIRY_MINUTES = 10_000_000

SECONDS_PER_UNIT = {
    "s": 1,
    "h": 3600,
    "d": 86_400,
    "w": 7 * 86_400,
    "m": 30 * 86_400,
    "y": 365 * 86_400,
}
LEVELS = {
    "error": "error",
    "warning": "warning",
    "notice": "info",
    "information": "info",
    "debug": "debug",
    "subscribe": "debug",
    "unsubscribe": "debug",
    "websockets": "debug",
    "internal": "debug",
    "all": "debug",
}
_SEVERITY = ("error", "warning", "info", "debug")
_DESTINATIONS = ("stdout", "stderr", "syslog", "topic")
_DURATION = re.compile(r"(\d+)([shdwmy])")


def write_broker(configuration: Configuration, draft: Draft) -> None:
    """Write the `broker`, `log` and `pid_file` keys. What is not set has Mosquitto's default."""
    general = configuration.general
    _flow(general, draft)
    _limits(general, draft)
    _retain(general, draft)
    _identity(configuration, draft)
    _persistence(general, draft)
    _log(general, draft)
    take_path(general, "pid_file", ("pid_file",), draft)
    draft.take(general, "user", ("user",))
    for lines in general.lines.values():
        if lines[-1].option.answer is Answer.NO_EFFECT:
            _no_effect(lines[-1], draft)


def _flow(general: Block, draft: Draft) -> None:
    found = general.last("max_inflight_messages")
    for key in ("max_inflight", "receive_maximum"):
        draft.put(("broker", key), inflight_of(found), found)
    found = general.last("max_packet_size")
    size = found.value if found else DEFAULT_MAX_PACKET_SIZE_BYTES
    draft.put(("broker", "max_packet_size"), size, found)
    found = general.last("message_size_limit")
    if found is not None and found.value:
        draft.put(("broker", "max_payload"), found.value, found)
    found = general.last("max_keepalive")
    if found is not None and found.value:
        draft.put(("broker", "max_keepalive"), f"{found.value}s", found)
    found = general.last("sys_interval")
    draft.put(("broker", "sys_interval"), f"{found.value if found else 10}s", found)


def _limits(general: Block, draft: Draft) -> None:
    loc = ("broker", "limits")
    for key, limit in LIMITS.items():
        draft.put((*loc, key), limit)
    found = general.last("max_queued_messages")
    number = _number(found, DEFAULT_QUEUED_MESSAGES)
    draft.put((*loc, "queued_messages"), number if number > 0 else UNLIMITED, found)
    for option, key in (
        ("max_queued_bytes", "queued_bytes"),
        ("global_max_clients", "sessions"),
        ("global_max_connections", "connections"),
    ):
        found = general.last(option)
        if found is not None and _number(found, 0) > 0:
            draft.put((*loc, key), found.value, found)
    for option, key in (
        ("queue_qos0_messages", "queue_qos0"),
        ("upgrade_outgoing_qos", "upgrade_outgoing_qos"),
    ):
        draft.take(general, option, ("broker", key))


def _retain(general: Block, draft: Draft) -> None:
    draft.take(general, "retain_available", ("broker", "retain_available"))
    draft.take(general, "check_retain_source", ("broker", "check_retain_source"))
    found = general.last("retain_expiry_interval")
    if found is not None:
        minutes = min(_number(found, 1), LONGEST_RETAIN_EXPIRY_MINUTES)
        draft.put(("broker", "retain_expiry"), f"{minutes}m", found)


def _identity(configuration: Configuration, draft: Draft) -> None:
    """Write what holds for client ids and aliases where a listener does not say otherwise."""
    general = configuration.general
    found = general.last("clientid_prefixes")
    if found is not None:
        draft.put(("broker", "client_id_prefixes"), [literal(found.value)], found)
    for key in ("topic_alias_maximum", "topic_aliases_out"):
        draft.put(("broker", key), DEFAULT_TOPIC_ALIASES)
    draft.put(("broker", "auto_id_prefix"), DEFAULT_AUTO_ID_PREFIX)
    shared = configuration.shared_security
    if shared is not None:
        take_client_ids(shared, ("broker",), draft)


def _persistence(general: Block, draft: Draft) -> None:
    on = general.last("persistence")
    if on is not None and on.value:
        found = general.last("persistence_location")
        folder = Path(str(found.value) if found else ".").absolute()
        draft.put(("broker", "data"), literal(str(folder)), found or on)
        draft.note(
            on,
            "sessions, what waits for them and retained messages are on disk before anybody is "
            "told that they are safe; there is no save in intervals",
        )
    elif general.last("persistence_location") is not None:
        draft.note(general.last("persistence_location"), "no effect without 'persistence true'")
    found = general.last("persistent_client_expiration")
    if found is None:
        return
    match = _DURATION.fullmatch(found.statement.words[0])
    if match is None or not int(match[1]):
        draft.problem(found, "must be a number with one of s, h, d, w, m, y behind it, as 14d")
        return
    seconds = int(match[1]) * SECONDS_PER_UNIT[match[2]]
    draft.put(("broker", "max_session_expiry"), f"{seconds}s", found)


def _log(general: Block, draft: Draft) -> None:
    """Write where the log goes and what is in it."""
    to: list[str] = []
    where = file = None
    for found in general.all("log_dest"):
        kind = found.statement.words[0]
        where = found
        if kind == "none":
            to = []
        elif kind in _DESTINATIONS:
            to += [kind] if kind not in to else []
        elif kind == "file":
            path = found.statement.rest.lstrip(" ").removeprefix("file").strip()
            if not path:
                draft.problem(found, "needs the path of a file")
            elif file is not None:
                draft.problem(found, f"file is there twice, first at {file.statement.where}")
            else:
                file = found
                draft.put(("log", "file"), literal(str(Path(path).absolute())), found)
        else:
            draft.problem(found, "must be none, stdout, stderr, syslog, topic or file")
    if where is not None:
        draft.put(("log", "to"), to, where)
    facility = general.last("log_facility")
    if facility is not None:
        draft.put(("log", "syslog_facility"), f"local{facility.value}", facility)
    draft.take(general, "log_timestamp", ("log", "timestamp"))
    draft.take(general, "log_timestamp_format", ("log", "timestamp_format"))
    messages = general.last("connection_messages")
    silent = messages is not None and messages.value is False
    draft.put(("log", "clients"), "none" if silent else "all", messages)
    _log_types(general, draft)


def _log_types(general: Block, draft: Draft) -> None:
    levels: set[str] = set()
    last = None
    for found in general.all("log_type"):
        kind = found.statement.words[0]
        last = found
        if kind == "none":
            levels = set()
        elif kind in LEVELS:
            levels.add(LEVELS[kind])
        else:
            draft.problem(found, f"must be one of none, {', '.join(LEVELS)}")
    if last is None:
        return
    if not levels:
        draft.put(("log", "to"), [], last)
        draft.data["log"].pop("file", None)
        return
    level: Any = max(levels, key=_SEVERITY.index)
    draft.put(("log", "level"), level, last)
    missing = set(_SEVERITY[: _SEVERITY.index(level)]) - levels
    if missing:
        draft.note(last, f"more severe entries ({', '.join(sorted(missing))}) are written as well")


def _no_effect(setting: Setting, draft: Draft) -> None:
    """Say that an option does nothing, where it would change something."""
    if setting.option.name == "set_tcp_nodelay" and setting.value:
        return
    draft.note(setting, f"no effect: {setting.option.becomes}")


def _number(setting: Setting | None, default: int) -> int:
    return setting.value if setting and isinstance(setting.value, int) else default
