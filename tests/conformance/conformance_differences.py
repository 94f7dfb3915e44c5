"""Where Mosquitto 2.0.11 and Isthmus answer differently: the table of `docs/conformance.md`.

The page is the only place where it stands; tests check both columns against the brokers. A question
is a case of `test_statements_refused`, or a name that a test gives to `observe`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


class Difference(NamedTuple):
    """One question, both answers, and the clause or section that decides."""

    question: str
    isthmus: str
    mosquitto: str
    decides: str


def read(page: str) -> dict[str, Difference]:
    """The rows of the table that has Mosquitto as a column."""
    lines = iter(page.splitlines())
    for line in lines:
        if line.startswith("| question | Isthmus | Mosquitto"):
            break
    next(lines)
    found = {}
    for line in lines:
        if not line.startswith("|"):
            break
        row = Difference(*(cell.strip() for cell in line.strip("|").split(" | ")))
        assert row.question not in found, f"{row.question} stands twice in the table"
        found[row.question] = row
    return found


DIFFERENCES = read(PAGE.read_text())


def observe(broker: str, question: str, answer: str) -> None:
    """Fail if `answer` is not what the table says of `broker`."""
    row = DIFFERENCES[question]
    assert answer == (row.isthmus if broker == "isthmus" else row.mosquitto)
