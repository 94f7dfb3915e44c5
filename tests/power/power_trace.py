"""What strace saw of a process: its calls in order, with the data that it wrote, sent and received.

A call begins in one line of the trace and ends in the same or in a later one. Lines come in the
order of cause and effect: a thread does not go on before strace has noted that its call ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

NEVER = 1 << 60
"""Behind the last line: the process ended inside of the call."""

CALLS = (
    "openat,pwrite64,write,writev,pwritev,pwritev2,fsync,fdatasync,ftruncate,rename,renameat,"
    "renameat2,unlink,unlinkat,fallocate,lseek,mmap,sendto,sendmsg,recvfrom,recvmsg"
)

COMMAND = [
    *["strace", "-D", "-f", "--seccomp-bpf", "-yy", "-xx", "-s", "200000000"],
    *["-e", f"trace={CALLS}"],
]
"""Beside the process, not above it: signals and exit status are those of the process itself."""

SYNCS = {"fsync", "fdatasync"}
WRITES = {"pwrite64", "write", "writev", "pwritev", "pwritev2"}
SENDS = {"sendto", "sendmsg", "write", "writev"}
RECEIVES = {"recvfrom", "recvmsg"}

_BEGIN = re.compile(r"(\d+) +(\w+)\((.*)", re.DOTALL)
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)", re.DOTALL)
_RESULT = re.compile(r"\)\s+=\s(-?\d+|\?)([^\"]*)$")
_TARGET = re.compile(r"(\d+)<(.*?)>(?=\(deleted\)|[,)]|$)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_PART = re.compile(r'iov_base="((?:\\x[0-9a-f]{2})*)"')
_UNFINISHED = " <unfinished ...>"


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _path(text: str) -> str:
    # Behind the path of a device stands its number.
    return _bytes(text.split("<")[0]).decode() if text.startswith("\\x") else text


@dataclass(slots=True)
class Call:
    """One call; `begin` and `end` are the numbers of the lines in which it began and had ended."""

    begin: int
    end: int
    thread: int
    name: str
    arguments: str
    result: int | None = None
    opened: str = ""

    @property
    def file(self) -> int:
        """The number of the file or connection that it is about, -1 if it is about none."""
        found = _TARGET.match(self.arguments)
        return int(found[1]) if found else -1

    @property
    def target(self) -> str:
        """Path or connection that it is about, "" where that has no name any more."""
        found = _TARGET.match(self.arguments)
        if found is None or self.arguments.startswith("(deleted)", found.end()):
            return ""
        return _path(found[2])

    @property
    def strings(self) -> list[bytes]:
        """Its arguments that are text or data."""
        found = _STRING.findall(self.arguments)
        assert not any(cut for _, cut in found), "strace has cut something off"
        return [_bytes(text) for text, _ in found]

    @property
    def data(self) -> bytes:
        """What was written, sent or received by it."""
        parts = _PART.findall(self.arguments)
        whole = b"".join(map(_bytes, parts)) if parts else b"".join(self.strings[:1])
        return whole if self.result is None else whole[: max(0, self.result)]

    def number(self, place: int) -> int:
        """A number among its arguments, `place` from the end (-1 is the last)."""
        return int(self.arguments.rsplit(", ", 2)[place].split("<")[0])

    @property
    def ports(self) -> tuple[int, int] | None:
        """Its own and the other port of a TCP connection."""
        found = re.match(r"TCP(?:v6)?:\[.*?:(\d+)->.*:(\d+)\]$", self.target)
        return (int(found[1]), int(found[2])) if found else None


def calls(lines: Iterable[str], first: int = 0) -> Iterator[Call]:
    """The calls of a trace, in the order in which they began; its lines are numbered from `first`.

    Those that failed are left out.
    """
    open_calls: dict[int, Call] = {}
    found: list[Call] = []
    for number, line in enumerate(lines, first):
        line = line.rstrip("\n")
        if match := _RESUMED.match(line):
            call = open_calls.pop(int(match[1]))
            rest = match[3]
        elif match := _BEGIN.match(line):
            call = Call(number, NEVER, int(match[1]), match[2], "")
            found.append(call)
            rest = match[3]
        else:
            continue  # a signal, or the end of a thread
        if rest.endswith(_UNFINISHED):
            call.arguments += rest.removesuffix(_UNFINISHED)
            open_calls[call.thread] = call
            continue
        result = _RESULT.search(rest)
        if result is None:
            raise ValueError(f"line {number} of the trace cannot be read: {line[:200]}")
        call.arguments += rest[: result.start()]
        if result[1] != "?":
            call.end = number
            call.result = int(result[1])
            if call.name == "openat":
                opened = _TARGET.search(result[0])
                call.opened = _path(opened[2]) if opened else ""
    # One that never ended may have been done all the same.
    return (call for call in found if call.result is None or call.result >= 0)


def read(path: Path, first: int = 0) -> list[Call]:
    """The calls of the trace in a file; see `calls`."""
    with path.open() as file:
        return list(calls(file, first))


def ended(path: Path, process: int) -> bool:
    """Whether a trace has the end of a process in it."""
    tail = path.read_bytes()[-2000:].decode(errors="replace") if path.exists() else ""
    return bool(re.search(rf"^{process} +\+\+\+ (exited|killed)", tail, re.MULTILINE))
