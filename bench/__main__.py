"""`python -m bench`: side-by-side measurement of Isthmus and Mosquitto."""

from __future__ import annotations

import argparse
import signal
import sys

from bench import machine, process, report
from bench.ceiling import ceilings
from bench.runner import Runner, groups, plan, use_python
from bench.scenarios import SCENARIOS
from bench.systems import SYSTEMS, Files

RUNS, QUICK_RUNS = 5, 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="seconds per scenario, for CI")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="one scenario; may be repeated"
    )
    parser.add_argument("--runs", type=int, metavar="N", help=f"of each system (default {RUNS})")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument(
        "--systems",
        default="isthmus,mosquitto,relay",
        help=f"columns; the first is judged (of {', '.join(SYSTEMS)}; a name may be repeated)",
    )
    parser.add_argument("--python", default=sys.executable, help="interpreter that has isthmus")
    parser.add_argument("--no-save", action="store_true", help="write nothing to bench/results")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    return parser.parse_args()


def interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    options = arguments()
    if options.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:16} {scenario.title}")
        return 0
    scenarios = plan(options.only)
    systems = options.systems.split(",")
    if unknown := [name for name in systems if name not in SYSTEMS]:
        raise SystemExit(f"no system {unknown[0]!r}; there are: {', '.join(SYSTEMS)}")
    use_python(options.python)
    runs = options.runs or (QUICK_RUNS if options.quick else RUNS)
    signal.signal(signal.SIGTERM, interrupted)
    process.pin(process.GENERATOR_CORE)
    where = machine.describe()
    runner = Runner(
        systems,
        runs=runs,
        quick=options.quick,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    files = Files()
    status = 0
    try:
        runner.ceilings = ceilings()
        for group in groups(scenarios):
            runner.group(files, group)
    except KeyboardInterrupt:
        print("interrupted; what was measured so far follows", file=sys.stderr)
        status = 130
    finally:
        process.stop_all()
        files.remove()
    print(report.as_json(runner, where) if options.json else report.markdown(runner, where))
    if not options.no_save and runner.outcomes and not status:
        for path in report.write(
            report.as_json(runner, where),
            report.markdown(runner, where),
            where,
            kind="quick" if options.quick else "",
        ):
            print(path.relative_to(process.ROOT), file=sys.stderr)
    return status or (0 if runner.passed else 1)


if __name__ == "__main__":
    sys.exit(main())
