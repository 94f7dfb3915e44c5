"""Processes of a measurement: starting them pinned to a core, talking to them, reading what they
cost.

Every process started here is remembered and ended by its id, also after Ctrl-C or an exception;
the kernel ends it if this process dies first.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

CORES = sorted(os.sched_getaffinity(0))  # as it was before anything was pinned
ROOT = Path(__file__).resolve().parent.parent
SUBJECT_CORE, GENERATOR_CORE = 0, 1
TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
_started: list[subprocess.Popen[bytes]] = []

# What is measured is as if it were installed: with what Python keeps of each module. Else changed
# modules are compiled at each start, which takes time, and 2 MiB of memory that stay.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pin(core: int | None) -> None:
    """Bind this process to the core with that index, where there are two or more; None frees it."""
    if core is None:
        os.sched_setaffinity(0, CORES)
    elif len(CORES) >= 2:
        os.sched_setaffinity(0, {CORES[core]})


def start(
    command: Sequence[str], *, core: int | None, log: Path | None = None, **pipes: Any
) -> subprocess.Popen[bytes]:
    """Start a process on a core, or on any; without pipes its output goes to `log` or nowhere."""

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's to answer
        soft_hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft_hard, soft_hard))
        pin(core)

    out: int | IO[bytes] = log.open("wb") if log else subprocess.DEVNULL
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out, **pipes}
    try:
        child = subprocess.Popen(command, preexec_fn=prepare, cwd=ROOT, **options)
    finally:
        if not isinstance(out, int):
            out.close()
    _started.append(child)
    return child


def stop(child: subprocess.Popen[bytes], *, grace_s: float = 3.0) -> None:
    """End one process: SIGTERM, then SIGKILL after `grace_s`."""
    if child.poll() is None:
        child.send_signal(signal.SIGCONT)  # it may be stopped on purpose
        child.terminate()
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
    if child in _started:
        _started.remove(child)


def stop_all() -> None:
    """End every process still running that this module started."""
    for child in list(_started):
        stop(child, grace_s=1.0)


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process, ended ones included.

    /proc/PID/stat gives it in ticks of 10 ms. The process' CPU clock is the same sum in nanoseconds
    (the kernel scales the two figures of `stat` to it); it is used as long as it agrees.
    """
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    ticks = (int(fields[11]) + int(fields[12])) / TICKS
    try:
        exact = time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3), CPUCLOCK_SCHED
    except OSError:
        return ticks
    return exact if abs(exact - ticks) <= 3 / TICKS else ticks


def stolen() -> tuple[int, int]:
    """Ticks of all cores that the host gave to others, and all ticks, since the start."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[7], sum(ticks)


def rss_kib(pid: int) -> int:
    """Resident set of a process, summed over its mappings (exact, unlike /proc/PID/statm)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1])
    raise OSError("no Rss in smaps_rollup")


def peak_rss_kib(pid: int) -> int:
    """Highest resident set so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise OSError("no VmHWM in status")


def written_kib(pid: int) -> float:
    """What a process has written to files so far, whether it is on the disk or not."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1]) / 1024
    raise OSError("no write_bytes in io")


class Generator:
    """A module of this package in its own process, driven by one JSON object per line."""

    def __init__(self, module: str, **options: Any) -> None:
        self.module = module
        self.child = start(
            [sys.executable, "-m", f"bench.{module}", json.dumps(options)],
            core=GENERATOR_CORE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
        )
        self.buffer = b""
        self.hello = self.answer(30)

    @property
    def pid(self) -> int:
        return self.child.pid

    def send(self, **message: Any) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(message).encode() + b"\n")
        self.child.stdin.flush()

    def answer(self, timeout: float) -> dict[str, Any]:
        """The next object that the process prints; TimeoutError when there is none.

        RuntimeError when it reports a failure or ends.
        """
        assert self.child.stdout is not None
        fd = self.child.stdout.fileno()
        deadline = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise TimeoutError(f"{self.module}: no answer in {timeout:g} s")
            data = os.read(fd, 1 << 20)
            if not data:
                raise RuntimeError(f"{self.module} ended unexpectedly")
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise RuntimeError(f"{self.module}: {message['error']}")
        return message

    def ask(self, within_s: float = 60, /, **message: Any) -> dict[str, Any]:
        self.send(**message)
        return self.answer(within_s)

    def stop(self) -> None:
        stop(self.child)


def reply(**message: Any) -> None:
    """From a generator to its runner."""
    os.write(1, json.dumps(message).encode() + b"\n")


def requests() -> Iterator[dict[str, Any]]:
    """In a generator: the runner's messages, until the runner closes the pipe."""
    for line in sys.stdin:
        yield json.loads(line)


def serve(handle: Callable[[dict[str, Any]], None]) -> None:
    """Main function of a generator: `handle` gets its options; the runner hears what it raises."""
    gc.collect()
    gc.freeze()
    gc.disable()  # the generators make no cycles while they measure
    try:
        handle(json.loads(sys.argv[1]))
    except Exception as error:
        reply(error=f"{type(error).__name__}: {error}")
        sys.exit(1)
