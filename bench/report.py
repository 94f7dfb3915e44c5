"""Results as a Markdown table and as JSON, under bench/results/."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bench.runner import Outcome, Runner, Series
from bench.scenarios import SCENARIOS

RESULTS = Path(__file__).resolve().parent / "results"
# shown of each scenario, if it has them; everything else is in the JSON
SHOWN = {
    "cpu_us": "CPU us/message",
    "written_kib": "written to disk, KiB",
    "stored_per_s": "stored and acknowledged, messages/s",
    "drain_cpu_us": "CPU us/message when the far side is back",
    "drained_per_s": "sent and acknowledged then, messages/s",
    "generator_us": "generators, CPU us/message",
    "arrival_p50_us": "arrival p50, us",
    "arrival_p99_us": "arrival p99, us",
    "puback_p50_us": "PUBACK p50, us",
    "puback_p99_us": "PUBACK p99, us",
    "kib_per_connection": "RSS, KiB/connection",
    "connects_per_s": "connects/s",
    "rss_mib": "RSS, MiB",
    "ready_s": "ready, s",
    "killed_ready_s": "ready after SIGKILL, s",
    "idle_cpu_percent": "CPU when idle, %",
    "subscribe_s": "first CONNECT to last SUBACK, s",
    "least_share": "least share of a subscriber, 1 is fair",
    "largest_share": "largest share of a subscriber",
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
    """The figures of a scenario, one a row."""
    labels = list(runner.systems)
    base = runner.outcomes.get(outcome.scenario.baseline)
    judged = {verdict.bar.figure for verdict in outcome.verdicts}
    found = []
    for figure, title in SHOWN.items():
        if figure not in judged and not any(one.values(figure) for one in outcome.series.values()):
            continue
        first = outcome.series[labels[0]].median(figure)
        second = middle(outcome, labels[1], figure) if len(labels) > 1 else None
        ratio = f"{first / second:.2f}" if first and second else ""
        against = middle(base, labels[0], figure) if base else None
        beside = (
            f"{first / against:.2f} x {base.scenario.name}" if base and first and against else ""
        )
        cells = [cell(outcome.series.get(label), figure) for label in labels]
        found.append([outcome.scenario.name, title, *cells, ratio, beside])
    return found


def middle(outcome: Outcome | None, label: str, figure: str) -> float | None:
    """A median, None where there is none."""
    series = outcome.series.get(label) if outcome else None
    return series.median(figure) if series else None


def bars(runner: Runner) -> list[list[str]]:
    """All bars of what was measured, one a row."""
    found = []
    for outcome in runner.outcomes.values():
        for verdict in outcome.verdicts:
            bar = verdict.bar
            measured = "" if verdict.measured is None else number(verdict.measured)
            result = "pass" if verdict.passed else "**FAIL**"
            found.append(
                [
                    outcome.scenario.name,
                    SHOWN[bar.figure],
                    str(bar),
                    measured,
                    result + (f": {verdict.note}" if verdict.note else ""),
                ]
            )
    return found


def table(head: list[str], body: list[list[str]]) -> list[str]:
    """As Markdown; what would end a cell early is replaced."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in body:
        lines.append("| " + " | ".join(re.sub(r"\s*\|\s*", " / ", one) for one in row) + " |")
    return lines


def where(machine: dict[str, Any]) -> list[str]:
    """Where, when and with what a result was measured."""
    return [
        f"- Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB",
        f"- Linux {machine['kernel']}, Mosquitto {machine['mosquitto']}",
        (
            f"- Python {machine['python']}, uvloop {machine['uvloop']}, "
            f"hot files {machine['hot_files']}"
        ),
        f"- Commit {machine['commit']}, {machine['date']}",
    ]


def preamble(runner: Runner, machine: dict[str, Any]) -> list[str]:
    """Where it was measured, and what the generators can do."""
    lines = [
        *where(machine),
        f"- {runner.stolen:.1%} of the time went to others on the host",
        f"- Median (least - most) of {runner.runs} or more alternating runs, "
        f"{runner.minutes:.0f} minutes"
        + (", quick: figures of little weight" if runner.quick else ""),
        "- CPU is that of the process under test per message that arrived at the far end; in every",
        "  run that counts all messages arrived, with QoS 1 and 2 acknowledged",
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
        f"{labels[0]} against another scenario",
    ]
    outcomes = runner.outcomes.values()
    missing = [
        scenario.name
        for scenario in SCENARIOS
        if scenario.bars and scenario.name not in runner.outcomes
    ]
    judged = bars(runner)
    passed = sum(row[-1].startswith("pass") for row in judged)
    lines = [
        "# Benchmark",
        "",
        *preamble(runner, machine),
        f"Bars: {passed} of {len(judged)} passed"
        + (f"; not measured: {', '.join(missing)}" if missing else "")
        + ".",
        "",
        *table(["scenario", "figure", "bar", "measured", "result"], judged),
        "",
        "Figures:",
        "",
        *table(head, [row for outcome in outcomes for row in rows(outcome, runner)]),
        "",
        "Scenarios:",
        "",
    ]
    lines += [
        f"- `{outcome.scenario.name}`: {outcome.scenario.title} ({outcome.scenario.messages:,})"
        for outcome in outcomes
    ]
    uncounted = [
        f"- `{outcome.scenario.name}`, {label}: {error}"
        for outcome in outcomes
        for label, series in outcome.series.items()
        for error in series.errors
    ]
    if uncounted:
        lines += ["", "Runs that did not count:", "", *uncounted]
    return "\n".join(lines) + "\n"


def write(
    data: str, text: str, machine: dict[str, Any], *, kind: str = "", folder: Path = RESULTS
) -> tuple[Path, Path]:
    """A result as JSON and as Markdown, named after time, `kind` and commit; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = machine["date"][:19].replace(":", "").replace("T", "-")
    name = "-".join(filter(None, (stamp, kind, machine["commit"])))
    files = folder / f"{name}.json", folder / f"{name}.md"
    for file, content in zip(files, (data, text), strict=True):
        file.write_text(content.rstrip("\n") + "\n")
    return files


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
