"""The sessions that outlive the process: what each of them has on disk, and how they come back.

And so with the share groups of which one is a member.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING
from urllib.parse import quote

from isthmus.auth.rights import Writer
from isthmus.broker.session import Session
from isthmus.broker.session_table import SessionTable, StoredSession
from isthmus.broker.subscriptions import take
from isthmus.broker.will_table import WillTable
from isthmus.delivery.outbox import Outbox
from isthmus.delivery.queue_limits import QueueLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from isthmus.auth.principal import Principal
    from isthmus.auth.rights import Rights
    from isthmus.broker.broker import Broker
    from isthmus.broker.share_group import ShareGroup
    from isthmus.broker.will_table import KeptWill
    from isthmus.delivery.message import Message
    from isthmus.delivery.received_ids import ReceivedTable
    from isthmus.store.store import Store

log = logging.getLogger("isthmus.broker")

SPILL_AFTER_S = 0.02
"""How long a message may be unacknowledged before it goes to disk: as for connectors."""

NO_LIMIT = 1 << 62
"""The size of a log that holds no publisher back; what is over `broker.limits` is dropped."""

LOGS = "session/"
"""How the names of the logs of sessions begin."""

SHARE_LOGS = "share/"
"""How those of share groups begin; then come the group and its filter, as in `$share/`."""


class KeptSessions:
    """What `broker` has on disk of the sessions that outlive their connection.

    `table` has the sessions themselves, `wills` the wills of those that do not outlive it, and
    those that are published.
    """

    def __init__(self, broker: Broker, store: Store, received: ReceivedTable) -> None:
        self._broker = broker
        self._store = store
        self._received = received
        self.table = SessionTable(store, self._kept)
        self.wills = WillTable(store)
        # Of sessions that have ended while there was no process.
        self._due: list[tuple[Session, KeptWill]] = []

    def _kept(self) -> Iterator[Session]:
        return (session for session in self._broker.sessions.values() if session.kept)

    # -- while it runs ---------------------------------------------------------------------------

    def opened(self, session: Session) -> None:
        """A client has opened `session`: keep it if it outlives the connection, else its will."""
        known = session.kept
        if not known:
            if not session.expiry_s:
                assert session.client is not None
                self.wills.begin(session.principal, session.client.will)
                return
            self._keep(session)
        self.wills.begin(session.principal, None)
        self.table.set(session, known=known)

    def awaited(self, session: Session) -> bool:
        """Whether the client that has opened `session` has to wait for the disk.

        While nothing can be written, one that comes back to what is on disk as it needs it does
        not: what it acknowledges may be what makes room. Of its connection the disk knows nothing
        then but what was there of the last one, so a crash may cost its will.
        """
        if session.assured and self._store.failure is not None:
            return False
        return self.table.pending(session.principal.client_id)

    def changed(self, session: Session) -> None:
        """Write what has changed of `session`, if it is kept."""
        if session.kept:
            self.table.set(session)

    def ended(self, session: Session) -> None:
        """Forget `session`, but for what waits for it, which its lane forgets."""
        if session.kept:
            self.table.remove(session.principal.client_id, session.subscriptions)
            self._received.end(log_name(session.principal).encode())
        else:
            self.wills.end(session.principal.client_id)

    def _keep(self, session: Session) -> None:
        name = log_name(session.principal)
        outbox = Outbox(
            session.lane,
            self._store.log(name),
            asyncio.get_running_loop(),
            spill_after_s=SPILL_AFTER_S,
            limits=QueueLimits(max_bytes=NO_LIMIT),
        )
        outbox.backlog.allowed = session.may_get
        session.received = self._received.of(name.encode())
        session.received_qos2 = session.received.received

    def keep_share(self, filter_: bytes, group: ShareGroup) -> None:
        """A kept session becomes a member of `group`, whose shared subscription is `filter_`."""
        if group.kept is None or group.kept.ending:
            group.keep(self._store.log(share_log_name(filter_)), asyncio.get_running_loop())

    # -- at the start ----------------------------------------------------------------------------

    def restore(self, rights_of: Callable[[str], Rights | None]) -> None:
        """Take the sessions that are on disk, before the first client.

        `rights_of` gives the rights of the users of a realm, None where there is no such realm any
        more: sessions of such users end, as nobody could come back to them.

        Raises:
            StoreError: They cannot be read.
        """
        lost = 0
        for will in self.wills.stored():
            rights = rights_of(will.principal.realm)
            if rights is None:
                lost += 1
                self.wills.forget(will)
            else:
                self._owe_will(will, rights)
        for found in self.table.stored():
            rights = rights_of(found.principal.realm)
            if rights is None:
                lost += 1
                self._forget(found)
            elif found.left_s is not None and found.left_s <= 0:
                self._broker.expired += 1
                self._forget(found)
                if found.will is not None:
                    self._owe_will(self.wills.add(found.principal, found.will.message), rights)
            else:
                self._restore(found, rights)
        if lost:
            log.warning(
                "%d session(s) of users whose listener, or its 'auth', is no longer there have "
                "ended, with what waited for them",
                lost,
            )
        self.table.back()
        names = {log_name(session.principal) for session in self._broker.sessions.values()}
        names.update(map(share_log_name, self._broker.shares))
        for name in self._store.names():
            if name.startswith((LOGS, SHARE_LOGS)) and name not in names:
                self._store.log(name).drop()
        for owner in self._received.not_asked_for():
            if owner.startswith(LOGS.encode()):  # its session could not be read
                self._received.end(owner)

    def _restore(self, found: StoredSession, rights: Rights) -> None:
        broker = self._broker
        session = broker.new_session(found.principal, rights, found.mount)
        session.expiry_s = broker.allowed_expiry(found.expiry_s)
        session.assured = session.expiry_s == found.expiry_s
        self._keep(session)
        for filter_, subscription in found.subscriptions.items():
            take(broker, session, filter_, subscription)
        if found.will is not None:
            self._sign(found.will.message, found.principal, rights)
            session.will = found.will.message
            broker.release_will_in(session, found.will.due_s)
        left_s = found.left_s
        if session.expiry_s < found.expiry_s:  # the longest that is allowed has become shorter
            left_s = session.expiry_s if left_s is None else min(left_s, session.expiry_s)
        if left_s is not None:
            broker.expire_in(session, left_s)

    def _forget(self, found: StoredSession) -> None:
        """Delete what is on disk of a session; its log goes with those that have no session."""
        self.table.remove(found.principal.client_id, found.subscriptions)
        self._received.end(log_name(found.principal).encode())

    def _owe_will(self, will: KeptWill, rights: Rights) -> None:
        """The session that `will` belongs to is no more."""
        self._sign(will.message, will.principal, rights)
        session = Session(will.principal, self._broker.new_lane(), rights)
        session.will = will.message
        self._due.append((session, will))

    def publish_wills(self) -> None:
        """Publish the wills of sessions that ended meanwhile: when routes and connectors are there.

        And before the first client is: one that is back then says how things are now.
        """
        due, self._due = self._due, []
        for session, will in due:
            self._broker.release_will(session)
            self.wills.forget(will)

    def _sign(self, will: Message, principal: Principal, rights: Rights) -> None:
        if self._broker.settings.check_retain_source:
            will.writer = Writer(principal, rights)


def log_name(principal: Principal) -> str:
    """The name of the log of what waits for a client: no two have the same."""
    # A realm may be the path of a unix socket, which need not be text.
    realm = quote(principal.realm, safe="", errors="surrogatepass")
    return f"{LOGS}{realm}/{principal.client_id}"


def share_log_name(filter_: bytes) -> str:
    """The name of the log of a share group: mount points are part of the filter."""
    return SHARE_LOGS + filter_.decode().removeprefix("$share/")
