"""What a new process finds in a data folder."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path

from isthmus.delivery.record import message
from isthmus.delivery.stored import stored_at
from isthmus.store.log import Log, Part
from isthmus.store.schema import RETAINED
from isthmus.store.store import Store


@dataclass
class Held:
    """What is on disk.

    `messages` are the payloads that go out, by topic; `owned` those of which it is noted that the
    far side has them, while their QoS 2 exchange goes on; `damage` is what is wrong with the file.
    """

    messages: dict[bytes, list[bytes]] = field(default_factory=dict)
    owned: set[bytes] = field(default_factory=set)
    retained: dict[bytes, bytes] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)

    @property
    def payloads(self) -> list[bytes]:
        """All that go out."""
        return [payload for listed in self.messages.values() for payload in listed]


async def look(folder: Path) -> Held:
    """Open the store in a folder, as the next process would."""
    store = Store(folder)
    held = Held()
    try:
        store.start()
        found = [text for (text,) in store.query("PRAGMA integrity_check")]
        held.damage += [text for text in found if text != "ok"]
        held.retained = {row[0]: row[3] for row in store.table(RETAINED).rows()}
        for name in store.names():
            await _read(store.log(name), held)
    finally:
        await store.stop()
    held.damage += [name for name in os.listdir(folder) if "damaged" in name]  # noqa: PTH208
    return held


async def _read(log: Log, held: Held) -> None:
    at = log.done_below
    while at < log.next:
        loaded: asyncio.Future[list[Part] | None] = asyncio.get_running_loop().create_future()
        log.load(at, 1 << 20, loaded.set_result)
        for part in await loaded or [Part(log.next, 0.0, [])]:
            if part.first > at:
                held.damage += [
                    f"record {seq} of {log.name} has gone"
                    for seq in range(at, part.first)
                    if not log.is_done(seq)
                ]
            for seq, record in enumerate(part.records, part.first):
                if log.is_done(seq):
                    continue
                if record is None:
                    held.damage.append(f"record {seq} of {log.name} is damaged")
                    continue
                item = message(record, stored_at(log, seq))
                if log.is_taken(seq):
                    held.owned.add(item.payload)
                else:
                    held.messages.setdefault(item.topic[2:], []).append(item.payload)
            at = part.first + len(part.records)
