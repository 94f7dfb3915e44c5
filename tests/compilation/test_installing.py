"""Installing: what is missing is brought, done without, or named; nothing fails half-way."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "setup.py"


@pytest.mark.parametrize("compiler", ["false", "there-is-no-such-compiler"])
def test_without_a_working_compiler_nothing_is_built_and_nothing_fails(compiler, tmp_path):
    package = tmp_path / "src" / "hot"
    package.mkdir(parents=True)
    (package / "hot.py").write_text("def one():\n    return 1\n")
    (package / "hot.pxd").write_text("cpdef int one()\n")
    shutil.copy(SETUP, tmp_path)
    environment = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", "built"],
        cwd=tmp_path,
        env={**environment, "CC": compiler},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # It was tried, so the setting of the test was not simply missed.
    assert 'building extension "hot.hot" failed' in done.stdout + done.stderr
    assert not list(tmp_path.glob("built/**/*.so"))


# What stands in for Python on a machine whose Python has no pip for a new environment.
WITHOUT_ENSUREPIP = """\
#!/bin/sh
case "$*" in
"-m venv --without-pip"*) ;;
"-m venv"*) mkdir "$3"; exit 1 ;;
"-m pip"*) echo "$@"; exit {status} ;;
esac
exec '{python}' "$@"
"""


@pytest.mark.parametrize("status", [0, 1])
def test_where_venv_cannot_bring_pip_the_pip_that_is_there_installs_it(tmp_path, status):
    python, venv = tmp_path / "python3", tmp_path / "venv"
    python.write_text(WITHOUT_ENSUREPIP.format(python=sys.executable, status=status))
    python.chmod(0o755)
    made = venv / "bin" / "python"
    # The make that runs this test, if one does, would pass its options on.
    environment = {key: os.environ[key] for key in os.environ if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--silent", f"PYTHON={python}", f"VENV={venv}", str(made)],
        cwd=SETUP.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    asked, *hint = done.stdout.splitlines()
    assert asked.startswith("-m pip ")
    assert asked.endswith(f" --python {made} install pip")
    assert made.exists() is (done.returncode == 0) is (status == 0)
    # Nothing is left that a second try would take for an environment.
    assert venv.exists() is (status == 0)
    assert bool(hint) is (status == 1)
    assert not hint or "apt install python3-venv" in hint[0]


def test_peers_that_are_missing_are_named_and_nothing_goes_on(tmp_path):
    """As on a machine that has none of the programs, and no apt to bring them."""
    script = SETUP.parent / "tests" / "peers.sh"
    needed = re.search(r'^needed="([^"]*)"', script.read_text(), re.MULTILINE)[1].split()
    pairs = [pair.split(":") for pair in needed]
    # It looks there without PATH, too.
    missing = [pair for pair in pairs if not os.access(f"/usr/sbin/{pair[0]}", os.X_OK)]
    assert missing
    done = subprocess.run(
        [script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    first, *_, last = done.stderr.splitlines()
    assert first.partition(":")[2].split() == [program for program, _ in missing]
    packages = list(dict.fromkeys(package for _, package in missing))
    assert last.partition("apt-get install")[2].split() == packages
