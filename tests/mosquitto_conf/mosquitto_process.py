"""Debian's Mosquitto with a configuration of our own, to see what it says to it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from mosquitto import listens, program

PATIENCE_S = 5.0


def accepts(folder: Path, text: str, port: int) -> bool:
    """Whether it starts with this file, which has to open a listener on `port`.

    It says in its log what it does not accept, with the line, and ends with status 3.
    """
    file = folder / "oracle.conf"
    file.write_bytes(text.encode(errors="surrogateescape"))
    process = subprocess.Popen(
        [program("mosquitto"), "-c", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=folder,
    )
    try:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if process.poll() is not None:
                assert process.returncode in (1, 3), process.stderr
                return False
            if listens(port):
                return True
            time.sleep(0.02)
        raise AssertionError("it neither listens nor ends")
    finally:
        process.kill()
        process.communicate()
