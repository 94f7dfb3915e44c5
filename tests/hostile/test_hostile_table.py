"""The table of advisories is complete, and what it says is so."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import FunctionType

import pytest
from advisories import ROWS

from isthmus.app.settings import Settings

HERE = Path(__file__).parent

LAST = 68


def told() -> dict[str, str]:
    """Each test of this folder, and what it says of itself: docstring and names of its cases."""
    found = {}
    for file in HERE.glob("test_*.py"):
        for name, test in vars(importlib.import_module(file.stem)).items():
            if name.startswith("test_") and isinstance(test, FunctionType):
                cases = [case for mark in getattr(test, "pytestmark", []) for case in mark.args[1:]]
                found[name] = f"{test.__doc__} {' '.join(str(list(case)) for case in cases)}"
    return found


def test_every_row_is_there_once():
    assert [row.number for row in ROWS] == list(range(1, LAST + 1))
    assert all(row.ids and row.what for row in ROWS)
    assert all(row.where for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.number} {row.ids[0]}" for row in ROWS])
def test_a_row_has_tests_that_name_it(row):
    known = told()
    said = ""
    for where in row.where:
        file, _, name = where.rpartition("::")
        if file:
            assert re.search(rf"def {name}\(", (HERE.parent.parent / file).read_text())
        else:
            said += known[name]
    for name in row.ids:
        assert re.search(re.escape(name) + r"(?!\d)", said.replace("EMQX#", "EMQX #")), name


def test_the_http_port_is_not_open_to_others_by_itself():
    """Section 4, HTTP front: it asks nobody who he is, so only this machine reaches it."""
    assert Settings.model_validate({"http": None}).http is None
    with pytest.raises(ValueError, match="is open to others"):
        Settings.model_validate({"http": {"bind": "0.0.0.0:80"}})
