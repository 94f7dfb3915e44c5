"""Alternating runs of all systems, and the judgement over their medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bench import process
from bench.measure import Figures, RunError, measure
from bench.scenarios import BY_NAME, Bar, Scenario
from bench.systems import SYSTEMS, Files, Isthmus, Relay, System

REFERENCE = "mosquitto"


@dataclass(slots=True)
class Series:
    """All runs of one system in one scenario."""

    runs: list[Figures] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def values(self, figure: str) -> list[float]:
        return [run[figure] for run in self.runs if figure in run]

    def median(self, figure: str) -> float | None:
        values = self.values(figure)
        return statistics.median(values) if values else None


@dataclass(slots=True)
class Verdict:
    """What a bar came to."""

    bar: Bar
    measured: float | None  # the ratio, or the figure itself for an absolute bar
    passed: bool
    note: str = ""


@dataclass(slots=True)
class Outcome:
    """All about one scenario."""

    scenario: Scenario
    series: dict[str, Series]  # by the column's name
    verdicts: list[Verdict] = field(default_factory=list)


def plan(names: Iterable[str]) -> list[Scenario]:
    """The scenarios with these names (default all) and those they are compared with."""
    wanted = list(names) or list(BY_NAME)
    for name in list(wanted):
        if name not in BY_NAME:
            raise SystemExit(f"no scenario {name!r}; there are: {', '.join(BY_NAME)}")
        if base := BY_NAME[name].baseline:
            wanted.append(base)
    return [scenario for name, scenario in BY_NAME.items() if name in wanted]


def groups(scenarios: list[Scenario]) -> list[list[Scenario]]:
    """The same scenarios, each together with those that take it as their baseline."""
    found: dict[str, list[Scenario]] = {}
    for scenario in scenarios:
        found.setdefault(scenario.baseline or scenario.name, []).append(scenario)
    return list(found.values())


def judge(bar: Bar, subject: str, outcome: Outcome, outcomes: dict[str, Outcome]) -> Verdict:
    """Whether the subject's median keeps to the bar."""
    own = outcome.series[subject]
    value = own.median(bar.figure)
    if value is None:
        return Verdict(bar, None, False, own.errors[0] if own.errors else "not measured")
    note = f"{len(own.errors)} runs did not count: {own.errors[0]}" if own.errors else ""
    if bar.kind in {"most", "least"}:
        good = value <= bar.value if bar.kind == "most" else value >= bar.value
        return Verdict(bar, value, good and not own.errors, note)
    if bar.kind == "ratio":
        labels = [name for name in outcome.series if name.startswith(REFERENCE) and name != subject]
        other = outcome.series[labels[0]] if labels else None
    else:
        base = outcomes.get(bar.of)
        other = base.series.get(subject) if base else None
    if other is None:
        return Verdict(bar, None, False, note or "nothing to compare with")
    if other.errors and not note:
        note = f"{len(other.errors)} runs of the other did not count: {other.errors[0]}"
    against = other.median(bar.figure)
    if not against or len(other.errors) > len(other.runs):
        return Verdict(bar, None, False, note or "nothing to compare with")
    ratio = value / against
    return Verdict(bar, ratio, ratio <= bar.value and not own.errors, note)


def stolen_share(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Share of the machine's time that its host gave to others: how noisy a run was."""
    return (after[0] - before[0]) / max(after[1] - before[1], 1)


class Runner:
    """Runs scenarios; `columns` are names of systems in order, a repeated one gets a number."""

    def __init__(
        self, systems: list[str], *, runs: int, quick: bool, say: Callable[[str], None]
    ) -> None:
        self.systems: dict[str, type[System]] = {}
        for name in systems:
            label = name if name not in self.systems else f"{name}-{len(self.systems) + 1}"
            self.systems[label] = SYSTEMS[name]
        self.subject = next(iter(self.systems))
        self.runs, self.quick, self.say = runs, quick, say
        self.outcomes: dict[str, Outcome] = {}
        self.ceilings: dict[str, dict[str, float]] = {}  # of the generators alone
        self.started = time.monotonic()

    @property
    def minutes(self) -> float:
        """Since the start."""
        return (time.monotonic() - self.started) / 60

    @property
    def stolen(self) -> float:
        """Median over all runs of the share of time that the host gave to others."""
        shares = [
            share
            for outcome in self.outcomes.values()
            for series in outcome.series.values()
            for share in series.values("stolen_share")
        ]
        return statistics.median(shares) if shares else 0.0

    def columns(self, scenario: Scenario) -> dict[str, type[System]]:
        return {
            label: system
            for label, system in self.systems.items()
            if (scenario.relay or system.name != Relay.name)
            and (not scenario.alone or system.name == Isthmus.name)
        }

    def group(self, files: Files, scenarios: list[Scenario]) -> None:
        """All runs of scenarios that are compared with each other: A B C, A B C, and so on.

        The same machine can be a quarter slower some minutes later, so what a bar compares is
        measured side by side: systems within a scenario, and a scenario with its baseline.
        """
        for scenario in scenarios:
            load = scenario.quick() if self.quick else scenario
            series = {label: Series() for label in self.columns(scenario)}
            self.outcomes[scenario.name] = Outcome(load, series)
        times = 1 if self.quick else max(scenario.times for scenario in scenarios)
        for number in range(self.runs * times):
            for scenario in scenarios:
                if scenario.once and number:
                    continue
                for label, system in self.columns(scenario).items():
                    self._run(files, self.outcomes[scenario.name], label, system, number)
        for scenario in scenarios:
            outcome = self.outcomes[scenario.name]
            outcome.verdicts = [
                judge(bar, self.subject, outcome, self.outcomes) for bar in scenario.bars
            ]

    def _run(
        self, files: Files, outcome: Outcome, label: str, system: type[System], number: int
    ) -> None:
        name = outcome.scenario.name
        series = outcome.series[label]
        if len(series.errors) >= 2 and not series.runs:
            return  # it cannot do this; do not wait for it again and again
        start, stolen = time.monotonic(), process.stolen()
        try:
            figures = measure(files, system, outcome.scenario)
        except RunError as error:
            series.errors.append(str(error))
            self.say(f"{name:16} {number + 1} {label:10} DOES NOT COUNT: {error}")
            return
        text = "  ".join(f"{figure} {value:.6g}" for figure, value in figures.items())
        took = time.monotonic() - start
        figures |= {"stolen_share": stolen_share(stolen, process.stolen()), "took_s": took}
        series.runs.append(figures)
        self.say(f"{name:16} {number + 1} {label:10} {text}  [{took:.1f} s]")

    @property
    def passed(self) -> bool:
        return all(
            verdict.passed for outcome in self.outcomes.values() for verdict in outcome.verdicts
        )

    def as_data(self) -> list[dict[str, Any]]:
        """For the JSON file."""
        return [
            {
                "scenario": outcome.scenario.name,
                "title": outcome.scenario.title,
                "messages": outcome.scenario.messages,
                "series": {
                    label: {
                        "medians": {
                            figure: series.median(figure) for figure in (series.runs or [{}])[0]
                        },
                        "runs": series.runs,
                        "errors": series.errors,
                    }
                    for label, series in outcome.series.items()
                },
                "beside": outcome.scenario.baseline,
                "bars": [
                    {
                        "figure": verdict.bar.figure,
                        "bar": str(verdict.bar),
                        "measured": verdict.measured,
                        "passed": verdict.passed,
                        "note": verdict.note,
                    }
                    for verdict in outcome.verdicts
                ],
            }
            for outcome in self.outcomes.values()
        ]


def use_python(path: str) -> None:
    """Run Isthmus with this interpreter."""
    Isthmus.python = path
