"""The long shows in short: the soak and the benchmark run, and their figures are whole.

The bars of the benchmark are judged by `make bench`, on a machine that does nothing else.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.scenarios import BY_NAME

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


def test_nothing_is_lost_while_the_far_side_is_slow_stopped_and_reset(tmp_path: Path) -> None:
    done = run("bench.soak", "--quick", "--results", str(tmp_path), timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr
    stored: dict[str, Any] = json.loads(
        next(tmp_path.glob("*-soak-isthmus-quick-*.json")).read_text()
    )
    result = stored["result"]
    assert result["lost"] == result["invented"] == result["disordered"] == 0
    assert result["resets"] >= 1
    assert result["acknowledged"] == result["sent"] == result["arrived"] == 40_000
    assert 10 < result["peak_rss_mib"] < 160
    assert stored["failures"] == []
    assert {"commit", "cpu", "python", "mosquitto"} <= set(stored["machine"])
    words = next(tmp_path.glob("*.md")).read_text()
    assert words.startswith("# Soak of isthmus: pass")
    assert stored["machine"]["commit"] in words


def test_the_benchmark_measures_both_systems() -> None:
    scenarios = (
        *("qos0", "qos1", "in-qos1", "latency", "light"),
        *("ws-qos1", "ws-far-qos1", "qos0-64k", "shared", "hops-on"),
        *("routes-different", "routes-copies", "subscribe"),
    )
    words = [word for name in scenarios for word in ("--only", name)]
    done = run(
        "bench",
        "--quick",
        "--no-save",
        "--json",
        "--systems",
        "isthmus,mosquitto",
        *words,
        timeout_s=300,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)["results"]
    assert {outcome["scenario"] for outcome in found} >= set(scenarios)
    for outcome in found:
        for system, series in outcome["series"].items():
            assert not series["errors"], (outcome["scenario"], system, series["errors"])
            assert series["runs"]
        bars = {verdict["figure"]: verdict for verdict in outcome["bars"]}
        assert set(bars) == {bar.figure for bar in BY_NAME[outcome["scenario"]].bars}
        assert all(verdict["measured"] is not None for verdict in bars.values())
