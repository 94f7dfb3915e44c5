"""Which tests failed first and passed when `make test` ran them again: a hook of pytest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest
    from _pytest.terminal import TerminalReporter

FILE = "passed-again"
"""In the folder of pytest's cache; `make test` empties it first, and shows it at the end."""


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Note what passed, if these are the tests that failed before."""
    if not config.getoption("lf", False):
        return
    how = " (interpreted)" if os.environ.get("ISTHMUS_INTERPRETED") else ""
    with (config.rootpath / config.getini("cache_dir") / FILE).open("a") as file:
        file.writelines(f"{one.nodeid}{how}\n" for one in terminalreporter.getreports("passed"))
