"""The long shows in short: the soak and the benchmark run, and their figures are whole.

The bars of the benchmark are judged by `make bench`, on a machine that does nothing else.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run(*arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def test_nothing_is_lost_while_the_far_side_is_slow_stopped_and_reset() -> None:
    done = run("bench.soak", "--quick", "--json", timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)["result"]
    assert report["lost"] == report["invented"] == report["disordered"] == 0
    assert report["resets"] >= 1
    assert report["acknowledged"] == report["sent"]


def test_the_benchmark_measures_both_systems() -> None:
    scenarios = ("qos0", "qos1", "in-qos1", "latency", "light")
    words = [word for name in scenarios for word in ("--only", name)]
    done = run(
        "bench",
        "--quick",
        "--no-save",
        "--json",
        "--systems",
        "isthmus,mosquitto",
        *words,
        timeout_s=180,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)["results"]
    assert {outcome["scenario"] for outcome in found} >= set(scenarios)
    for outcome in found:
        for system, series in outcome["series"].items():
            assert not series["errors"], (outcome["scenario"], system, series["errors"])
            assert series["runs"]
