"""A pool gets other members while messages are on their way, and no topic gets out of order.

A topic's member is chosen by a hash over all members, so with another number of them most topics
move. A message that takes the new way at once could overtake one that still waits on the old way.
So this is a barrier:

1. From now on every message, QoS 0 too, waits in a lane without a connection: one for each new
   member, a generation of them.
2. Members that stay send what they have. Members that leave do so too, until nothing is in flight
   and their subscriptions have been granted to others, or for `DRAIN_S`; then they say goodbye, and
   what they have left goes to one that stays.
3. When nothing is left of what was there before, the generation moves to the lanes of the members,
   and messages go straight to them again.

Another change in between only adds a generation.

A member that is down holds up the others for `STUCK_S`, no longer. Then what waits for it goes to
one that is connected, and the order of its topics is no longer kept: what it had in flight stays
with it, as the far side may have that already, so it is sent again when the member is connected,
and may arrive after younger messages. If no member is connected, all wait; where there is a disk
they wait there, acknowledged, behind a barrier (`delivery/barrier.py`), unless a log is full.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.delivery.lane import Lane

if TYPE_CHECKING:
    from isthmus.connectors.connector import Connector
    from isthmus.connectors.member import Member

log = logging.getLogger("isthmus.connectors")

DRAIN_S = 8.0
"""How long what goes waits for the acknowledgements of what is on its way: a member of a pool, a
connector, the process, which systemd kills after 90."""

STUCK_S = 2.0
"""How long a member that is down holds up the others."""

STEP_S = 0.02


class Regrouping:
    """The way of one connector from some members to others. Belongs to the event loop."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._generations: deque[dict[Member | None, Lane]] = deque()
        self._leaving: dict[Member, float] = {}
        self._stuck: dict[Member, float] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def lanes(self) -> list[Lane]:
        """All lanes with messages that are not in the lane of a member of the pool."""
        waiting = [lane for generation in self._generations for lane in generation.values()]
        return waiting + [member.lane for member in self._leaving]

    @property
    def leaving(self) -> list[Member]:
        """Members that belong to the pool no more and still have something to do."""
        return list(self._leaving)

    @property
    def settling(self) -> bool:
        """Whether a member that leaves still waits for acknowledgements, or others for its end."""
        return bool(self.lanes) and any(
            member.state == "connected" for member in (*self._leaving, *self._connector.members)
        )

    def begin(self, leaving: list[Member]) -> None:
        """The connector has its new members; these are the ones that it has no more."""
        now = clock.monotonic()
        for member in leaving:
            member.leaving = True
            self._leaving[member] = now + DRAIN_S
        members: list[Member | None] = [*self._connector.members] or [None]
        lanes = {member: self._connector.new_lane(plain=True) for member in members}
        for lane in lanes.values():
            lane.keeps_qos0 = True
        self._generations.append(lanes)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=f"connector {self._connector.name} regrouping"
            )

    def lane_of(self, member: Member | None) -> Lane:
        """Where messages for `member` wait now."""
        return self._generations[-1][member]

    async def stop(self) -> None:
        """Give up: what waits goes to the members, which are about to be stopped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        for member in list(self._leaving):
            await self._let_go(member)
        while self._generations:
            if self._connector.outboxes is not None:
                self._connector.outboxes.hold_back()
            self._hand_over()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            try:
                await self._step()
            except Exception:
                log.exception("connector %s: a change of the pool failed", self._connector.name)
            if not self._generations:
                break  # at once, as there is nothing left to wait in
        self._task = None
        self._connector.regrouped()

    async def _step(self) -> None:
        now = clock.monotonic()
        for member, end in list(self._leaving.items()):
            gone = member.state != "connected"
            if gone or now >= end or (not member.lane.inflight + member.lane.queued
                                      and self._replaced(member)):  # fmt: skip
                await self._let_go(member)
        if self._leaving:
            self._stuck.clear()
            return
        outboxes, members = self._connector.outboxes, self._connector.members
        if self._empty(now):
            self._hand_over()
        elif (
            outboxes is not None
            and not outboxes.holding
            and not any(one.state == "connected" for one in members)
        ):
            # Nobody knows for how long: what waits here goes to disk, and its publishers go on.
            # Not before what a full log holds, which no barrier can tell from what comes later: it
            # may hold some of this generation, so the next one waits for another look.
            outboxes.hold_back()
            self._hand_over()

    def _replaced(self, member: Member) -> bool:
        """Whether others have the subscriptions of a member, as far as they are wanted."""
        subscriptions = self._connector.subscriptions
        wanted, answers = subscriptions.cover(), subscriptions.answers
        return all(filter_ in answers for filter_ in member.parting if filter_ in wanted)

    async def _let_go(self, member: Member) -> None:
        await member.stop(for_good=True)
        self._leaving.pop(member, None)
        self._move(member.lane, self._heir())
        self._connector.figures.parted(member)  # with what others send again
        self._connector.retained_sync.moved(member.lane)

    def _empty(self, now: float) -> bool:
        """Whether nothing is left from before; helps what is stuck."""
        connected = [one for one in self._connector.members if one.state == "connected"]
        if not connected:
            self._stuck.clear()  # nobody is held up by one member, as all are down
            return not any(member.lane.queued or member.lane.entries
                           for member in self._connector.members)  # fmt: skip
        empty = True
        for member in self._connector.members:
            lane = member.lane
            if member in connected:
                self._stuck.pop(member, None)
                empty = empty and not lane.queued and not lane.entries
            elif lane.queued or lane.entries:
                since = self._stuck.setdefault(member, now)
                if now - since < STUCK_S:
                    empty = False
                elif lane.outbox is not None:
                    continue  # on disk, where it waits for its own connection
                elif lane.queued:
                    self._move(lane, connected[0].lane, inflight=False)
                    empty = False
        return empty

    def _move(self, lane: Lane, heir: Lane, *, inflight: bool = True) -> None:
        parked = self._connector.new_lane(plain=True)
        parked.inherit(lane, inflight=inflight)
        heir.inherit(parked)

    def _heir(self) -> Lane:
        """The lane that takes what a member leaves: a connected one, if there is one."""
        members = self._connector.members
        connected = [member for member in members if member.state == "connected"]
        if members:
            return (connected or members)[0].lane
        return self._connector.lane_without_connection()

    def _hand_over(self) -> None:
        """What came after the first change is the oldest now."""
        members = self._connector.members
        for member, lane in self._generations.popleft().items():
            heir = member.lane if member is not None and member in members else self._heir()
            heir.inherit(lane)
