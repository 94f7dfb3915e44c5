"""Which member of a pool subscribes to which filters.

A plain filter belongs to one member. Filters that can match the same topic belong to the same one,
else a message of such a topic would come once over each of their connections. Apart from that they
are spread by a hash, so that a member keeps its filters over restarts. Shared filters
(`$share/...`) belong to every member: there the far side gives each message to one of them.
"""

from __future__ import annotations

import zlib

from isthmus.mqtt.topics import split_shared


class _Level:
    """A level of the filters that were seen."""

    __slots__ = ("below", "filter_")

    def __init__(self) -> None:
        self.below: dict[bytes, _Level] = {}
        self.filter_: bytes | None = None


def owners(filters: list[bytes], members: int) -> dict[bytes, int | None]:
    """The index of the member that owns each filter; None: all of them."""
    plain = [filter_ for filter_ in filters if split_shared(filter_)[0] is None]
    found: dict[bytes, int | None] = dict.fromkeys(filters)
    if members == 1:
        found.update(dict.fromkeys(plain, 0))
        return found
    group = {filter_: filter_ for filter_ in plain}

    def leader(filter_: bytes) -> bytes:
        while group[filter_] != filter_:
            group[filter_] = group[group[filter_]]
            filter_ = group[filter_]
        return filter_

    root = _Level()
    for filter_ in plain:
        for other in _overlapping(root, filter_):
            one, two = sorted((leader(filter_), leader(other)))
            group[two] = one
        level = root
        for name in filter_.split(b"/"):
            level = level.below.setdefault(name, _Level())
        level.filter_ = filter_
    found.update((filter_, zlib.crc32(leader(filter_)) % members) for filter_ in plain)
    return found


def _overlapping(root: _Level, filter_: bytes) -> list[bytes]:
    """The filters below `root` that can match a topic which `filter_` matches."""
    found: list[bytes] = []
    names = filter_.split(b"/")
    todo = [(root, 0)]
    while todo:
        level, depth = todo.pop()
        name = names[depth] if depth < len(names) else None
        open_end = level.below.get(b"#")
        if open_end is not None and open_end.filter_ is not None:
            found.append(open_end.filter_)
        if name == b"#":
            # Everything below matches, and what ends here: `a/#` matches `a`.
            found.extend(_all(level))
            continue
        if name is None:
            if level.filter_ is not None:
                found.append(level.filter_)
            continue
        if name == b"+":
            todo.extend((below, depth + 1) for key, below in level.below.items() if key != b"#")
        else:
            todo.extend((level.below[key], depth + 1) for key in (name, b"+") if key in level.below)
    return found


def _all(level: _Level) -> list[bytes]:
    found = []
    todo = [level]
    while todo:
        one = todo.pop()
        if one.filter_ is not None:
            found.append(one.filter_)
        todo.extend(one.below.values())
    return found
