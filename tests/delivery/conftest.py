from __future__ import annotations

from collections.abc import Iterator

import pytest
from delivery_peers import TIME, Time

from isthmus import clock


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[Time]:
    """The clock of every test here stands still until the test moves it."""
    monkeypatch.setattr(clock, "monotonic", TIME)
    return TIME
