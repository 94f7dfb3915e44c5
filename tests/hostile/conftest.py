"""One broker per module. After each test: good clients are served, and nothing was left behind.

A module says in `configuration(folder)` what its broker is, if the defaults of `QUICK` are not it,
and in `GOOD` who its good clients are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from victim import GROWTH_KIB, UNFORESEEN, GoodClient, Victim

from raw import OPEN, until

QUICK = {"broker": {"limits": {"connect_timeout": "1s"}}}


@pytest.fixture(scope="module")
def started(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    """The broker of this module, its good clients, and how many descriptors it needs for them."""
    folder = tmp_path_factory.mktemp("hostile")
    configuration = getattr(request.module, "configuration", lambda _: QUICK)(folder)
    victim = Victim(folder, configuration)
    try:
        how: dict[str, Any] = getattr(request.module, "GOOD", {})
        good = [GoodClient(victim.port, version, **how) for version in (5, 4)]
        for client in good:
            client.served()
        yield SimpleNamespace(victim=victim, good=good, descriptors=victim.descriptors)
        for client in good:
            client.close()
        assert victim.process.poll() is None
        assert victim.stop() == 0
    finally:
        victim.process.kill()
        victim.process.wait()


@pytest_asyncio.fixture
async def victim(started: SimpleNamespace) -> AsyncIterator[Victim]:
    """The broker of this module, looked at before and after."""
    found: Victim = started.victim
    OPEN.clear()
    before, said = found.rss_kib, len(found.log)
    yield found
    for raw in OPEN:
        raw.writer.transport.abort()
    OPEN.clear()
    assert found.process.poll() is None, f"the broker has ended:\n{found.log}"
    for client in started.good:
        client.served()
    await until(lambda: found.descriptors <= started.descriptors)
    assert found.rss_kib - before < GROWTH_KIB
    assert not UNFORESEEN.search(found.log[said:]), found.log[said:]


@pytest.fixture
def served(started: SimpleNamespace) -> Callable[[], float]:
    """Serve the good clients now; the longest time that one waited."""
    return lambda: max(client.served() for client in started.good)
