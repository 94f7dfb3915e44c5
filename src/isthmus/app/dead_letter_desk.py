"""The dead letters of a running process, for `isthmus dlq`: the answers to the request `dlq`.

What is to be done stands in `do`: `logs`, `list`, `show`, `replay` or `drop`. Each answer is
bounded, so a command asks again where there is more.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

from isthmus import clock
from isthmus.app.asking import DONE, NOT_NOW, WRONG
from isthmus.delivery.dead_letter import PREFIX, log_name, summary, unseal
from isthmus.delivery.message import Message
from isthmus.delivery.record import message
from isthmus.errors import MQTTError
from isthmus.mqtt.properties import with_message_expiry

if TYPE_CHECKING:
    from isthmus.app.app import App
    from isthmus.connectors.connector import Connector
    from isthmus.store.log import Log, Part

PAGE_BYTES = 1 << 20
"""What is loaded for one answer, about."""

REPLAY_S = 10.0
"""How long one answer waits until messages that were published again are safe."""


class DeadLetterDesk:
    """Answers for one application."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer the request `dlq`."""
        do, name, number = (request.get(key) for key in ("do", "connector", "number"))
        if do == "logs":
            return {"status": DONE, "logs": self._logs()}
        if not isinstance(name, str) or not (number is None or isinstance(number, int)):
            return _wrong("it needs a connector, and a number where it means one dead letter")
        store = self._app.store
        if store is None or log_name(name) not in store.names():
            return _wrong(f"there are no dead letters of a connector {name!r}")
        log = store.log(log_name(name))
        first = request.get("from", 1)
        if do == "list" and isinstance(first, int):
            return await _page(log, first)
        if do == "show" and number is not None:
            return await _show(log, number)
        if do == "drop":
            return await self._drop(log, number)
        if do == "replay":
            last = request.get("last", log.next - 1)
            if not (isinstance(first, int) and isinstance(last, int)):
                return _wrong("'from' and 'last' are numbers")
            return await self._replay(log, name, number, first, last)
        return _wrong("'do' is none of logs, list, show, replay, drop")

    def _logs(self) -> list[dict[str, Any]]:
        store = self._app.store
        if store is None:
            return []
        logs = [store.log(name) for name in store.names() if name.startswith(PREFIX)]
        return [
            {"connector": log.name.removeprefix(PREFIX), "messages": len(log), "bytes": log.size}
            for log in logs
        ]

    async def _drop(self, log: Log, number: int | None) -> dict[str, Any]:
        wanted = range(log.done_below, log.next) if number is None else (number,)
        count = 0
        for seq in wanted:
            if 0 < seq < log.next and not log.is_done(seq):
                log.done(seq)
                count += 1
        if number is not None and not count:
            return _none(number)
        store = self._app.store
        assert store is not None
        done = asyncio.Event()
        store.then(done.set)
        try:
            async with asyncio.timeout(REPLAY_S):
                await done.wait()
        except TimeoutError:
            why = store.failure or "the disk does not answer"
            return {"status": NOT_NOW, "errors": [f"deleted, but not on disk yet: {why}"]}
        return {"status": DONE, "dropped": count}

    async def _replay(
        self, log: Log, name: str, number: int | None, first: int, last: int
    ) -> dict[str, Any]:
        """Publish one again, or a page of them from `first` to `last`."""
        connector = self._app.connectors.get(name)
        if connector is None or connector.dead_letters is None:
            return _wrong(f"there is no connector {name!r} that could publish them")
        parts = await _load(log, first if number is None else number)
        if parts is None:
            return _unreadable()
        found = _letters(log, parts)
        if number is not None:
            found = [letter for letter in found if letter[0] == number]
            if not found:
                return _none(number)
        else:
            found = [letter for letter in found if letter[0] <= last]
        result = await _publish(connector, found)
        end = _end(parts, log)
        more = number is None and end <= min(last, log.stored - 1)
        return {"status": DONE, **result, "next": end if more else None, "last": last}


async def _publish(connector: Connector, found: list[tuple[int, bytes | None]]) -> dict[str, Any]:
    """Publish dead letters, and wait until they are safe or have failed."""
    from isthmus.delivery.dead_letters import Replay  # who has none need not pay for it

    letters = connector.dead_letters
    assert letters is not None
    waiting: set[Replay] = set()
    every: list[Replay] = []
    all_ended = asyncio.Event()
    kept: list[dict[str, Any]] = []

    def ended(replay: Replay) -> None:
        waiting.discard(replay)
        if not waiting:
            all_ended.set()

    for seq, data in found:
        again = None if data is None else _message(data)
        if again is None:
            kept.append({"number": seq, "why": "it cannot be read"})
            continue
        if again.expires is not None and again.expires <= clock.monotonic():
            kept.append({"number": seq, "why": "its message expiry is over"})
            continue
        replay = Replay(letters, seq, ended)
        waiting.add(replay)
        every.append(replay)
        receipt = replay.receipt()
        last = letters.log.next
        connector.publish(again, receipt)
        if letters.log.next > last:
            kept.append({"number": seq, "now": last, "why": "the queue is full"})
        receipt.release()
    if waiting:
        try:
            async with asyncio.timeout(REPLAY_S):
                await all_ended.wait()
        except TimeoutError:
            pass
    for replay in every:
        if replay.code >= 0x80:
            kept.append({"number": replay.seq, "why": f"it ended with 0x{replay.code:02x}"})
        elif replay in waiting:
            kept.append({"number": replay.seq, "why": "it is still on its way"})
    return {"replayed": len(found) - len(kept), "kept": kept}


def _message(data: bytes) -> Message | None:
    """The message of a dead letter, with what is left of its life."""
    try:
        found = message(unseal(data).record, None)
        properties = found.properties
        if found.expires is not None:
            left = max(1, int(found.expires - clock.monotonic()))
            properties = with_message_expiry(properties, left)
    except (ValueError, IndexError, MQTTError):
        return None
    flags = found.first & 7
    return Message(
        found.topic[2:], found.payload, flags >> 1, flags & 1 > 0, properties, found.expires
    )


async def _load(log: Log, seq: int) -> list[Part] | None:
    future: asyncio.Future[list[Part] | None] = asyncio.get_running_loop().create_future()
    log.load(max(seq, log.done_below), PAGE_BYTES, future.set_result)
    return await future


def _letters(log: Log, parts: list[Part]) -> list[tuple[int, bytes | None]]:
    return [
        (seq, data)
        for part in parts
        for seq, data in enumerate(part.records, part.first)
        if not log.is_done(seq)
    ]


def _end(parts: list[Part], log: Log) -> int:
    """The number behind the last that was loaded."""
    return parts[-1].first + len(parts[-1].records) if parts else log.next


async def _page(log: Log, first: int) -> dict[str, Any]:
    parts = await _load(log, first)
    if parts is None:
        return _unreadable()
    found = [
        {"number": seq, "damaged": True} if data is None else summary(seq, data)
        for seq, data in _letters(log, parts)
    ]
    end = _end(parts, log)
    return {"status": DONE, "letters": found, "next": end if end < log.stored else None}


async def _show(log: Log, number: int) -> dict[str, Any]:
    parts = await _load(log, number) if 0 < number < log.next else []
    if parts is None:
        return _unreadable()
    for seq, data in _letters(log, parts):
        if seq == number and data is not None:
            return {"status": DONE, "letter": base64.b64encode(data).decode()}
    return _none(number)


def _none(number: int) -> dict[str, Any]:
    return {"status": NOT_NOW, "errors": [f"there is no dead letter number {number}"]}


def _unreadable() -> dict[str, Any]:
    return {"status": NOT_NOW, "errors": ["the store cannot be read now; see the log"]}


def _wrong(text: str) -> dict[str, Any]:
    return {"status": WRONG, "errors": [text]}
