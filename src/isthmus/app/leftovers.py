"""What an earlier process has left on disk, said in the log at the start.

Only figures that the store has in memory are read, and of each connection one time stamp: a start
takes as long with millions of messages as with one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.amounts import duration, size
from isthmus.broker.kept_sessions import LOGS as SESSIONS
from isthmus.broker.kept_sessions import SHARE_LOGS
from isthmus.connectors.outboxes import log_name
from isthmus.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from isthmus.store.log import Log
    from isthmus.store.store import Store

log = logging.getLogger("isthmus.app")

OUTBOXES = log_name("", "").removesuffix("/")
"""How the names of the logs of connectors begin; then come connector and client id."""


def say_what_waits(store: Store, connectors: Collection[str]) -> None:
    """Log what waits in `store`: a line for each connector, and one for all sessions."""
    sessions: list[Log] = []
    shares: list[Log] = []
    outboxes: dict[str, list[Log]] = {}
    for name in store.names():
        found = store.log(name)
        if not len(found):
            continue
        if name.startswith(OUTBOXES):
            connector = name.removeprefix(OUTBOXES).partition("/")[0]
            outboxes.setdefault(connector, []).append(found)
        elif name.startswith(SESSIONS):
            sessions.append(found)
        elif name.startswith(SHARE_LOGS):
            shares.append(found)
    for connector, logs in outboxes.items():
        _Outbox(connector, logs, known=connector in connectors).ask()
    if sessions or shares:
        log.info(
            "%s on disk for %d session(s) and %d shared subscription(s)",
            _amount(sessions + shares),
            len(sessions),
            len(shares),
        )


class _Outbox:
    """What waits for one connector; the line is written when the ages of all its logs are known."""

    def __init__(self, connector: str, logs: list[Log], *, known: bool) -> None:
        self._connector = connector
        self._logs = logs
        self._known = known
        self._amount = _amount(logs)
        self._times: list[float] = []

    def ask(self) -> None:
        """Ask how old the messages are."""
        for found in self._logs:
            found.ask_age(self._answered)

    def _answered(self, at: float) -> None:
        self._times.append(at)
        if len(self._times) < len(self._logs):
            return
        text = f"{self._amount} on disk for connector {self._connector}"
        since = min(filter(None, self._times), default=0.0)
        if since:
            text += f", the oldest for {duration(max(0.0, clock.wall() - since))}"
        if self._known:
            log.info("%s", text)
        else:
            log.warning("%s, which is not in the configuration: they stay until it is again", text)


def _amount(logs: list[Log]) -> str:
    return f"{sum(map(len, logs))} message(s), {size(sum(found.size for found in logs))}, wait"


def say_what_is_not_used(folder: Path) -> None:
    """Nothing of the store in `folder` is used: say so, if messages wait there."""
    from isthmus.delivery.dead_letter import PREFIX
    from isthmus.store.database import FILE
    from isthmus.store.idle_store import IdleStore

    if not (folder / FILE).exists():
        return
    try:
        with IdleStore(folder) as store:
            waiting = sum(len(found) for found in store.logs() if not found.name.startswith(PREFIX))
    except StoreError as error:
        log.warning("%s", error)
        return
    if waiting:
        log.warning(
            "%s has %d message(s), which are not sent, as 'broker.persistence' is false",
            folder / FILE,
            waiting,
        )
