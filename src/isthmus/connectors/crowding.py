"""A far side that takes fewer connections than the pool has: the pool gets along with those.

A member that is turned away again and again, while others are connected, is left out: a regrouping
gives its topics, its subscriptions and what waits for it to the others. Whether the far side takes
more meanwhile is seen by knocking, with long pauses, under the client id of one that was left out;
it belongs to the pool again only after that, so no topic waits for a try. Static client ids are
never left out: routes name them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.connectors.knock import knock
from isthmus.errors import ConnectError
from isthmus.net.peer import CLOSES

if TYPE_CHECKING:
    from isthmus.connectors.connector import Connector
    from isthmus.connectors.identity import Identity
    from isthmus.connectors.member import Member

log = logging.getLogger("isthmus.connectors")

FULL_CODES = frozenset({0x03, 0x88, 0x89, 0x97, 0x9F})
"""CONNACK codes that say "not now": unavailable, busy, quota exceeded, connection rate exceeded."""

TRIES = 3
FOR_S = 2.0
"""So often in a row, and for so long, a member is turned away before it is left out. A far side
that has just started may close a connection or two."""

PAUSE_MIN_S = 60.0
PAUSE_MAX_S = 600.0
"""The pauses between two knocks: the second is twice the first, and so on."""

SOON_S = 1.0
"""After a knock that was answered the next one is tried soon."""


class Crowding:
    """What the far side of one connector takes of its pool.

    `resting` are the identities that are left out, `reason` is why the last one was turned away.
    `left_behind` is what clients that were left out had subscribed to, by client id: their
    sessions at the far side may still have it when they come back.
    """

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self.resting: list[Identity] = []
        self.reason = ""
        self.left_behind: dict[str, list[bytes]] = {}
        self._turned_away: dict[Member, tuple[int, float]] = {}
        self._pause_s = PAUSE_MIN_S
        self._shrunk_at = -math.inf
        self._task: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """Knock no more, and forget who was left out."""
        self.resting = []
        self._turned_away = {}
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def succeeded(self, member: Member) -> None:
        """`member` is connected."""
        self._turned_away.pop(member, None)

    def failed(self, member: Member, error: ConnectError) -> None:
        """An attempt of `member` to connect has failed."""
        connector = self._connector
        if (
            not _turned_away(error)
            or member.leaving
            or connector.settings.static_client_ids
            or not any(one.state == "connected" for one in connector.members)
        ):
            self._turned_away.pop(member, None)
            return
        now = clock.monotonic()
        tries, since = self._turned_away.get(member, (0, now))
        self._turned_away[member] = tries + 1, since
        if tries + 1 >= TRIES and now - since >= FOR_S and not member.exchanging:
            self._shrink(error)

    def _shrink(self, error: ConnectError) -> None:
        """Leave out all that are turned away; one of them has been for long enough."""
        connector = self._connector
        out = [one for one in connector.members if one in self._turned_away and not one.exchanging]
        self._turned_away = {}
        self.resting += [one.identity for one in out]
        self.reason = str(error)
        now = clock.monotonic()
        if now - self._shrunk_at > 2 * PAUSE_MAX_S:
            self._pause_s = PAUSE_MIN_S
        else:
            self._lengthen()  # what was taken in was turned away again
        self._shrunk_at = now
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=f"connector {connector.name} crowding"
            )
        connector.leave_out(out)
        for member in out:
            in_doubt = set().union(*member.in_doubt.values())
            self.left_behind[member.client_id] = [*member.parting, *in_doubt]
        up = len(connector.members)
        log.warning(
            "connector %s: the far side takes no more than %d of %d connections (%s); those go on "
            "with the topics of all, and more are tried in %.0f s",
            connector.name,
            up,
            up + len(self.resting),
            error,
            self._pause_s,
        )

    def _lengthen(self) -> None:
        self._pause_s = min(PAUSE_MAX_S, 2 * self._pause_s)

    async def _run(self) -> None:
        connector = self._connector
        soon = False
        while self.resting:
            # Not all bridges of a far side at once.
            pause_s = SOON_S if soon else self._pause_s
            await asyncio.sleep(pause_s * random.uniform(0.75, 1.0))  # noqa: S311
            soon = False
            up = next((one for one in connector.members if one.state == "connected"), None)
            if up is None or up.dialect is None or connector.regrouping:
                continue
            identity = self.resting[0]
            try:
                await knock(
                    connector,
                    up.address,
                    identity,
                    up.dialect,
                    clean_start=up.starts_clean,
                    session_expiry_s=up.session_expiry_s,
                )
            except ConnectError as error:
                self.reason = str(error)
                self._lengthen()
                continue
            except Exception:
                log.exception("connector %s: a try to log in failed", connector.name)
                self._lengthen()
                continue
            self.resting.remove(identity)
            connector.take_in(identity)
            soon = True
            log.info(
                "connector %s: the far side takes %d of %d connections now",
                connector.name,
                len(connector.members),
                len(connector.members) + len(self.resting),
            )
        self._task = None


def _turned_away(error: ConnectError) -> bool:
    """Whether a far side that is full may have answered so, or closed for it."""
    if error.reason is not None:
        return error.reason in FULL_CODES
    if error.step == "connack":
        return True
    return error.step in ("tls", "websocket") and str(error).endswith(tuple(CLOSES))
