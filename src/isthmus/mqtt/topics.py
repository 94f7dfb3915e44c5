"""Topic names and topic filters: validate, match, compare, split.

Topics are UTF-8 bytes everywhere; levels are split at `/` and compared byte by byte, without any
normalization (MQTT-4.7.3-4). A decoder checks the topic of every message, so names already found
valid are remembered in two generations, young and old: the cost is one look-up, and memory is
bounded. Both keep their identity for the life of the process, so hot code may bind `VALID_NAMES`.
"""

from __future__ import annotations

import re
from typing import Final

from isthmus.errors import ProtocolViolation
from isthmus.mqtt.wire import MAX_STRING, check_utf8

REMEMBERED_NAMES: Final = 32_768
"""Names per generation: at most two generations of 256-byte names, about 20 MiB in all."""

REMEMBERED_BYTES: Final = 256
"""Longer names are checked every time; they are rare, and would fill memory."""

VALID_NAMES: Final[dict[bytes, bytes]] = {}
"""The young generation of names known to be valid: each leads to the one object that stands for it
everywhere, which later look-ups find without comparing bytes. Only `check_name` adds to it."""

_OLD_NAMES: Final[dict[bytes, bytes]] = {}

PLUS: Final = 0x2B
HASH: Final = 0x23
"""The wildcards as numbers: to look for those in bytes takes a tenth of the time."""

_SHARE: Final = b"$share/"
_NAMES: Final = re.compile(rb"[^/+#]+")


def check_name(topic: bytes) -> None:
    """Refuse what is no topic name.

    Raises:
        MalformedPacket: Not UTF-8, or with U+0000 (0x81).
        ProtocolViolation: Empty, too long, or with a wildcard (0x90; MQTT-4.7.0-1, MQTT-4.7.3-1).
    """
    if topic in VALID_NAMES:
        return
    if topic not in _OLD_NAMES:
        if not topic:
            raise ProtocolViolation("the topic name is empty", 0x90, "MQTT-4.7.3-1")
        if len(topic) > MAX_STRING:
            raise ProtocolViolation("the topic name is too long", 0x90, "MQTT-4.7.3-3")
        check_utf8(topic)
        if PLUS in topic or HASH in topic:
            raise ProtocolViolation("the topic name has a wildcard", 0x90, "MQTT-4.7.0-1")
    if len(topic) <= REMEMBERED_BYTES:
        if len(VALID_NAMES) >= REMEMBERED_NAMES:
            _OLD_NAMES.clear()
            _OLD_NAMES.update(VALID_NAMES)
            VALID_NAMES.clear()
        VALID_NAMES[topic] = topic


def check_filter(filter: bytes) -> None:  # noqa: A002 - the word of the specification
    """Refuse what is no topic filter, shared ones (`$share/group/filter`) included.

    Raises:
        MalformedPacket: Not UTF-8, or with U+0000 (0x81).
        ProtocolViolation: Empty, too long, a misplaced wildcard, or a bad share name (0x8F).
    """
    if not filter:
        raise ProtocolViolation("the topic filter is empty", 0x8F, "MQTT-4.7.3-1")
    if len(filter) > MAX_STRING:
        raise ProtocolViolation("the topic filter is too long", 0x8F, "MQTT-4.7.3-3")
    check_utf8(filter)
    if filter.startswith(_SHARE):
        group, _, filter = filter[len(_SHARE) :].partition(b"/")  # noqa: A001
        if not group or PLUS in group or HASH in group:
            raise ProtocolViolation("the share name is not valid", 0x8F, "MQTT-4.8.2-2")
        if not filter:
            raise ProtocolViolation("the shared filter is empty", 0x8F, "MQTT-4.8.2-1")
    if HASH in filter:
        head = filter[:-1]
        if HASH in head or filter[-1:] != b"#" or (head and head[-1:] != b"/"):
            raise ProtocolViolation("# is not the last whole level", 0x8F, "MQTT-4.7.1-1")
    if PLUS in filter and any(len(level) > 1 and PLUS in level for level in filter.split(b"/")):
        raise ProtocolViolation("+ is not a whole level", 0x8F, "MQTT-4.7.1-2")


def is_wildcard(filter: bytes) -> bool:  # noqa: A002
    """Whether a valid filter can match more than one topic."""
    return PLUS in filter or HASH in filter


def shape(filter: bytes) -> bytes:  # noqa: A002
    """Where the wildcards of a valid filter stand: the filter without the names of its levels.

    Of all filters with one shape at most one matches a given topic.
    """
    return _NAMES.sub(b"", filter)


def levels(topic: bytes) -> int:
    """How many levels a topic name or filter has; at least 1."""
    return topic.count(b"/") + 1


def split_shared(filter: bytes) -> tuple[bytes | None, bytes]:  # noqa: A002
    """Split a valid filter into (share group or None, the filter that topics are matched with)."""
    if not filter.startswith(_SHARE):
        return None, filter
    group, _, rest = filter[len(_SHARE) :].partition(b"/")
    return group, rest


def matches(filter: bytes, topic: bytes) -> bool:  # noqa: A002
    """Whether a valid, not shared filter matches a valid topic name (section 4.7).

    A leading wildcard does not match a topic that begins with `$` (MQTT-4.7.2-1).
    """
    if filter == topic:
        return True
    if not is_wildcard(filter):
        return False
    if topic[:1] == b"$" and filter[:1] in (b"+", b"#"):
        return False
    if filter[-2:] == b"/#" and PLUS not in filter:
        # The most frequent kind needs no look at the levels.
        return topic.startswith(filter[:-1]) or topic == filter[:-2]
    wanted = filter.split(b"/")
    found = topic.split(b"/")
    if wanted[-1] == b"#":
        wanted.pop()
        if len(found) < len(wanted):
            return False
    elif len(found) != len(wanted):
        return False
    return all(want in (b"+", have) for want, have in zip(wanted, found, strict=False))


def covers(a: bytes, b: bytes) -> bool:
    """Whether every topic that filter `b` matches is matched by filter `a` too."""
    if a == b:
        return True
    ours = a.split(b"/")
    theirs = b.split(b"/")
    if theirs[0][:1] == b"$" and ours[0] in (b"+", b"#"):
        return False
    open_end = theirs[-1] == b"#"
    if open_end:
        theirs.pop()
        if theirs in ([], [b""]):  # no topic is empty: `#` is `+/#`, and `/#` is `/+/#`
            theirs.append(b"+")
    if ours[-1] == b"#":
        ours.pop()
        if len(ours) > len(theirs):
            return False
    elif open_end or len(ours) != len(theirs):
        return False
    return all(mine in (b"+", other) for mine, other in zip(ours, theirs, strict=False))
