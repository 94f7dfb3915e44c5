"""Installing: the hot files are compiled where that is possible, and nothing fails where not."""

from __future__ import annotations

import os
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
