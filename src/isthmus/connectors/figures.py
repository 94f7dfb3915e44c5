"""The figures of a connector: its status as people and machines read it.

Everything is read from counters and from the state of its members when somebody asks; only ages
need a look once a second. Nothing here is asked for by a message.

The names are public: `isthmus status --json` prints them, and they are what is retained below
`$SYS/isthmus/connectors/`. No secret is among them.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from isthmus import clock
from isthmus.clock import iso
from isthmus.connectors.lane_age import LaneAge

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.connectors.connector import Connector
    from isthmus.connectors.member import Member
    from isthmus.delivery.lane import Lane

log = logging.getLogger("isthmus.connectors")

ON_DISK_S = 5.0
"""How long messages wait on disk until the log says so: less is no outage."""

LONGEST_TEXT = 500
"""Characters of a reason: a far side may send 65,535 bytes of it, and they would be retained."""


class Figures:
    """What is known about one connector.

    `on_change` is called when its state, or how many of its connections are up, has become another.
    """

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self.on_change: Callable[[], None] = _nobody
        self._state = ""
        self._since = clock.wall()
        self._last_error = ""
        self._last_error_at: float | None = None
        self._parted: Counter[str] = Counter()
        self._ages: dict[Lane, LaneAge] = {}
        # What an earlier process has left is said at the start.
        self._began = clock.wall()
        self._said_on_disk = False
        # Whether a failure was the last that happened; a lazy connection is also closed without.
        self._down = False
        # What an outage has left: how much, since when, and what had ended before.
        self._left = 0
        self._left_since = 0.0
        self._ended_before: Counter[str] = Counter()

    def changed(self) -> None:
        """The status of the connector is another one."""
        state = self._connector.state
        if state != self._state:
            self._state = state
            self._since = clock.wall()
        self.on_change()

    def failed(self, why: str) -> None:
        """A connection could not be made, was refused, or was lost."""
        self._down = True
        self._last_error = why
        self._last_error_at = clock.wall()

    def parted(self, member: Member) -> None:
        """`member` is in the pool no more; what it did still counts."""
        self._parted += _counts(member)

    def look(self, now: float) -> None:
        """Note how far the lanes have come; `now` is monotonic. To be called once a second."""
        before = self._ages
        self._ages = {lane: before.get(lane) or LaneAge() for lane in self._connector.lanes}
        for lane, age in self._ages.items():
            age.look(lane, now)
            if lane.outbox is not None:
                lane.outbox.look()
        self._look_at_outage(now)
        self._look_at_disk()

    def _look_at_outage(self, now: float) -> None:
        """Say once what became of messages since an outage, when as many as it left are gone."""
        connector = self._connector
        states = {member.state for member in connector.members}
        if "connected" in states or states == {"idle"}:
            self._down = False
        queued = sum(lane.queued + lane.inflight for lane in connector.lanes)
        if self._down:
            if not self._left:
                self._left_since = now
            self._left = queued
            self._ended_before = self._ended()
            return
        if not self._left:
            return
        ended = self._ended() - self._ended_before
        if not queued or ended.total() >= self._left:
            log.info(
                "connector %s: %d message(s), as many as had waited, have left the queue after "
                "%.0f s; since the far side is back: %d acknowledged, %d refused, "
                "%d expired or too old",
                connector.name,
                self._left,
                now - self._left_since,
                ended["acknowledged"],
                ended["refused"],
                ended["late"],
            )
            self._left = 0

    def _look_at_disk(self) -> None:
        """Say once that messages wait on disk, until none does; for a lazy one they always do."""
        connector = self._connector
        found = [lane.outbox.oldest_at for lane in connector.lanes if lane.outbox is not None]
        oldest_at = min(filter(None, found), default=0.0)
        if not oldest_at or connector.settings.start == "lazy":
            self._said_on_disk = False
        elif not self._said_on_disk and clock.wall() - max(oldest_at, self._began) >= ON_DISK_S:
            self._said_on_disk = True
            log.info(
                "connector %s: messages for it wait on disk until the far side takes them",
                connector.name,
            )

    def _ended(self) -> Counter[str]:
        """How messages that waited have ended, in messages."""
        connector = self._connector
        counts = self._totals()
        places = [connector.drops]
        if connector.dead_letters is not None:
            places.append(connector.dead_letters.put_aside)
        return Counter(
            acknowledged=counts["acknowledged"],
            refused=counts["refused"],
            late=sum(
                place.counts.get(reason, 0) for place in places for reason in ("expired", "too_old")
            ),
        )

    def _totals(self) -> Counter[str]:
        """What went over all connections that there are and were, in messages."""
        connector = self._connector
        return sum(map(_counts, [*connector.members, *connector.leaving]), Counter(self._parted))

    def read(self) -> dict[str, Any]:
        """The figures now, as plain values; documented in `docs/status.md`."""
        connector = self._connector
        members = connector.members
        state = connector.state
        up = [member for member in members if member.state == "connected"]
        shown = next(iter(up or members), None)
        at_fault = next((member for member in members if member.state == state), None)
        if state == "degraded":
            at_fault = next((member for member in members if member.state != "connected"), None)
        counts = self._totals()
        reason = at_fault.reason if at_fault is not None else connector.status
        if state == "degraded" and at_fault is None:
            reason = f"the far side takes no more: {connector.crowding.reason}"
        lanes = connector.lanes
        filters = [connector.subscriptions.counts(member.index) for member in members]
        return {
            "name": connector.name,
            "state": state,
            "reason": _cut(reason),
            "since": iso(self._since),
            "address": "" if shown is None else shown.address.shown,
            "version": ", ".join(sorted({one.dialect.name for one in up if one.dialect})),
            "connections_up": len(up),
            "connections_wanted": connector.wanted,
            "connections_on_backup": sum(one.on_backup for one in up),
            "last_error": _cut(self._last_error),
            "last_error_at": None if self._last_error_at is None else iso(self._last_error_at),
            "round_trip_ms": _round_trip_ms(members),
            "subscriptions": sum(granted for granted, _ in filters),
            "subscriptions_refused": sum(refused for _, refused in filters),
            "queued": sum(lane.queued for lane in lanes),
            "queued_bytes": sum(lane.queued_bytes for lane in lanes),
            "inflight": sum(lane.inflight for lane in lanes),
            "oldest_age_s": self._oldest_age_s(),
            "dead_letters": 0 if connector.dead_letters is None else len(connector.dead_letters),
            "dead_letter_bytes": (
                0 if connector.dead_letters is None else connector.dead_letters.size
            ),
            "received": counts["received"],
            "sent": counts["sent"],
            "acknowledged": counts["acknowledged"],
            "retried": counts["retried"],
            "connect_attempts": counts["connect_attempts"],
            "connects": counts["connects"],
            "taken_over": counts["taken_over"],
            "refused": counts["refused"],
            "dropped": dict(connector.drops.counts),
        }

    def _oldest_age_s(self) -> float:
        now = clock.monotonic()
        ages = [age.oldest_s(lane, now) for lane, age in self._ages.items()]
        # What is on disk may be older than this process.
        ages += [
            clock.wall() - lane.outbox.oldest_at
            for lane in self._ages
            if lane.outbox is not None and lane.outbox.oldest_at
        ]
        return round(max(ages, default=0.0), 1)


def _nobody() -> None:
    """Nobody wants to know."""


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."


def _counts(member: Member) -> Counter[str]:
    """What went over all connections of a member, in messages."""
    lane = member.lane
    return Counter(
        received=member.received,
        sent=lane.sent,
        acknowledged=lane.acknowledged,
        retried=lane.resent,
        connect_attempts=member.attempts,
        connects=member.connects,
        taken_over=member.rival.taken_over,
        refused=lane.refused,
    )


def _round_trip_ms(members: list[Member]) -> float | None:
    """The longest round trip of the open connections, as last measured."""
    measured = [
        member.client.round_trip_s
        for member in members
        if member.client is not None
        and member.state == "connected"
        and member.client.round_trip_s is not None
    ]
    return round(max(measured) * 1000, 3) if measured else None
