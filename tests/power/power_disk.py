"""What a disk holds after power was lost: the files of a folder, rebuilt from a trace.

At any line of the trace, what the process has done to its files falls into two parts. What a
synchronisation covers that has returned, is there:

- data and size of a file: by fsync or fdatasync of that file, begun after they were written;
- a new or a changed name: by fsync or fdatasync of that file, as ext4 commits the name with it, or
  of the folder;
- a name that was removed: by that of the folder.

ext4 keeps more, as one synchronisation commits all names; that is not relied upon. Everything else
may be there or not. Of later data any pieces may be, by sectors or pages, in no order: a piece
without the one before it is what reordering looks like. Of later names the first so many may be, as
the journal has an order.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from power_trace import NEVER, SYNCS, WRITES, Call

SECTOR_BYTES = 512
PAGE_BYTES = 4096


@dataclass(slots=True)
class Change:
    """Something that was done to file number `file`; `safe_at` is when it was synchronised.

    `kind` is "data" at `offset`, "size" (`offset` is the new one, `data` empty), or "name":
    `names` are the old one, if it is gone, and the new one, if there is one.
    """

    end: int
    file: int
    kind: str
    offset: int = 0
    data: bytes = b""
    names: tuple[str, str] = ("", "")
    safe_at: int = NEVER


@dataclass
class Lost:
    """What one loss of power has cost: changes that were kept, torn and lost of the later ones."""

    kept: int = 0
    torn: int = 0
    lost: int = 0

    def add(self, other: Lost) -> None:
        """Sum up."""
        self.kept += other.kept
        self.torn += other.torn
        self.lost += other.lost


@dataclass
class Disk:
    """The changes of a folder, in order, and its synchronisations.

    `syncs` are the lines in which they returned, `syncs_of` counts them by file. It may be fed with
    the calls of several processes, one after the other.
    """

    folder: Path
    changes: list[Change] = field(default_factory=list)
    syncs: list[int] = field(default_factory=list)
    syncs_of: Counter[str] = field(default_factory=Counter)
    _names: dict[str, int] = field(default_factory=dict)
    _sizes: list[int] = field(default_factory=list)

    def feed(self, calls: Iterable[Call]) -> None:
        """Add the calls of a process."""
        watched = f"{self.folder}/"
        places: dict[int, int] = {}  # of descriptors, for writes that do not say where
        of_folder: list[Call] = []
        of_files: dict[int, list[Call]] = {}
        for call in calls:
            if call.name in SYNCS:
                if call.end == NEVER:
                    continue
                if call.target == str(self.folder):
                    of_folder.append(call)
                elif call.target.startswith(watched):
                    of_files.setdefault(self._names[call.target], []).append(call)
                    self.syncs_of[Path(call.target).name] += 1
                else:
                    continue
                self.syncs.append(call.end)
            elif self._concerns(call, watched):
                self._change(call, places)
        for change in self.changes:
            self._synchronised(change, of_folder, of_files)

    def _concerns(self, call: Call, watched: str) -> bool:
        if call.name == "openat":
            return call.opened.startswith(watched)
        if call.name.startswith(("rename", "unlink")):
            return any(name.startswith(watched.encode()) for name in call.strings)
        return call.target.startswith(watched)

    def _change(self, call: Call, places: dict[int, int]) -> None:
        if call.name == "openat":
            self._opened(call, places)
        elif call.name.startswith("rename"):
            old, new = (str(Path(name.decode())) for name in call.strings)
            file = self._names.pop(old)
            self._names[new] = file
            self._add(call, file, "name", names=(old, new))
        elif call.name.startswith("unlink"):
            name = call.strings[0].decode()
            if name in self._names:  # sockets are no files
                self._add(call, self._names.pop(name), "name", names=(name, ""))
        elif call.name == "mmap":
            shared = "MAP_SHARED" in call.arguments and "PROT_WRITE" in call.arguments
            assert not shared, "a file that is written in memory cannot be watched"
        else:
            self._written(call, self._names[call.target], places)

    def _opened(self, call: Call, places: dict[int, int]) -> None:
        assert call.result is not None
        name = call.opened
        places[call.result] = 0
        if "O_DIRECTORY" in call.arguments:
            return
        if name not in self._names:
            assert "O_CREAT" in call.arguments, f"{name} was there before the trace"
            self._names[name] = len(self._sizes)
            self._sizes.append(0)
            self._add(call, self._names[name], "name", names=("", name))
        file = self._names[name]
        if "O_TRUNC" in call.arguments and self._sizes[file]:
            self._resize(call, file, 0)
        if "O_APPEND" in call.arguments:
            places[call.result] = self._sizes[file]

    def _written(self, call: Call, file: int, places: dict[int, int]) -> None:
        if call.name == "ftruncate":
            self._resize(call, file, call.number(-1))
        elif call.name == "fallocate":
            self._resize(call, file, max(self._sizes[file], call.number(-2) + call.number(-1)))
        elif call.name == "lseek":
            assert call.result is not None
            places[call.file] = call.result
        elif call.name in WRITES:
            data = call.data
            if call.name.startswith("p"):
                offset = call.number(-1)
            else:
                offset = places[call.file]
                places[call.file] = offset + len(data)
            self._sizes[file] = max(self._sizes[file], offset + len(data))
            self._add(call, file, "data", offset, data)

    def _resize(self, call: Call, file: int, size: int) -> None:
        self._sizes[file] = size
        self._add(call, file, "size", size)

    def _add(
        self,
        call: Call,
        file: int,
        kind: str,
        offset: int = 0,
        data: bytes = b"",
        names: tuple[str, str] = ("", ""),
    ) -> None:
        # A process that was killed inside of a call may have done it.
        end = call.begin if call.end == NEVER else call.end
        self.changes.append(Change(end, file, kind, offset, data, names))

    def _synchronised(
        self, change: Change, of_folder: list[Call], of_files: dict[int, list[Call]]
    ) -> None:
        removal = change.kind == "name" and not change.names[1]
        candidates = [] if removal else [of_files.get(change.file, [])]
        if change.kind == "name":
            candidates.append(of_folder)
        for syncs in candidates:
            place = bisect_left(syncs, change.end, key=lambda sync: sync.begin)
            if place < len(syncs):
                change.safe_at = min(change.safe_at, syncs[place].end)

    # -- after the loss of power -----------------------------------------------------------------

    def rebuild(self, line: int, into: Path, dice: random.Random | None = None) -> Lost:
        """Make the files in `into`, an empty folder, as power was lost at `line` of the trace.

        Without `dice` only what is synchronised is there; with it, some of the rest too.
        """
        files: dict[int, bytearray] = {}
        names: dict[str, int] = {}
        lost = Lost()
        later_names = [
            change
            for change in self.changes
            if change.kind == "name" and change.end <= line < change.safe_at
        ]
        kept_names = set()
        share = 0.0
        piece_bytes = SECTOR_BYTES
        if dice is not None:
            kept_names = {id(found) for found in later_names[: dice.randint(0, len(later_names))]}
            share = dice.choice([0.05, 0.3, 0.5, 0.7, 0.95])
            piece_bytes = dice.choice([SECTOR_BYTES, PAGE_BYTES])
        for change in self.changes:
            if change.end > line:
                break
            safe = change.safe_at <= line
            if change.kind == "name":
                if safe or id(change) in kept_names:
                    old, new = change.names
                    if names.get(old) == change.file:
                        del names[old]
                    if new:
                        names[new] = change.file
                continue
            file = files.setdefault(change.file, bytearray())
            if safe:
                _apply(file, change.kind, change.offset, change.data)
            elif dice is None:
                lost.lost += 1
            else:
                lost.add(_apply_some(file, change, dice, share, piece_bytes))
        for name, number in names.items():
            (into / Path(name).name).write_bytes(files.get(number, b""))
        return lost


def _apply(file: bytearray, kind: str, offset: int, data: bytes) -> None:
    if kind == "size":
        del file[offset:]
        file.extend(bytes(offset - len(file)))
        return
    if len(file) < offset:
        file.extend(bytes(offset - len(file)))
    file[offset : offset + len(data)] = data


def _apply_some(
    file: bytearray, change: Change, dice: random.Random, share: float, piece_bytes: int
) -> Lost:
    """Apply the pieces of a later change that the dice leave."""
    if change.kind == "size":
        if dice.random() < share:
            _apply(file, "size", change.offset, b"")
            return Lost(kept=1)
        return Lost(lost=1)
    kept = total = at = 0
    data = change.data
    while at < len(data):
        # Pieces end where those of the disk do.
        end = min(len(data), at + piece_bytes - (change.offset + at) % piece_bytes)
        total += 1
        if dice.random() < share:
            kept += 1
            _apply(file, "data", change.offset + at, data[at:end])
        at = end
    return Lost(kept=kept == total, torn=0 < kept < total, lost=kept == 0)
