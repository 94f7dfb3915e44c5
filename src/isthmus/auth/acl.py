"""Access lists of Mosquitto: what a principal may write, read and subscribe to.

    topic [read|write|readwrite|deny] <filter>     for the user above, or anonymous clients
    user <name>                                    begins the lines of a user
    pattern [read|write|readwrite|deny] <filter>   for everybody; %c client id, %u user name

The decision, in this order: the lines of the user (of anonymous clients, if there is no user
name), their `deny` lines first, then the patterns, their `deny` lines first; the first line that
matches and speaks about the access decides, and nothing matching means no. So an empty file denies
everything (Mosquitto 1.5 allowed everything: CVE-2018-12550).

A client id or user name is chosen by a stranger. One with `+` or `#` gets nothing from patterns, as
in Mosquitto (CVE-2017-7650). Here one that is empty or has a `/` gets nothing either where a
pattern puts it in, as it would move the levels behind it; and what it puts in never makes a
pattern match `$` topics.
"""

import re
from pathlib import Path
from typing import NamedTuple

from isthmus.auth.principal import Principal
from isthmus.errors import ConfigError, MQTTError
from isthmus.mqtt.topics import HASH, PLUS, check_filter, covers, matches, split_shared

READ = 1
WRITE = 2

_ACCESS = {b"read": READ, b"write": WRITE, b"readwrite": READ | WRITE, b"deny": 0}
_BRIDGE_STATE = b"$SYS/broker/connection/+/state"
_FIXED = re.compile(rb"([^+#%]*?)(?:/#|[+#%].*)?$", re.DOTALL)


class Rule(NamedTuple):
    """One line: what it gives (0 denies) on which topics."""

    access: int
    filter: bytes
    prefix: bytes
    """What every topic begins with that the rule can match."""
    dollar: bool
    """Whether the rule may match topics that begin with `$`."""


class AccessList:
    """The rights of all principals. Immutable; a reload makes a new one."""

    __slots__ = ("_anonymous", "_client_marks", "_patterns", "_user_marks", "_users")

    def __init__(
        self,
        anonymous: list[Rule],
        users: dict[str, list[Rule]],
        patterns: list[Rule],
    ) -> None:
        self._anonymous = _deny_first(anonymous)
        self._users = {name: _deny_first(rules) for name, rules in users.items()}
        self._patterns = _deny_first(patterns)
        self._client_marks = any(b"%c" in rule.filter for rule in patterns)
        self._user_marks = any(b"%u" in rule.filter for rule in patterns)

    @classmethod
    def load(cls, path: Path) -> "AccessList":
        """Return the rights of a file.

        Raises:
            ConfigError: the file cannot be read, or a line is not as above. Lists all such lines.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: bytes, name: str = "<acl>") -> "AccessList":
        """Return the rights of the bytes of a file; see `load`. `name` stands for it in errors."""
        anonymous: list[Rule] = []
        users: dict[str, list[Rule]] = {}
        patterns: list[Rule] = []
        problems = []
        current = anonymous
        for number, raw in enumerate(data.split(b"\n"), 1):
            line = raw.rstrip()
            word, _, rest = line.lstrip(b" ").partition(b" ")
            if line.startswith(b"#") or not word:
                continue
            try:
                if word == b"user":
                    current = users.setdefault(_username(rest), [])
                elif word == b"topic":
                    current.append(_rule(rest))
                elif word == b"pattern":
                    patterns.append(_rule(rest))
                else:
                    raise ValueError(_unknown_word(word))
            except ValueError as error:
                problems.append(f"{name}:{number}: {error}")
        if problems:
            raise ConfigError(*problems)
        return cls(anonymous, users, patterns)

    def __eq__(self, other: object) -> bool:
        """Whether both give the same rights by the same lines."""
        return isinstance(other, AccessList) and (
            self._anonymous == other._anonymous
            and self._users == other._users
            and self._patterns == other._patterns
        )

    __hash__ = object.__hash__

    def may_write(self, principal: Principal, topic: bytes) -> bool:
        """Whether the principal may publish on a topic, now or by its will."""
        if topic.startswith(b"$"):
            # Topics that the broker alone writes; also not by a rule that covers them.
            if topic.startswith(b"$SYS") and not matches(_BRIDGE_STATE, topic):
                return False
            if topic.startswith(b"$share"):
                return False
        return self._decide(principal, topic, WRITE)

    def may_read(self, principal: Principal, topic: bytes) -> bool:
        """Whether a message on a topic may be delivered to the principal."""
        return self._decide(principal, topic, READ)

    def may_subscribe(self, principal: Principal, filter: bytes) -> bool:  # noqa: A002
        """Whether a subscription could ever deliver anything; the rights on delivery decide.

        Takes shared filters (`$share/group/filter`) as well.
        """
        wanted = split_shared(filter)[1]
        is_dollar = wanted.startswith(b"$")
        begin = _fixed_begin(wanted)
        for rule in self._rules(principal):
            prefix = rule.prefix
            if not begin.startswith(prefix) and not prefix.startswith(begin):
                continue  # most lines are about other topics
            reaches = rule.dollar or not is_dollar
            if rule.access == 0 and reaches and covers(rule.filter, wanted):
                return False
            if rule.access & READ and _overlap(rule, wanted):
                return True
        return False

    def depends_on_client(self, principal: Principal) -> bool:
        """Whether others with this user name may have other rights, because of the client id."""
        return self._client_marks or (bool(self._patterns) and _has_wildcard(principal.client_id))

    def _decide(self, principal: Principal, topic: bytes, access: int) -> bool:
        username = principal.username
        own = self._anonymous if username is None else self._users.get(username, ())
        is_dollar = topic.startswith(b"$")
        # Most lines are about other topics: their fixed beginning says so before any work is done.
        for rule in own:
            if (
                topic.startswith(rule.prefix)
                and (rule.access & access or not rule.access)
                and (rule.dollar or not is_dollar)
                and matches(rule.filter, topic)
            ):
                return rule.access != 0
        if not self._patterns or self._is_void(principal):
            return False
        for rule in self._patterns:
            if topic.startswith(rule.prefix) and (rule.access & access or not rule.access):
                filled = _fill(rule, principal)
                if (
                    filled is not None
                    and (filled.dollar or not is_dollar)
                    and matches(filled.filter, topic)
                ):
                    return rule.access != 0
        return False

    def _rules(self, principal: Principal) -> tuple[Rule, ...]:
        """The rules in order, patterns with the names put in."""
        username = principal.username
        own = self._anonymous if username is None else self._users.get(username, ())
        if not self._patterns or self._is_void(principal):
            return own
        filled = (_fill(rule, principal) for rule in self._patterns)
        return (*own, *(rule for rule in filled if rule is not None))

    def _is_void(self, principal: Principal) -> bool:
        """Whether patterns give nothing to names like these."""
        username, client_id = principal.username, principal.client_id
        if _has_wildcard(client_id) or (self._client_marks and _moves_levels(client_id)):
            return True
        return username is not None and (
            _has_wildcard(username) or (self._user_marks and _moves_levels(username))
        )


def _deny_first(rules: list[Rule]) -> tuple[Rule, ...]:
    return tuple(sorted(rules, key=lambda rule: rule.access != 0))


def _has_wildcard(identity: str) -> bool:
    return "+" in identity or "#" in identity


def _moves_levels(identity: str) -> bool:
    return not identity or "/" in identity


def _fill(rule: Rule, principal: Principal) -> Rule | None:
    """Put the names in, in one pass: a client called `%u` does not get the user's topics.

    Returns None if the rule asks for a user name and there is none.
    """
    pattern = rule.filter
    if b"%c" not in pattern and b"%u" not in pattern:
        return rule
    username, client_id = principal.username, principal.client_id
    if username is None and b"%u" in pattern:
        return None
    parts = pattern.split(b"%")
    filled = parts[0]
    for part in parts[1:]:
        if part.startswith(b"c"):
            filled += client_id.encode(errors="surrogatepass") + part[1:]
        elif part.startswith(b"u"):
            filled += (username or "").encode(errors="surrogatepass") + part[1:]
        else:
            filled += b"%" + part
    # What is put in may make a refusal reach `$` topics, but nothing that gives.
    reach = filled if rule.access == 0 else pattern
    return Rule(rule.access, filled, rule.prefix, reach.startswith(b"$"))


def _overlap(rule: Rule, wanted: bytes) -> bool:
    """Whether some topic is matched both by the rule and by the filter."""
    if wanted.startswith(b"$") != rule.dollar:
        return False
    if rule.filter[-2:] == b"/#" and wanted.startswith(rule.filter[:-1]):
        return True
    ours, theirs = rule.filter.split(b"/"), wanted.split(b"/")
    for mine, other in zip(ours, theirs, strict=False):
        if b"#" in (mine, other):
            return True
        if mine != other and b"+" not in (mine, other):
            return False
    if len(ours) == len(theirs):
        return True
    # `a/#` matches `a` itself, so one level more is no difference if it is `#`.
    longer = max(ours, theirs, key=len)
    return longer[min(len(ours), len(theirs))] == b"#"


def _username(rest: bytes) -> str:
    name = rest.strip()
    if not name:
        raise ValueError("the user name is missing")
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise ValueError("the user name is not UTF-8 text") from None


def _rule(rest: bytes) -> Rule:
    word, blank, topic = rest.lstrip(b" ").partition(b" ")
    topic = topic.strip()
    if not word:
        raise ValueError("the topic is missing")
    if not blank or not topic:
        access, topic = READ | WRITE, word
    elif word in _ACCESS:
        access = _ACCESS[word]
    else:
        raise ValueError(
            f"'{_text(word)}' is no access, use read, write, readwrite or deny; "
            "a topic with blanks needs one of them in front"
        )
    return make_rule(access, topic)


def make_rule(access: int, topic: bytes) -> Rule:
    """Return the rule that gives `access` on a filter.

    Raises:
        ValueError: it is no topic filter.
    """
    try:
        check_filter(topic)
    except MQTTError as error:
        hint = "; a comment needs a line of its own" if b" #" in topic else ""
        raise ValueError(f"'{_text(topic)}' is no topic filter: {error}{hint}") from None
    fixed = _FIXED.match(topic)
    return Rule(access, topic, fixed[1] if fixed else b"", topic.startswith(b"$"))


def _fixed_begin(filter: bytes) -> bytes:  # noqa: A002
    """What every topic begins with that a filter matches."""
    if PLUS in filter:
        return filter[: filter.index(PLUS)]
    return filter[:-2] if HASH in filter else filter


def _unknown_word(word: bytes) -> str:
    if b"\t" in word:
        return "blanks must be spaces, not tabs"
    if b":" in word or b"$" in word or len(word) > 20:
        # It may be a line of a password file: what it says must not be repeated.
        return "is no rule; use topic, user or pattern (is this an ACL file?)"
    return f"'{_text(word)}' is unknown, use topic, user or pattern"


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")
