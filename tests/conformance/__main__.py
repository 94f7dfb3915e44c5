"""`python -m tests.conformance`: which normative statements are covered, and what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from conformance_table import coverage, table


def main() -> int:
    """Print both tables' coverage; 1 if anything is missing."""
    problems = []
    for found in coverage():
        print(
            f"MQTT {found.version}: {found.statements} normative statements, "
            f"{found.tested} with tests, {found.reasoned} with a reason why none can be made, "
            f"{len(found.problems)} problems"
        )
        for row in table(found.version).values():
            if row.reason:
                print(f"  {row.id} ({row.words}): {row.reason}")
        problems += found.problems
    for problem in problems:
        print(problem)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
