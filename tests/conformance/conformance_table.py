"""The list of normative statements and what covers each: both tables, read and compared.

`SECTIONS` holds the numbers of all statements, by section, as the specifications have them; so a
statement that is left out of a table is found.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]

SECTIONS = {
    "5.0": """
        1.5.4:1-3 1.5.5:1 1.5.7:1 2.1.3:1 2.2.1:2-6 2.2.2:1
        3.1.0:1-2 3.1.2:1-30 3.1.3:1-12 3.1.4:1-6 3.2.0:1-2 3.2.2:1-22
        3.3.1:1-13 3.3.2:1-20 3.3.4:1-10 3.4.2:1-3 3.5.2:1-3 3.6.1:1 3.6.2:1-3 3.7.2:1-3
        3.8.1:1 3.8.3:1-5 3.8.4:1-8 3.9.2:1-2 3.9.3:1-2
        3.10.1:1 3.10.3:1-2 3.10.4:1-6 3.11.2:1-2 3.11.3:1-2 3.12.4:1
        3.14.0:1 3.14.1:1 3.14.2:1-4 3.14.4:1-3 3.15.1:1 3.15.2:1-3
        4.1.0:1-2 4.2:1 4.3.1:1 4.3.2:1-5 4.3.3:1-13 4.4.0:1-2 4.5.0:1-2 4.6.0:1-6
        4.7.0:1 4.7.1:1-2 4.7.2:1 4.7.3:1-4 4.8.2:1-6 4.9.0:1-3 4.12.0:1-7 4.12.1:1-2
        4.13.1:1 4.13.2:1 6.0.0:1-4
    """,
    # There is no 3.1.2-7 in its list of statements, and 3-8.3-4 is spelt so.
    "3.1.1": """
        1.5.3:1-3 2.2.2:1-2 2.3.1:1-7
        3.1.0:1-2 3.1.2:1-6 3.1.2:8-24 3.1.3:1-11 3.1.4:1-5 3.2.0:1 3.2.2:1-6
        3.3.1:1-12 3.3.2:1-3 3.3.4:1 3.3.5:1-2 3.6.1:1 3.8.1:1 3.8.3:1-3 3-8.3:4 3.8.4:1-6
        3.9.3:1-2 3.10.1:1 3.10.3:1-2 3.10.4:1-6 3.12.4:1 3.14.1:1 3.14.4:1-3
        4.1.0:1-2 4.3.1:1 4.3.2:1-2 4.3.3:1-2 4.4.0:1 4.5.0:1-2 4.6.0:1-6
        4.7.1:1-3 4.7.2:1 4.7.3:1-4 4.8.0:1-2 6.0.0:1-4 7.0.0:1-2 7.1.1:1 7.1.2:1
    """,
}


@dataclass(frozen=True)
class Statement:
    """One statement: who it binds, a few words, and its tests or the reason why it has none."""

    id: str
    applies: str
    words: str
    tests: tuple[str, ...] = ()
    reason: str = ""


@dataclass
class Coverage:
    """What is wrong with the table of one version, and how much there is."""

    version: str
    statements: int = 0
    tested: int = 0
    reasoned: int = 0
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """One line for each thing that is wrong."""
        return [
            *(f"MQTT {self.version} {one}: is not in the table" for one in self.missing),
            *(f"MQTT {self.version} {one}: there is no such statement" for one in self.unknown),
            *(f"MQTT {self.version} {one}: neither a test nor a reason" for one in self.empty),
            *(f"MQTT {self.version} {one}" for one in self.lost),
        ]


def ids(version: str) -> Iterator[str]:
    """The ids of all normative statements of a version."""
    for part in SECTIONS[version].split():
        section, _, numbers = part.partition(":")
        first, _, last = numbers.partition("-")
        for number in range(int(first), int(last or first) + 1):
            yield f"MQTT-{section}-{number}"


def table(version: str) -> dict[str, Statement]:
    """The table of a version, by id.

    Raises:
        TypeError: A row has a key that is not known, or lacks one.
    """
    rows = tomllib.loads((FOLDER / f"mqtt-{version}.toml").read_text())
    return {
        name: Statement(name, **{**row, "tests": tuple(row.get("tests", ()))})
        for name, row in rows.items()
    }


def collected(files: set[str]) -> set[str]:
    """The node ids of all tests in `files`, with and without their parameters."""
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts=", *sorted(files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise RuntimeError(f"the tests cannot be collected:\n{found.stdout}{found.stderr}")
    nodes = {line for line in found.stdout.splitlines() if "::" in line}
    return nodes | {node.partition("[")[0] for node in nodes}


def coverage() -> list[Coverage]:
    """Compare both tables with the lists of ids and with the tests that exist."""
    tables = {version: table(version) for version in SECTIONS}
    named = {test for rows in tables.values() for row in rows.values() for test in row.tests}
    files = {test.partition("::")[0] for test in named}
    there = collected({name for name in files if (ROOT / name).is_file()})
    result = []
    for version, rows in tables.items():
        wanted = list(ids(version))
        found = Coverage(version, statements=len(wanted))
        found.missing = [one for one in wanted if one not in rows]
        found.unknown = [one for one in rows if one not in set(wanted)]
        for row in rows.values():
            lost = [test for test in row.tests if test not in there]
            found.lost += [f"{row.id}: there is no {test}" for test in lost]
            if len(row.tests) > len(lost):
                found.tested += 1
            elif row.reason.strip():
                found.reasoned += 1
            elif not row.tests:
                found.empty.append(row.id)
        result.append(found)
    return result
