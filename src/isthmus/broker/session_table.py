"""Sessions on disk: what becomes of one when it goes to the store and comes back.

A session is a row, and each of its subscriptions another one: a client with thousands of them would
else write all of them for each SUBSCRIBE. What waits for it is a log of its own.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from isthmus import clock
from isthmus.broker.session import NEVER, Session, Subscription
from isthmus.broker.will_table import (
    UNREADABLE,
    owner_state,
    restored_owner,
    restored_will,
    will_state,
)
from isthmus.mqtt.packets import SubscribeOptions
from isthmus.store.schema import SESSIONS, SUBSCRIPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from isthmus.auth.principal import Principal
    from isthmus.delivery.message import Message
    from isthmus.store.statement import Row
    from isthmus.store.store import Store

log = logging.getLogger("isthmus.broker")

OPEN = 0x40
"""In the options of a subscription: its filter begins with a wildcard."""


class StoredWill(NamedTuple):
    """A will, and in how many seconds from now it is due."""

    message: Message
    due_s: float


class StoredSession(NamedTuple):
    """A session as it comes from the disk.

    `left_s` is how long it lives from now on if its client does not come back: None for ever, 0 or
    less if that has passed.
    """

    principal: Principal
    mount: bytes
    expiry_s: int
    left_s: float | None
    will: StoredWill | None
    subscriptions: dict[bytes, Subscription]


class SessionTable:
    """Writes the sessions that are kept.

    Ends of sessions and wills are kept as wall-clock time, the only one that goes on without a
    process; those of a client that was connected begin with the next process. A user whose rights
    came with the login (claims of a token, an answer of a web service) has all rights to read until
    the next login, as what that login allowed is not known any more: then what it may not read is
    dropped.
    """

    __slots__ = ("_all", "_sessions", "_steps", "_subscriptions")

    def __init__(self, store: Store, sessions: Callable[[], Iterable[Session]]) -> None:
        """Use `store`; `sessions` gives all that are to be there."""
        self._sessions = store.table(SESSIONS)
        self._subscriptions = store.table(SUBSCRIPTIONS)
        self._all = sessions
        self._steps = clock.Steps()

    def stored(self) -> Iterator[StoredSession]:
        """What is on disk, for the start.

        Raises:
            StoreError: It cannot be read.
        """
        subscriptions: dict[bytes, dict[bytes, Subscription]] = {}
        for key, options, identifier in self._subscriptions.rows():
            if not (isinstance(key, bytes) and isinstance(options, int)):
                log.error("the subscription %r on disk is damaged, and is forgotten", key)
                self._subscriptions.remove(key)
                continue
            client_id, _, filter_ = key.partition(b"\0")
            found = subscriptions.setdefault(client_id, {})
            found[filter_] = Subscription(
                _options(options), identifier, is_open=bool(options & OPEN)
            )
        for client_id, state in self._sessions.rows():
            wanted = subscriptions.pop(client_id, {})
            try:
                session = _stored(client_id, json.loads(state), wanted)
            except UNREADABLE:
                log.exception("the session of %r on disk is damaged, and is forgotten", client_id)
                self._remove(client_id, wanted)
            else:
                yield session

    def back(self) -> None:
        """The sessions are in memory again, from where they may have to be written once more."""
        self._sessions.refill = self._session_rows
        self._subscriptions.refill = self._subscription_rows

    def set(self, session: Session, *, known: bool = True) -> None:
        """Write a session as it is now, without its subscriptions; `known` if it is no new one."""
        self._sessions.set(_row(session), known=known)
        if session.client is None:
            self.look_at_the_clock()

    def remove(self, client_id: str, filters: Iterable[bytes]) -> None:
        """Forget a session with these subscriptions."""
        self._remove(client_id.encode(), filters)

    def _remove(self, key: bytes, filters: Iterable[bytes]) -> None:
        self._sessions.remove(key)
        for filter_ in filters:
            self._subscriptions.remove(_subscription_key(key, filter_))

    def subscribed(self, session: Session, filter_: bytes) -> None:
        """Write one subscription."""
        self._subscriptions.set(_subscription_row(session, filter_))

    def unsubscribed(self, session: Session, filter_: bytes) -> None:
        """Forget one subscription."""
        key = session.principal.client_id.encode()
        self._subscriptions.remove(_subscription_key(key, filter_))

    def pending(self, client_id: str) -> bool:
        """Whether a session with this client id comes, changes or goes, and not yet on disk."""
        return self._sessions.pending(client_id.encode())

    def then(self, callback: Callable[[], None], needed: Callable[[], bool]) -> None:
        """Call back when all changes until now are on disk; see `Store.then`."""
        self._sessions.then(callback, needed)

    def look_at_the_clock(self) -> None:
        """Write all ends anew where the wall clock was set meanwhile.

        A small computer may learn the time only after it has started: the sessions of those that
        left before would seem long expired.
        """
        if self._steps.stepped():
            for session in self._all():
                if session.client is None:
                    self._sessions.set(_row(session))

    def _session_rows(self) -> Iterator[Row]:
        for session in self._all():
            session.assured = False  # nothing of it is in the new file
            yield _row(session)

    def _subscription_rows(self) -> Iterator[Row]:
        for session in self._all():
            for filter_ in session.subscriptions:
                yield _subscription_row(session, filter_)


def _subscription_key(client_id: bytes, filter_: bytes) -> bytes:
    return client_id + b"\0" + filter_  # neither may hold a zero byte (MQTT-1.5.4-2)


def _subscription_row(session: Session, filter_: bytes) -> Row:
    found = session.subscriptions[filter_]
    options = found.options
    return (
        _subscription_key(session.principal.client_id.encode(), filter_),
        options.qos
        | options.no_local << 2
        | options.retain_as_published << 3
        | options.retain_handling << 4
        | (OPEN if found.is_open else 0),
        found.identifier,
    )


def _options(byte: int) -> SubscribeOptions:
    return SubscribeOptions(
        byte & 3,
        no_local=bool(byte & 4),
        retain_as_published=bool(byte & 8),
        retain_handling=byte >> 4 & 3,
    )


def _row(session: Session) -> Row:
    principal = session.principal
    client = session.client
    state: dict[str, Any] = {
        **owner_state(principal),
        "mount": session.mount.decode(),
        "expiry": session.expiry_s,
    }
    apart_s = clock.wall() - clock.monotonic()
    if client is None and session.expires is not None:
        state["ends"] = session.expires.deadline + apart_s
    if client is not None and client.will is not None:
        state["will"] = {**will_state(client.will), "delay": client.will_delay_s}
    elif client is None and session.will is not None and session.will_timer is not None:
        due = session.will_timer.deadline + apart_s
        state["will"] = {**will_state(session.will), "due": due}
    return principal.client_id.encode(), json.dumps(state, separators=(",", ":")).encode()


def _stored(
    client_id: bytes, state: dict[str, Any], subscriptions: dict[bytes, Subscription]
) -> StoredSession:
    wall = clock.wall()
    expiry_s = state["expiry"]
    left_s: float | None = expiry_s
    if "ends" in state:
        # A clock that was set back meanwhile makes no session longer than it asked for.
        left_s = min(state["ends"] - wall, expiry_s)
    elif expiry_s == NEVER:
        left_s = None
    will = None
    if "will" in state:
        found = state["will"]
        message = restored_will(found)
        due_s = found["due"] - wall if "due" in found else found["delay"]
        will = StoredWill(message, due_s if left_s is None else min(due_s, left_s))
    principal = restored_owner(client_id, state)
    return StoredSession(principal, state["mount"].encode(), expiry_s, left_s, will, subscriptions)
