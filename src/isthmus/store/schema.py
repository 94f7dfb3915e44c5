"""The tables, as the steps that made them: a file of an older version takes the steps it misses."""

from __future__ import annotations

from typing import NamedTuple

STEPS = (
    """
    CREATE TABLE retained(
      topic BLOB PRIMARY KEY,
      qos INTEGER NOT NULL,
      properties BLOB NOT NULL,                 -- the property block of MQTT 5, without its length
      payload BLOB NOT NULL,
      expires REAL,                             -- wall clock; null for never
      username BLOB,                            -- who published it, and whose rights it depends on
      client_id BLOB,                           -- null: on nobody's
      realm BLOB
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE logs(
      id INTEGER PRIMARY KEY,
      name TEXT NOT NULL UNIQUE,
      next INTEGER NOT NULL,                    -- the sequence number of the next record
      recorded INTEGER NOT NULL,                -- everything below is done
      done BLOB NOT NULL,                       -- what is done from there on: sequence numbers,
                                                -- u64; the first of a span has bit 63 set, and its
                                                -- end follows
      taken BLOB NOT NULL,                      -- what the peer owns and is not done: the same
      begun INTEGER NOT NULL,                   -- 0: nothing was sent; 1: what was, to a session
                                                -- that is as new as this log; 2: to an older one
      bytes INTEGER NOT NULL DEFAULT 0          -- the size of its slices
    );
    CREATE TABLE batches(
      id INTEGER PRIMARY KEY,
      at REAL NOT NULL,                         -- when it was written, wall clock
      body BLOB NOT NULL,                       -- the records of one transaction
      ends BLOB NOT NULL,                       -- where each ends: u32
      sums BLOB NOT NULL                        -- CRC-32 of each 64 records: u32
    );
    CREATE TABLE slices(                        -- which records of which batch a log has
      log INTEGER NOT NULL,
      seq INTEGER NOT NULL,                     -- of the first of them
      count INTEGER NOT NULL,
      bytes INTEGER NOT NULL,
      batch INTEGER NOT NULL,
      start INTEGER NOT NULL,                   -- the place of the first in the batch
      places BLOB,                              -- all places, u32, where they do not follow it
      PRIMARY KEY(log, seq)
    ) WITHOUT ROWID;
    CREATE INDEX slices_by_batch ON slices(batch);
    CREATE TRIGGER slice_came AFTER INSERT ON slices BEGIN
      UPDATE logs SET bytes=bytes+NEW.bytes WHERE id=NEW.log;
    END;
    CREATE TRIGGER slice_went AFTER DELETE ON slices BEGIN
      UPDATE logs SET bytes=bytes-OLD.bytes WHERE id=OLD.log;
      DELETE FROM batches WHERE id=OLD.batch
        AND NOT EXISTS (SELECT 1 FROM slices WHERE batch=OLD.batch);
    END;
    """,
    """
    CREATE TABLE sessions(
      client_id BLOB PRIMARY KEY,
      state BLOB NOT NULL                       -- JSON: whose it is, when it ends, its will
    ) WITHOUT ROWID;
    CREATE TABLE subscriptions(
      id BLOB PRIMARY KEY,                      -- client id, a zero byte, filter
      options INTEGER NOT NULL,                 -- as in a SUBSCRIBE; 64: it begins with a wildcard
      identifier INTEGER NOT NULL               -- 0 for none
    ) WITHOUT ROWID;
    CREATE TABLE received(                      -- QoS 2 messages that came and have no PUBREL yet
      id BLOB PRIMARY KEY                       -- by whom, a zero byte, packet identifier
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE pools(
      connector BLOB PRIMARY KEY,
      pool BLOB NOT NULL                        -- JSON: its client ids, places, and stages
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE wills(                         -- of connections, and those that are published
      key BLOB PRIMARY KEY,                     -- client id, a zero byte, a number
      state BLOB NOT NULL                       -- JSON: whose it is, the message
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE missed(                        -- retained changes that far sides have not heard of
      id BLOB PRIMARY KEY                       -- connector, a zero byte, topic
    ) WITHOUT ROWID;
    """,
)

VERSION = len(STEPS)


class Statements(NamedTuple):
    """What is done with one table. The first column of a row is its key.

    `{}` stands for as many rows as there are: one statement for many is one return to Python, and
    beside a busy event loop each of those can cost a turn.
    """

    columns: int
    rows: str
    set_rows: str
    remove_rows: str


ADD_BATCHES = "INSERT INTO batches VALUES {}"
ADD_SLICES = "INSERT INTO slices VALUES {}"
WITHDRAW_SLICES = "DELETE FROM slices WHERE log=? AND seq>=?"
TRIM_SPAN = "DELETE FROM slices WHERE log=?1 AND seq>=?2 AND seq<?3 AND seq+count<=?3"
LOGS = "SELECT id, name, next, recorded, done, taken, begun, bytes FROM logs"
SET_LOGS = (
    "INSERT INTO logs(id, name, next, recorded, done, taken, begun) VALUES {}"
    " ON CONFLICT(id) DO UPDATE SET next=excluded.next, recorded=excluded.recorded,"
    " done=excluded.done, taken=excluded.taken, begun=excluded.begun"
)
EMPTY_LOGS = "UPDATE logs SET recorded=next, done=x'', taken=x'' WHERE id IN (VALUES {})"
DROP_LOG = "DELETE FROM logs WHERE id=?"

RETAINED = Statements(
    8,
    "SELECT * FROM retained",
    "INSERT OR REPLACE INTO retained VALUES {}",
    "DELETE FROM retained WHERE topic IN (VALUES {})",
)

SESSIONS = Statements(
    2,
    "SELECT * FROM sessions",
    "INSERT OR REPLACE INTO sessions VALUES {}",
    "DELETE FROM sessions WHERE client_id IN (VALUES {})",
)

SUBSCRIPTIONS = Statements(
    3,
    "SELECT * FROM subscriptions",
    "INSERT OR REPLACE INTO subscriptions VALUES {}",
    "DELETE FROM subscriptions WHERE id IN (VALUES {})",
)

WILLS = Statements(
    2,
    "SELECT * FROM wills",
    "INSERT OR REPLACE INTO wills VALUES {}",
    "DELETE FROM wills WHERE key IN (VALUES {})",
)

POOLS = Statements(
    2,
    "SELECT * FROM pools",
    "INSERT OR REPLACE INTO pools VALUES {}",
    "DELETE FROM pools WHERE connector IN (VALUES {})",
)

RECEIVED = Statements(
    1,
    "SELECT * FROM received",
    "INSERT OR REPLACE INTO received VALUES {}",
    "DELETE FROM received WHERE id IN (VALUES {})",
)

MISSED = Statements(
    1,
    "SELECT * FROM missed",
    "INSERT OR REPLACE INTO missed VALUES {}",
    "DELETE FROM missed WHERE id IN (VALUES {})",
)
