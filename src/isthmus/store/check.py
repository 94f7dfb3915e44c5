"""The check of a store: is everything there that its logs name, and as it was written?"""

from __future__ import annotations

import sqlite3
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from isthmus.store.batch import Row, records
from isthmus.store.idle_store import LOGS_SINCE
from isthmus.store.schema import VERSION

if TYPE_CHECKING:
    from isthmus.store.idle_store import IdleStore, KeptLog

MAX_PROBLEMS = 100
"""Problems that SQLite reports at most; more would say nothing new."""


class LogCount(NamedTuple):
    """What is in a log: records that wait, and bytes in the file."""

    name: str
    waiting: int
    size: int


@dataclass
class Findings:
    """What a check found. `problems` are lines that say where, what, and what it costs."""

    version: int
    retained: int = 0
    batches: int = 0
    logs: list[LogCount] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check(store: IdleStore) -> Findings:
    """Look at everything in `store`; changes nothing. Reads the whole file."""
    found = Findings(store.version)
    if store.lost:
        found.problems.append(store.lost)
    try:
        _check_file(store, found)
        (found.retained,) = store.connection.execute("SELECT count(*) FROM retained").fetchone()
        if store.version >= LOGS_SINCE:
            _check_logs(store, found)
    except sqlite3.Error as error:
        found.problems.append(f"the rest cannot be read: {error}")
    if not 0 < store.version <= VERSION:
        found.problems.append(f"the file has tables of version {store.version}: it is no store")
    return found


def _check_file(store: IdleStore, found: Findings) -> None:
    answers = store.connection.execute(f"PRAGMA integrity_check({MAX_PROBLEMS})").fetchall()
    lines = [line for (answer,) in answers for line in answer.splitlines()]
    if lines != ["ok"]:
        found.problems += [f"the file is damaged: {line}" for line in lines]


def _check_logs(store: IdleStore, found: Findings) -> None:
    execute = store.connection.execute
    (found.batches,) = execute("SELECT count(*) FROM batches").fetchone()
    logs = store.logs()
    for log in logs:
        waiting = _check_log(store, log, found)
        found.logs.append(LogCount(log.name, waiting, log.bytes))
    for (log_id,) in execute(
        "SELECT DISTINCT log FROM slices WHERE log NOT IN (SELECT id FROM logs)"
    ):
        found.problems.append(f"there are records of log number {log_id}, which does not exist")
    (alone,) = execute(
        "SELECT count(*) FROM batches b WHERE NOT EXISTS (SELECT 1 FROM slices WHERE batch=b.id)"
    ).fetchone()
    if alone:
        found.problems.append(f"{alone} batch(es) belong to no log, and only take room")


def _check_log(store: IdleStore, log: KeptLog, found: Findings) -> int:
    """Check one log; returns how many of its records wait, and can be read."""
    where = f"log {log.name}"
    waiting = damaged = size = 0
    expected = log.done_below
    missing = 0
    cursor = store.connection.execute(
        "SELECT seq, count, bytes, batch, start, places FROM slices WHERE log=? ORDER BY seq",
        (log.id,),
    )
    for seq, count, length, batch, start, places in cursor:
        missing += sum(not log.is_done(gone) for gone in range(expected, min(seq, log.next)))
        expected = max(expected, seq + count)
        size += length
        row = store.connection.execute(
            "SELECT body, ends, sums FROM batches WHERE id=?", (batch,)
        ).fetchone()
        wanted = range(start, start + count) if places is None else array("I", places)
        if len(wanted) != count:
            found.problems.append(f"{where}: record {seq}: says {count} and names {len(wanted)}")
        if row is None:
            lost = sum(log.waits(one) for one in range(seq, seq + count))
            found.problems.append(
                f"{where}: records {seq} to {seq + count - 1}: their batch {batch} is not there; "
                f"{lost} message(s) are lost"
            )
            continue
        for one, record in enumerate(records(Row(*row), wanted), seq):
            if log.waits(one):
                damaged += record is None
                waiting += record is not None
    missing += sum(not log.is_done(gone) for gone in range(expected, log.next))
    if missing:
        found.problems.append(f"{where}: {missing} record(s) are not there")
    if damaged:
        found.problems.append(
            f"{where}: {damaged} record(s) do not have their checksum; they will not be delivered, "
            "and are counted as 'damaged'"
        )
    if size != log.bytes:
        found.problems.append(f"{where}: it says {log.bytes} bytes and has {size}")
    if expected > log.next:
        found.problems.append(f"{where}: it has records behind its end, number {log.next}")
    return waiting
