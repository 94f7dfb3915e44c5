"""PUBACK after fsync: whether each acknowledgement in a trace left when its message was safe."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from power_account import Account
from power_trace import SYNCS, WRITES, Call


class Promise:
    """Judges the acknowledgements of a trace by what was written to files in `folder`."""

    def __init__(self, calls: Iterable[Call], folder: Path, account: Account) -> None:
        inside = f"{folder}/"
        self._account = account
        self._writes: list[tuple[Call, str, bytes]] = []
        self._syncs: dict[str, list[Call]] = {}
        for call in calls:
            if call.name in WRITES | SYNCS and (target := call.target).startswith(inside):
                if call.name in WRITES:
                    self._writes.append((call, target, call.data))
                else:
                    self._syncs.setdefault(target, []).append(call)

    def on_disk(self, payload: bytes) -> int | None:
        """The line in which the first synchronisation had ended that covers a write of `payload`.

        It has to be of the same file, and to begin when that write has ended. None: there is none.
        """
        ends = []
        for write, target, data in self._writes:
            if payload in data:
                later = (sync for sync in self._syncs.get(target, ()) if sync.begin > write.end)
                ends += [sync.end for sync in later][:1]
        return min(ends, default=None)

    def too_early(self, payloads: Iterable[bytes]) -> list[bytes]:
        """Those whose acknowledgement left when neither the disk nor the far side had them."""
        early = []
        for payload in payloads:
            found = (self.on_disk(payload), self._account.owned.get(payload))
            safe = min((time for time in found if time is not None), default=None)
            if safe is None or safe >= self._account.acknowledged[payload]:
                early.append(payload)
        return early

    def written(self, begin: int, end: int) -> list[Call]:
        """Writes between two lines of the trace."""
        return [write for write, _, _ in self._writes if begin < write.begin < end]
