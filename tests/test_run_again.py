"""A test that fails and passes when it is run again is named at the end of `make test`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from run_again import FILE

TESTS = Path(__file__).parent
ONE_THAT_FAILS_ONCE = """
from pathlib import Path

def test_fails_once():
    before = Path("before")
    found = before.exists()
    before.touch()
    assert found

def test_passes():
    pass
"""


def test_what_passes_only_when_it_is_run_again_is_noted(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text("from run_again import pytest_terminal_summary\n")
    (tmp_path / "test_one.py").write_text(ONE_THAT_FAILS_ONCE)
    noted = tmp_path / ".pytest_cache" / FILE

    def run(*options: str) -> int:
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        environment.pop("ISTHMUS_INTERPRETED", None)
        command = [sys.executable, "-m", "pytest", "-q", *options]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, check=False
        ).returncode

    assert run() == 1
    assert not noted.exists()
    assert run("--last-failed", "--last-failed-no-failures", "none") == 0
    assert noted.read_text() == "test_one.py::test_fails_once\n"


def test_make_shows_it_at_the_end() -> None:
    makefile = (TESTS.parent / "Makefile").read_text()
    assert f".pytest_cache/{FILE}" in makefile
