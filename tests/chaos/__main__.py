"""`python -m tests.chaos`: kill, cut, delay and truncate, and see that nothing is lost.

By itself a numbered load goes through two Isthmus processes into a real Mosquitto, with a TCP proxy
before each of the three. In each round something bad happens, chosen at random: one of the
processes is killed with SIGKILL and started again, by itself or with what waits in it while the
next one is not there, or connections are cut, reset, delayed, swallowed, refused, or ended in the
middle of a packet. `turned_by` counts for each sender on the way the messages that left it behind a
younger one of their topic.

With `--nine` four publishers send 100 messages/s each through one Isthmus, and each of nine faults
comes in turn, for each seed: cut, stall, no acks, acks cut, slow, SIGSTOP, kill -9, a cut with a
backlog and kill -9, SIGTERM.

At the end every acknowledged message must have arrived, none may be invented, and first deliveries
must be in order per topic; the exit code says so. `--system mosquitto` does the same to Mosquitto
with a bridge and persistence, `mosquitto-autosave` to one that saves at every change.
`isthmus-overtaking` has routes with `may_overtake`, whose order is not judged. Several
systems go one after the other; then the exit code is about the first one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from chaos_course import Chaos, Course
from chaos_nine import WINDOW, NineCourse, NineFaults
from chaos_report import NINE_NOTE, course_rows, failures, nine_failures, nine_rows
from chaos_world import KINDS

from bench import machine, report

RESULTS = Path(__file__).resolve().parent.parent.parent / "bench" / "results"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--qos", type=int, choices=[1, 2], default=1)
    add("--mqtt", choices=["3.1.1", "5"], default="3.1.1")
    add("--system", choices=list(KINDS), nargs="+", default=["isthmus"])
    add("--seed", type=int, default=0, help="of the faults; with --nine the first one")
    add("--rounds", type=int, default=50, help="without --nine: how many faults")
    add("--rate", type=float, default=1000, help="without --nine: messages per second")
    add("--nine", action="store_true", help="nine faults in turn, instead of random ones")
    add("--seeds", type=int, default=3, help="with --nine: how often")
    add(
        "--window",
        type=int,
        default=WINDOW,
        help="with --nine: messages that the bridge has on their way at most; "
        "0 leaves that to the bridge",
    )
    add("--save", action="store_true", help="keep the result under bench/results/")
    add("--folder", type=Path, help="where data and logs of the processes are left; must be empty")
    return parser.parse_args()


def run(options: argparse.Namespace, system: str, folder: Path) -> tuple[Any, Any, list[str]]:
    """Course, result and what is wrong, of one system."""
    version = 5 if options.mqtt == "5" else 4
    if options.nine:
        nine = NineCourse(
            system=system,
            seeds=options.seeds,
            first_seed=options.seed,
            qos=options.qos,
            version=version,
            window=options.window or None,
        )
        seen = asyncio.run(NineFaults(folder, nine, say).run())
        return nine, seen, nine_failures(nine, seen)
    course = Course(
        system=system,
        rounds=options.rounds,
        qos=options.qos,
        version=version,
        rate=options.rate,
        seed=options.seed,
    )
    result = asyncio.run(Chaos(folder, course, say).run())
    return course, result, failures(course, result)


def main() -> int:
    options = arguments()
    systems = options.system
    courses, results, wrong = {}, {}, {}
    with tempfile.TemporaryDirectory(prefix="isthmus-chaos-") as temporary:
        for system in systems:
            folder = (options.folder or Path(temporary)) / system
            folder.mkdir(parents=True)
            courses[system], results[system], wrong[system] = run(options, system, folder)
    head, body = nine_rows(results) if options.nine else course_rows(results)
    verdicts = [f"{system}: {'; '.join(wrong[system]) or 'pass'}" for system in systems]
    note = [NINE_NOTE, ""] if options.nine else []
    text = [*report.table(head, body), "", *note, *(f"- {verdict}" for verdict in verdicts)]
    print("\n".join(text))
    if options.save:
        where = machine.describe()
        kind = "nine" if options.nine else "chaos"
        title = "Nine faults" if options.nine else "Crash test"
        course = asdict(courses[systems[0]])
        del course["system"]
        told = ", ".join(f"{key} {value}" for key, value in course.items())
        page = [f"# {title}: {', '.join(systems)}", "", *report.where(where), ""]
        page += [f"{told}; MQTT {options.mqtt}.", "", *text]
        data = {
            "machine": where,
            "course": course,
            "results": {system: results[system].as_data() for system in systems},
            "failures": wrong,
        }
        files = report.write(
            json.dumps(data, indent=1),
            "\n".join(page),
            where,
            kind="-".join((kind, *systems, f"qos{options.qos}")),
            folder=RESULTS,
        )
        for path in files:
            say(str(path))
    return bool(wrong[systems[0]])


if __name__ == "__main__":
    sys.exit(main())
