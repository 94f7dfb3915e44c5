"""Rights that come with a login: from a claim of a token, or from an answer of a web service.

Two forms, both of EMQX:

    {"pub": [filter, ...], "sub": [...], "all": [...]}      also publish, subscribe
    [{"permission": "allow"|"deny", "action": "publish"|"subscribe"|"all", "topic": filter}, ...]

They stand in place of the access list, so what they do not allow is forbidden; a `deny` goes before
every `allow`. Filters may hold `${clientid}` and `${username}` (or `%c` and `%u`), which give
nothing to names that would widen them, as in an ACL file. Whatever is not understood makes the
whole refused: rights must not be guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from isthmus.auth.acl import READ, WRITE, AccessList, Rule, make_rule
from isthmus.auth.principal import Principal

MAX_RULES = 1000
"""Rules that one login may bring."""

_LISTS = {
    "pub": WRITE,
    "publish": WRITE,
    "sub": READ,
    "subscribe": READ,
    "all": READ | WRITE,
}
_ACTIONS = {"publish": WRITE, "subscribe": READ, "all": READ | WRITE}
_PLACEHOLDERS = ((b"${clientid}", b"%c"), (b"${client_id}", b"%c"), (b"${username}", b"%u"))


class Grants(Protocol):
    """What one principal may do, decided without asking the access list."""

    def may_write(self, principal: Principal, topic: bytes) -> bool:
        """Whether the principal may publish on a topic."""

    def may_read(self, principal: Principal, topic: bytes) -> bool:
        """Whether a message on a topic may be delivered to the principal."""

    def may_subscribe(self, principal: Principal, filter: bytes) -> bool:  # noqa: A002
        """Whether a subscription could ever deliver anything."""


class Everything:
    """The rights of a superuser: whatever no one is forbidden."""

    def may_write(self, principal: Principal, topic: bytes) -> bool:
        """Always."""
        del principal, topic
        return True

    def may_read(self, principal: Principal, topic: bytes) -> bool:
        """Always."""
        del principal, topic
        return True

    def may_subscribe(self, principal: Principal, filter: bytes) -> bool:  # noqa: A002
        """Always."""
        del principal, filter
        return True


EVERYTHING = Everything()


@dataclass(frozen=True, slots=True)
class TopicGrants:
    """Rights of one user by lists of filters: one access list for each direction."""

    write: AccessList
    read: AccessList

    def may_write(self, principal: Principal, topic: bytes) -> bool:
        """Whether the principal may publish on a topic."""
        return self.write.may_write(principal, topic)

    def may_read(self, principal: Principal, topic: bytes) -> bool:
        """Whether a message on a topic may be delivered to the principal."""
        return self.read.may_read(principal, topic)

    def may_subscribe(self, principal: Principal, filter: bytes) -> bool:  # noqa: A002
        """Whether a subscription could ever deliver anything."""
        return self.read.may_subscribe(principal, filter)


def parse_grants(data: Any, username: str | None) -> TopicGrants:
    """Return the rights that `data`, decoded from JSON, gives to the user with this name.

    Raises:
        ValueError: it has neither of the two forms; the text says what is wrong.
    """
    rules = list(islice(_rules(data), MAX_RULES + 1))
    if len(rules) > MAX_RULES:
        raise ValueError(f"there are more than {MAX_RULES} rules")
    return TopicGrants(_access_list(rules, WRITE, username), _access_list(rules, READ, username))


def _access_list(
    rules: list[tuple[bool, int, bytes]], access: int, username: str | None
) -> AccessList:
    """The rules that speak about `access`, as lines of an ACL file for this user."""
    fixed: list[Rule] = []
    patterns: list[Rule] = []
    for allowed, about, topic in rules:
        rule = make_rule(access if allowed else 0, topic)
        if about & access:
            (patterns if b"%c" in topic or b"%u" in topic else fixed).append(rule)
    if username is None:
        return AccessList(fixed, {}, patterns)
    return AccessList([], {username: fixed}, patterns)


def _rules(data: Any) -> Iterator[tuple[bool, int, bytes]]:
    """Yield (whether it allows, what it is about, filter) of each rule."""
    if isinstance(data, Mapping):
        for name, topics in data.items():
            if name not in _LISTS:
                raise ValueError("a name is unknown, use pub, sub or all")
            if not isinstance(topics, list):
                raise ValueError(f"'{name}' is no list")
            for topic in topics:
                yield True, _LISTS[name], _filter(topic)
    elif isinstance(data, list):
        for rule in data:
            if not isinstance(rule, Mapping) or rule.keys() != {"permission", "action", "topic"}:
                raise ValueError("a rule has permission, action and topic, and nothing else")
            action = rule["action"]
            about = _ACTIONS.get(action) if isinstance(action, str) else None
            if about is None or rule["permission"] not in ("allow", "deny"):
                raise ValueError("permission is allow or deny, action publish, subscribe or all")
            yield rule["permission"] == "allow", about, _filter(rule["topic"])
    else:
        raise ValueError("is neither a list of rules nor an object with lists of topics")


def _filter(topic: Any) -> bytes:
    if not isinstance(topic, str):
        raise ValueError("a topic is no text")
    data = topic.encode(errors="surrogatepass")
    for placeholder, mark in _PLACEHOLDERS:
        data = data.replace(placeholder, mark)
    return data
