"""What a connector has on disk: an outbox for each of its lanes, and its dead letters.

The log of a lane has the name of its client id, so it is found again after a restart. What an
earlier process has left for client ids that are no more goes by the first connection. After a start
with another pool what is new waits for all that is there: see `delivery/barrier.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from isthmus.connectors.pool_table import Pool
from isthmus.delivery.barrier import Barrier
from isthmus.delivery.dead_letter import log_name as dead_log_name
from isthmus.delivery.dead_letters import DeadLetters
from isthmus.delivery.outbox import Outbox

if TYPE_CHECKING:
    from isthmus.connectors.connector import Connector
    from isthmus.connectors.pool_table import PoolTable
    from isthmus.connectors.settings import ConnectorSettings
    from isthmus.delivery.backlog import Backlog
    from isthmus.delivery.lane import Lane
    from isthmus.store.store import Store


class Outboxes:
    """The outboxes of `connector` in `store`."""

    def __init__(self, connector: Connector, store: Store, pools: PoolTable) -> None:
        self._connector = connector
        self.store = store
        self._pools = pools
        self._barrier: Barrier | None = None
        self.dead_letters = DeadLetters(
            store.log(dead_log_name(connector.name)),
            connector.drops,
            **_dead_letter_limits(connector.settings),
        )

    def prepare(self, lane: Lane) -> None:
        """Have `lane` wait for the disk, rather than be the place where messages wait."""
        lane.max_queued_bytes = self._connector.settings.unstored_bytes
        lane.dead = self.dead_letters

    def keep(self, lane: Lane, client_id: str) -> None:
        """Give `lane`, which is empty, what is on disk for `client_id`."""
        connector = self._connector
        used = {name for outbox in self._all() for name in _names(outbox)}
        name = log_name(connector.name, client_id)
        number = 1
        while name in used:  # by who sends what an earlier connection of this client id left
            number += 1
            name = f"{log_name(connector.name, client_id)}#{number}"
        self.prepare(lane)
        lane.name = client_id
        Outbox(
            lane,
            self.store.log(name),
            asyncio.get_running_loop(),
            spill_after_s=connector.settings.spill_after,
            limits=connector.limits,
        ).pace.rates = connector.drain_rates

    def take_up(self, found: list[str], heir: Lane) -> None:
        """Before the start: `heir` sends what is there for client ids that are no more.

        `found` are the logs that were there.
        """
        outboxes = self._all()
        wanted = {name for outbox in outboxes for name in _names(outbox)}
        assert heir.outbox is not None
        for name in found:
            if name not in wanted:
                heir.outbox.send_first(self.store.log(name))
        pool = self._pools.get(self._connector.name)
        stages = [] if pool is None else list(pool.stages)
        if pool is None or pool.client_ids != self._client_ids():
            self._add_stage(stages)
        self._hold_back(stages)

    def connected(self, lane: Lane, address: str) -> bool:
        """A connection of `lane` is open; whether the last one, of any process, led elsewhere."""
        connector = self._connector.name
        pool = self._pools.get(connector)
        assert pool is not None  # since `take_up`
        places = {**pool.places, lane.name: address}
        self._pools.set(connector, pool._replace(places=places))
        return pool.places.get(lane.name, address) != address

    def hold_back(self) -> None:
        """Have what comes from now on wait on disk for all that is there: the pool is another."""
        for outbox in self._all():
            outbox.spill()
        stages = [] if self._barrier is None else list(self._barrier.stages)
        self._add_stage(stages)
        self._hold_back(stages)

    def pool_changed(self) -> None:
        """The pool has become another one, and nothing has to wait for what there was."""
        self._write([] if self._barrier is None else self._barrier.stages)

    def _add_stage(self, stages: list[dict[str, int]]) -> None:
        stage = {found.log.name: found.log.next for found in self._backlogs() if len(found.log)}
        if stage:
            stages.append(stage)

    def _hold_back(self, stages: list[dict[str, int]]) -> None:
        # A log that has gone is waited for by nobody, and least of all by a new one of its name.
        ends = {found.log.name: found.log.next for found in self._backlogs()}
        stages = [
            {name: end for name, end in stage.items() if end <= ends.get(name, 0)}
            for stage in stages
        ]
        self._write(stages)
        if stages:
            self._barrier = Barrier(self._backlogs(), stages, self._write)
            for outbox in self._all():
                outbox.spill()

    def _client_ids(self) -> list[str]:
        return [identity.client_id for identity in self._connector.identities]

    def _write(self, stages: list[dict[str, int]]) -> None:
        connector, client_ids = self._connector.name, self._client_ids()
        before = self._pools.get(connector)
        known = {} if before is None else before.places
        places = {one: known[one] for one in client_ids if one in known}
        self._pools.set(connector, Pool(client_ids, [*stages], places))

    def take_settings(self) -> None:
        """Keep to what the settings of the connector say now."""
        connector = self._connector
        self.dead_letters.limit(**_dead_letter_limits(connector.settings))
        for lane in connector.lanes:
            self.prepare(lane)
        for outbox in self._all():
            outbox.limit(connector.limits)
            outbox.spill_after_s = connector.settings.spill_after
            outbox.send_more()  # rates may be higher

    @property
    def stored(self) -> int:
        """Messages that are on disk, or about to be."""
        return sum(outbox.stored for outbox in self._all())

    @property
    def holding(self) -> bool:
        """Whether messages wait in memory for room on disk, and their publishers with them."""
        return any(outbox.holding for outbox in self._all())

    def _backlogs(self) -> list[Backlog]:
        return [backlog for outbox in self._all() for backlog in outbox.backlogs]

    def _all(self) -> list[Outbox]:
        return [lane.outbox for lane in self._connector.lanes if lane.outbox is not None]


def _dead_letter_limits(settings: ConnectorSettings) -> dict[str, int]:
    return {
        "max_bytes": settings.max_dead_letters,
        "max_unstored_bytes": settings.unstored_bytes // 4,
    }


def _names(outbox: Outbox) -> list[str]:
    return [backlog.log.name for backlog in outbox.backlogs]


def log_name(connector: str, client_id: str) -> str:
    """The name of the log with what waits for a connection."""
    return f"outbox/{connector}/{client_id}"


def logs_of(connector: str, store: Store) -> list[str]:
    """The names of the logs with what waits for the far side of `connector`."""
    return [name for name in store.names() if name.startswith(log_name(connector, ""))]
