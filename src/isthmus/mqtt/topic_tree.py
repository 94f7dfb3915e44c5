"""Two indexes: filters to be found by a topic, and topics to be found by a filter.

`TopicTree` answers "who wants this topic", `TopicIndex` answers "which of these topics does this
filter name". Both keep everything in one flat dict, so that a look-up without a wildcard is one
hash; only filters with wildcards, respectively all topics, also stand in a tree of levels. Both
drop branches that became empty and nothing recurses, so a topic of 65,535 slashes is only slow.
How many levels are allowed is for the caller to limit: memory is one small object per level. So is
how many shapes of filters there are: of filters with one shape, which is where their wildcards
stand (`shape` in `topics`), at most one matches a topic, and a match visits at most one branch per
shape and level. Filters with every combination of `+` and one name over 20 levels are a million
shapes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from isthmus.mqtt.topics import is_wildcard, matches

V = TypeVar("V")


class _Branch:
    """One level of the filters. Fields are None until they are needed: most branches are thin."""

    __slots__ = ("children", "here", "plus", "rest")

    def __init__(self) -> None:
        self.children: dict[bytes, _Branch] | None = None
        self.plus: _Branch | None = None
        self.here: dict[Hashable, Any] | None = None  # filters that end here
        self.rest: dict[Hashable, Any] | None = None  # filters that end here with `#`

    def empty(self) -> bool:
        return not (self.children or self.plus or self.here or self.rest)


def _collect(root: _Branch, topic: bytes, found: list[Any]) -> None:
    """Add the values of every filter with wildcards that matches `topic` to `found`."""
    branches: list[_Branch] = [root]
    hidden = topic[:1] == b"$"  # no leading wildcard matches it (MQTT-4.7.2-1)
    for level in topic.split(b"/"):
        below: list[_Branch] = []
        for branch in branches:
            if branch.children is not None:
                child = branch.children.get(level)
                if child is not None:
                    below.append(child)
            if not hidden:
                if branch.plus is not None:
                    below.append(branch.plus)
                if branch.rest is not None:
                    found.extend(branch.rest.values())
        hidden = False
        branches = below
        if not branches:
            return
    for branch in branches:
        if branch.here is not None:
            found.extend(branch.here.values())
        if branch.rest is not None:  # `a/#` matches `a` too
            found.extend(branch.rest.values())


class TopicTree(Generic[V]):
    """Topic filters with values. A filter holds one value per key, such as a session."""

    __slots__ = ("_filters", "_root", "_size")

    def __init__(self) -> None:
        self._filters: dict[bytes, dict[Hashable, V]] = {}
        self._root = _Branch()
        self._size = 0

    def __len__(self) -> int:
        """How many (filter, key) pairs there are."""
        return self._size

    def __iter__(self) -> Iterator[tuple[bytes, Hashable, V]]:
        """Every (filter, key, value), filters in order of their first subscription."""
        for filter_, values in self._filters.items():
            for key, value in values.items():
                yield filter_, key, value

    def add(self, filter: bytes, key: Hashable, value: V) -> bool:  # noqa: A002
        """Set the value of `key` at a valid, not shared filter. True if the pair is new."""
        values = self._filters.get(filter)
        if values is None:
            values = self._filters[filter] = {}
            if is_wildcard(filter):
                self._grow(filter, values)
        new = key not in values
        values[key] = value
        self._size += new
        return new

    def get(self, filter: bytes, key: Hashable) -> V | None:  # noqa: A002
        """The value of `key` at exactly this filter, or None."""
        values = self._filters.get(filter)
        return None if values is None else values.get(key)

    def remove(self, filter: bytes, key: Hashable) -> V | None:  # noqa: A002
        """Forget `key` at this filter; the value that it had, or None."""
        values = self._filters.get(filter)
        if values is None or key not in values:
            return None
        value = values.pop(key)
        self._size -= 1
        if not values:
            del self._filters[filter]
            if is_wildcard(filter):
                self._prune(filter)
        return value

    def match(self, topic: bytes) -> list[V]:
        """The values of every filter that matches a valid topic name, in no particular order.

        A key that has several matching filters appears once for each.
        """
        found: list[V] = []
        exact = self._filters.get(topic)
        if exact is not None:
            found.extend(exact.values())
        _collect(self._root, topic, found)
        return found

    def _grow(self, filter_: bytes, values: dict[Hashable, V]) -> None:
        branch = self._root
        for level in filter_.split(b"/"):
            if level == b"#":
                branch.rest = values
                return
            if level == b"+":
                if branch.plus is None:
                    branch.plus = _Branch()
                branch = branch.plus
            else:
                if branch.children is None:
                    branch.children = {}
                child = branch.children.get(level)
                if child is None:
                    child = branch.children[level] = _Branch()
                branch = child
        branch.here = values

    def _prune(self, filter_: bytes) -> None:
        levels = filter_.split(b"/")
        last_is_rest = levels[-1] == b"#"
        if last_is_rest:
            levels.pop()
        path = [self._root]
        for level in levels:
            branch = path[-1]
            child = branch.plus if level == b"+" else (branch.children or {}).get(level)
            assert child is not None  # every filter of the dict has its branches
            path.append(child)
        if last_is_rest:
            path[-1].rest = None
        else:
            path[-1].here = None
        while levels and path[-1].empty():
            path.pop()
            parent, level = path[-1], levels.pop()
            if level == b"+":
                parent.plus = None
            elif parent.children is not None:
                del parent.children[level]
                if not parent.children:
                    parent.children = None


class Topical(Protocol):
    """What names its topic."""

    topic: bytes


T = TypeVar("T", bound=Topical)


class _Fork:
    """One level of the topics. A child is the value itself while nothing is below its topic.

    A look-up by filter then comes to its values without another one for each.
    """

    __slots__ = ("children", "here")

    def __init__(self, here: Any) -> None:
        self.here = here  # the value of the topic that ends here
        self.children: dict[bytes, Any] = {}


def _below(root: _Fork, levels: list[bytes]) -> list[Any]:
    """The values that the levels of a filter with wildcards match."""
    deep = levels[-1] == b"#"
    if deep:
        levels.pop()
    forks: list[Any] = [root]
    for depth, level in enumerate(levels):
        below: list[Any] = []
        for found in forks:
            if not isinstance(found, _Fork):
                continue
            fork = found  # typed where this file is compiled
            children = fork.children
            if level != b"+":
                child = children.get(level)
                if child is not None:
                    below.append(child)
            elif depth:
                below.extend(children.values())
            else:  # MQTT-4.7.2-1
                below += [child for name, child in children.items() if name[:1] != b"$"]
        forks = below
    values: list[Any] = []
    while forks:
        found = forks.pop()
        if not isinstance(found, _Fork):
            values.append(found)
            continue
        fork = found
        if fork.here is not None:
            values.append(fork.here)
        if deep:
            forks.extend(fork.children.values())
    return values


class TopicIndex(Generic[T]):
    """One value for each topic name, found by topic or by filter."""

    __slots__ = ("_root", "_values")

    def __init__(self) -> None:
        self._values: dict[bytes, T] = {}
        self._root = _Fork(None)

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[T]:
        """Every value in order of first setting."""
        return iter(self._values.values())

    def __contains__(self, topic: bytes) -> bool:
        return topic in self._values

    def get(self, topic: bytes) -> T | None:
        """The value of a topic, or None."""
        return self._values.get(topic)

    def set(self, value: T) -> None:
        """Set the value of the valid topic name that it names, in place of the one before."""
        topic = value.topic
        self._values[topic] = value
        fork = self._root
        *above, last = topic.split(b"/")
        for level in above:
            child = fork.children.get(level)
            if not isinstance(child, _Fork):
                child = fork.children[level] = _Fork(child)
            fork = child
        child = fork.children.get(last)
        if isinstance(child, _Fork):
            child.here = value
        else:
            fork.children[last] = value

    def remove(self, topic: bytes) -> T | None:
        """Forget a topic; the value that it had, or None."""
        value = self._values.pop(topic, None)
        if value is not None:
            self._prune(topic)
        return value

    def match(self, filter: bytes) -> list[T]:  # noqa: A002
        """The value of each topic that a valid, not shared filter matches, in no set order."""
        if not is_wildcard(filter):
            value = self._values.get(filter)
            return [] if value is None else [value]
        if filter == b"#":
            return [value for topic, value in self._values.items() if topic[:1] != b"$"]
        return _below(self._root, filter.split(b"/"))

    def may_match(self, filter: bytes) -> bool:  # noqa: A002
        """Whether topics begin as a valid, not shared filter does before its first wildcard.

        False says for sure that none matches, and it costs no walk.
        """
        fork = self._root
        for level in filter.split(b"/"):
            if level in (b"+", b"#"):
                return bool(fork.children) or fork.here is not None
            child = fork.children.get(level)
            if not isinstance(child, _Fork):
                return child is not None and matches(filter, child.topic)
            fork = child
        return fork.here is not None

    def _prune(self, topic: bytes) -> None:
        levels = topic.split(b"/")
        path = [self._root]
        for level in levels[:-1]:
            child = path[-1].children[level]
            assert isinstance(child, _Fork)  # something stands below it
            path.append(child)
        leaf = path[-1].children[levels[-1]]
        if isinstance(leaf, _Fork):
            leaf.here = None
            return
        del path[-1].children[levels[-1]]
        for depth in range(len(path) - 1, 0, -1):
            fork = path[depth]
            if fork.children:
                return
            if fork.here is None:
                del path[depth - 1].children[levels[depth - 1]]
            else:
                path[depth - 1].children[levels[depth - 1]] = fork.here
                return
