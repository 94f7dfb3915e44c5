"""The list of normative statements is complete, and what it names exists."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conformance_differences import DIFFERENCES, read
from conformance_table import FOLDER, ROOT, SECTIONS, Coverage, ids, table
from test_statements_refused import FIRST, LATER


@pytest.mark.parametrize(("version", "count"), [("5.0", 251), ("3.1.1", 140)])
def test_all_statements_are_known(version, count):
    assert len(set(ids(version))) == len(list(ids(version))) == count


@pytest.mark.parametrize("version", SECTIONS)
def test_every_statement_has_a_row_and_every_row_a_statement(version):
    rows = table(version)
    assert set(rows) == set(ids(version))
    for row in rows.values():
        assert row.applies in ("server", "client", "both"), row.id
        assert row.words, row.id
        # Tests or a reason, and not both: a reason says why there can be none.
        assert bool(row.tests) != (len(row.reason.split()) > 3), row.id


def test_the_command_finds_nothing_missing():
    """It collects the tests that are named, so each of them exists."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.conformance"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.startswith("MQTT 5.0: 251 normative statements")
    assert "MQTT 3.1.1: 140 normative statements" in found.stdout


def test_what_is_wrong_is_said():
    found = Coverage("5.0", missing=["MQTT-1"], unknown=["MQTT-2"], empty=["MQTT-3"], lost=["4: x"])
    assert [line.partition(": ")[2] for line in found.problems] == [
        "is not in the table",
        "there is no such statement",
        "neither a test nor a reason",
        "x",
    ]


def test_every_difference_is_asked_of_both_brokers():
    """Each question of the page is a case of the refused packets, or is observed by a test."""
    observed = "".join(path.read_text() for path in FOLDER.glob("test_*.py"))
    for row in DIFFERENCES.values():
        named = row.question in FIRST or row.question in LATER
        assert (
            named
            or f'observe(near.name, "{row.question}"' in observed
            or (f'published_soon(near, "{row.question}"' in observed)
        ), row.question
        assert row.isthmus != row.mosquitto, row.question
        assert row.decides, row.question


def test_a_question_that_stands_twice_is_refused():
    head = "| question | Isthmus | Mosquitto | what decides |\n|-|-|-|-|\n"
    with pytest.raises(AssertionError, match="twice"):
        read(head + 2 * "| a | b | c | d |\n")
