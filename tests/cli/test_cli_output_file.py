"""Where commands with `-o` write their result, and what they say where they cannot."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.cli.output_file import result_file


def imported(file: Path, stdout: int, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "isthmus", "import", "mosquitto", file, *options],
        stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    file = tmp_path / "mosquitto.conf"
    file.write_text("listener 1883\nallow_anonymous true\n")
    return file


@pytest.mark.parametrize("named", [True, False])
def test_a_full_disk_is_said_whether_the_file_has_a_name_or_not(foreign: Path, named: bool) -> None:
    with Path("/dev/full").open("wb") as full:
        found = imported(foreign, full.fileno(), *(["-o", "/dev/full"] if named else []))
    name = "/dev/full" if named else "standard output"
    assert found.returncode == 2
    assert found.stderr == f"isthmus: {name}: cannot be written: No space left on device\n"


def test_a_closed_standard_output_is_said(foreign: Path) -> None:
    command = f'exec "{sys.executable}" -m isthmus import mosquitto "{foreign}" >&-'
    found = subprocess.run(
        ["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False, timeout=60
    )
    assert found.returncode == 2
    assert found.stderr == "isthmus: standard output: cannot be written: it is closed\n"


def test_a_reader_that_is_gone_ends_it_quietly(foreign: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    found = imported(foreign, writing)
    os.close(writing)
    assert (found.returncode, found.stderr) == (1, "")


def test_what_fails_beside_it_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    output = tmp_path / "out"

    def begin() -> None:
        with result_file(output) as file:
            file.write(b"begun")
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(OSError, match="Input/output error"):
        begin()
    assert output.read_bytes() == b"begun"
