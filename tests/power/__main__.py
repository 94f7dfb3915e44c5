"""`python -m tests.power`: lose power at many moments, and see that nothing is missing.

Isthmus runs under strace with numbered messages of QoS 1 and 2: for a far side that is down, slow,
and down again, for a client that is absent, for a shared subscription, retained ones, and some that
another broker brings. It is killed and started again. At each cut the data folder is rebuilt twice
from the calls until then: with what was synchronised, and with a random part of the rest too. A new
store opens it. What had been acknowledged must be there or have been acknowledged by the far side,
the database whole, and nothing invented; the exit code says so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from power_course import Course, PowerTest

from bench import machine, report

RESULTS = Path(__file__).resolve().parent.parent.parent / "bench" / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.power", description=__doc__)
    add = parser.add_argument
    add("--cuts", type=int, default=200, help="moments, each with two losses of power")
    add("--messages", type=int, default=200, help="of each publisher, in each phase")
    add("--mqtt", choices=["3.1.1", "5"], default="5")
    add("--seed", type=int, default=1, help="of the load, the moments and what is kept")
    add("--restarts", type=int, default=10, help="cuts after which a whole Isthmus is started")
    add(
        "--pragma",
        action="append",
        help="for SQLite, instead of wal_autocheckpoint=60, such as synchronous=OFF",
    )
    add("--save", action="store_true", help="keep the result under bench/results/")
    options = parser.parse_args()
    course = Course(
        cuts=options.cuts,
        messages=options.messages,
        seed=options.seed,
        version=5 if options.mqtt == "5" else 4,
        restarts=min(options.restarts, options.cuts),
        **({"pragmas": tuple(options.pragma)} if options.pragma else {}),
    )
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="isthmus-power-") as folder:
        test = PowerTest(Path(folder), course, lambda text: print(text, file=sys.stderr))
        result = asyncio.run(test.run())
    data = {**asdict(result), "seconds": round(time.monotonic() - begin)}
    wrong = data.pop("wrong")
    lines = [f"{key:22} {value}" for key, value in data.items()]
    lines += [*wrong[:20], f"FAIL: {len(wrong)} fault(s)" if wrong else "pass"]
    print("\n".join(lines))
    if options.save:
        where = machine.describe()
        how = ", ".join(f"{key} {value}" for key, value in asdict(course).items())
        page = ["# Loss of power", "", *report.where(where), "", f"{how}.", "", "```text"]
        page += [*lines, "```"]
        kept = {"machine": where, "course": asdict(course), "result": data, "failures": wrong}
        files = report.write(
            json.dumps(kept, indent=1), "\n".join(page), where, kind="power", folder=RESULTS
        )
        for path in files:
            print(path, file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
