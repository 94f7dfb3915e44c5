"""Reading records of a log: in bounded steps, and past what is damaged."""

from __future__ import annotations

import sqlite3
from array import array

from isthmus.store.batch import Row, records
from isthmus.store.database import is_damage
from isthmus.store.log import Part

MAX_SLICES = 256
"""Slices that one load reads at most."""

MAX_DAMAGED = 4096
"""Records that are skipped at once where not even their slices can be read."""

SLICES = (
    "SELECT seq, count, bytes, batch, start, places FROM slices WHERE log=?1 AND seq>="
    "coalesce((SELECT max(seq) FROM slices WHERE log=?1 AND seq<=?2), 0) ORDER BY seq LIMIT ?3"
)


def read(connection: sqlite3.Connection, log_id: int, seq: int, max_bytes: int) -> list[Part]:
    """Records of a log from `seq` on, up to about `max_bytes`, but one at least.

    What is damaged is None in one go, up to where more can be read.

    Raises:
        sqlite3.Error: They cannot be read, for another reason.
    """
    most = MAX_SLICES
    while True:
        try:
            slices = connection.execute(SLICES, (log_id, seq, most)).fetchall()
            break
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            if most == 1:
                return [_damaged(connection, log_id, seq)]
            most //= 2  # those before the damage
    size = 0
    found: list[Part] = []
    for begin, count, length, batch, start, places in slices:
        if begin + count <= seq:
            continue
        if size and size + length > max_bytes:
            break
        size += length
        skip = max(0, seq - begin)
        try:
            wanted = range(start, start + count) if places is None else array("I", places)
            at, *columns = connection.execute(
                "SELECT at, body, ends, sums FROM batches WHERE id=?", (batch,)
            ).fetchone() or (0.0,)
        except (sqlite3.DatabaseError, ValueError) as error:
            if isinstance(error, sqlite3.Error) and not is_damage(error):
                raise
            columns = []
        if columns:
            found.append(Part(begin + skip, at, records(Row(*columns), wanted[skip:])))
        else:
            found.append(Part(begin + skip, 0.0, [None] * (count - skip)))
    return found


def _damaged(connection: sqlite3.Connection, log_id: int, seq: int) -> Part:
    """The records of a log from `seq` on, up to the first whose slices can be read."""
    try:
        (end,) = connection.execute("SELECT next FROM logs WHERE id=?", (log_id,)).fetchone()
    except (sqlite3.DatabaseError, TypeError):
        end = seq + 1
    most = min(MAX_DAMAGED, end - seq)
    bad, step = 0, 1
    while step < most and not _readable(connection, log_id, seq + step):
        bad, step = step, 2 * step
    step = max(1, min(step, most))
    while step - bad > 1:
        middle = (bad + step) // 2
        if _readable(connection, log_id, seq + middle):
            step = middle
        else:
            bad = middle
    return Part(seq, 0.0, [None] * step)


def _readable(connection: sqlite3.Connection, log_id: int, seq: int) -> bool:
    try:
        connection.execute(SLICES, (log_id, seq, 1)).fetchall()
    except sqlite3.DatabaseError:
        return False
    return True


def written_at(connection: sqlite3.Connection, log_id: int, seq: int) -> float:
    """The wall time at which record `seq` of a log was written; 0.0 if it is not there.

    Raises:
        sqlite3.Error: It cannot be read.
    """
    row = connection.execute(
        "SELECT b.at FROM slices s JOIN batches b ON b.id=s.batch WHERE s.log=?1 AND s.seq="
        "(SELECT max(seq) FROM slices WHERE log=?1 AND seq<=?2)",
        (log_id, seq),
    ).fetchone()
    return 0.0 if row is None else float(row[0])
