"""Results as a Markdown table and as JSON, under bench/results/."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bench.runner import Outcome, Runner, Series

RESULTS = Path(__file__).resolve().parent / "results"
# shown of each scenario, if it has them; everything else is in the JSON
SHOWN = {
    "cpu_us": "CPU us/message",
    "generator_us": "generators, CPU us/message",
    "arrival_p50_us": "arrival p50, us",
    "arrival_p99_us": "arrival p99, us",
    "puback_p50_us": "PUBACK p50, us",
    "puback_p99_us": "PUBACK p99, us",
    "kib_per_connection": "RSS, KiB/connection",
    "connects_per_s": "connects/s",
    "rss_mib": "RSS, MiB",
    "ready_s": "ready, s",
    "idle_cpu_percent": "CPU when idle, %",
    "delivered": "delivered share",
}


def number(value: float) -> str:
    """Three digits that matter."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(series: Series | None, figure: str) -> str:
    """Median (least - most)."""
    if series is None:
        return ""
    values = series.values(figure)
    if not values:
        return "error" if series.errors else ""
    middle = series.median(figure)
    assert middle is not None
    text = number(middle)
    if len(values) > 1:
        text += f" ({number(min(values))} - {number(max(values))})"
    return text


def rows(outcome: Outcome, runner: Runner) -> list[list[str]]:
    labels = list(runner.systems)
    found = []
    series = list(outcome.series.values())
    verdicts = {verdict.bar.figure: verdict for verdict in outcome.verdicts}
    for figure, title in SHOWN.items():
        if not any(one.values(figure) for one in series) and figure not in verdicts:
            continue
        if figure == "delivered" and all(
            value == 1 for one in series for value in one.values(figure)
        ):
            continue
        first = outcome.series[labels[0]].median(figure)
        second = outcome.series[labels[1]].median(figure) if len(labels) > 1 else None
        ratio = f"{first / second:.2f}" if first and second else ""
        verdict = verdicts.get(figure)
        bar = result = ""
        if verdict:
            bar = str(verdict.bar)
            result = "pass" if verdict.passed else "**FAIL**"
            if verdict.bar.kind == "baseline" and verdict.measured:
                result += f" ({verdict.measured:.2f})"
            if verdict.note:
                result += f": {verdict.note}"
        cells = [cell(outcome.series.get(label), figure) for label in labels]
        found.append([outcome.scenario.name, title, *cells, ratio, bar, result])
    return found


def preamble(runner: Runner, machine: dict[str, Any]) -> list[str]:
    """Where it was measured, and what the generators can do."""
    lines = [
        f"- Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB",
        f"- Linux {machine['kernel']}; {runner.stolen:.1%} of the time went to others on the host",
        (
            f"- Python {machine['python']}, uvloop {machine['uvloop']}, "
            f"hot files {machine['hot_files']}"
        ),
        f"- Mosquitto {machine['mosquitto']}",
        f"- Commit {machine['commit']}, {machine['date']}",
        f"- Median (least - most) of {runner.runs} alternating runs"
        + (", quick: figures of little weight" if runner.quick else ""),
    ]
    lines += [
        f"- Generators alone, {name}: {found['messages_per_s']:,.0f} messages/s, "
        f"{number(found['cpu_us'])} us of CPU each"
        for name, found in runner.ceilings.items()
    ]
    return [*lines, ""]


def markdown(runner: Runner, machine: dict[str, Any]) -> str:
    labels = list(runner.systems)
    head = [
        "scenario",
        "figure",
        *labels,
        f"{labels[0]} / {labels[1]}" if len(labels) > 1 else "ratio",
        "bar",
        "result",
    ]
    lines = [
        "# Benchmark",
        "",
        *preamble(runner, machine),
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for outcome in runner.outcomes.values():
        lines += [
            "| " + " | ".join(re.sub(r"\s*\|\s*", " / ", one) for one in row) + " |"
            for row in rows(outcome, runner)
        ]
    lines += ["", "Scenarios:", ""]
    lines += [
        f"- `{outcome.scenario.name}`: {outcome.scenario.title} ({outcome.scenario.messages:,})"
        for outcome in runner.outcomes.values()
    ]
    return "\n".join(lines) + "\n"


def write(runner: Runner, machine: dict[str, Any]) -> tuple[Path, Path]:
    """Both files, named after the time; returns their paths."""
    RESULTS.mkdir(exist_ok=True)
    stamp = machine["date"][:19].replace(":", "").replace("T", "-")
    name = f"{stamp}-{'quick-' if runner.quick else ''}{machine['commit']}"
    data, table = RESULTS / f"{name}.json", RESULTS / f"{name}.md"
    data.write_text(as_json(runner, machine) + "\n")
    table.write_text(markdown(runner, machine))
    return data, table


def as_json(runner: Runner, machine: dict[str, Any]) -> str:
    return json.dumps(
        {
            "machine": machine,
            "runs": runner.runs,
            "quick": runner.quick,
            "generators_alone": runner.ceilings,
            "results": runner.as_data(),
        },
        indent=1,
    )
