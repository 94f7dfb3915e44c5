"""Where and with what a result was measured."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from bench import process
from bench.systems import Isthmus, Mosquitto


def output(*command: str) -> str:
    """First line that a command prints, "" when it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False, cwd=process.ROOT
        )
    except OSError:
        return ""
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else ""


def cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.processor()


def commit() -> str:
    """Commit of the working tree, "-dirty" added when it differs, other than by new results."""
    head = subprocess.run(
        ("git", "rev-parse", "--short=12", "HEAD"),
        capture_output=True,
        text=True,
        check=False,
        cwd=process.ROOT,
    )
    if head.returncode:
        return "none"
    changed = output("git", "status", "--porcelain", "--", ".", ":(exclude)bench/results")
    return head.stdout.strip() + ("-dirty" if changed else "")


def describe() -> dict[str, Any]:
    python = output(Isthmus.python, "-c", "import platform as p; print(p.python_version())")
    why = output(
        Isthmus.python, "-c", "import isthmus; print(isthmus.INTERPRETED_BECAUSE or 'compiled')"
    )
    uvloop = output(Isthmus.python, "-c", "import uvloop; print(uvloop.__version__)")
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": cpu_model(),
        "cores": len(process.CORES),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": python,
        "hot_files": why if why == "compiled" else f"interpreted: {why}",
        "uvloop": uvloop if uvloop[:1].isdigit() else "none",
        "mosquitto": output(Mosquitto.program, "-h").removeprefix("mosquitto version "),
        "generator_python": platform.python_version(),
    }
