"""docs/mosquitto.md shows the table as it is in the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isthmus.app.mosquitto.options import OPTIONS, SECTIONS, table

PAGE = (Path(__file__).parents[2] / "docs" / "mosquitto.md").read_text()


@pytest.mark.parametrize("section", SECTIONS)
def test_the_table_of_the_page_is_that_of_the_code(section: str) -> None:
    assert f"### {section}\n\n{table(section)}" in PAGE


def test_every_option_is_on_the_page_once() -> None:
    row = re.compile(r"^\| (`[^|]*) \| (?:honoured|mapped|no effect|refused) \|", re.MULTILINE)
    rows = row.findall(PAGE)
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(names) == sorted(OPTIONS)
