from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
import uvloop

from isthmus.net.poller import EpollPoller, LoopPoller
from isthmus.net.reactor import Reactor

Scenario = Callable[[Reactor], Coroutine[Any, Any, None]]

VARIANTS = [
    pytest.param((uvloop.new_event_loop, EpollPoller), id="uvloop-epoll"),
    pytest.param((asyncio.new_event_loop, EpollPoller), id="asyncio-epoll"),
    pytest.param((uvloop.new_event_loop, LoopPoller), id="uvloop-readers"),
    pytest.param((asyncio.new_event_loop, LoopPoller), id="asyncio-readers"),
]


@pytest.fixture(params=VARIANTS)
def run(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    """Run `scenario(reactor)` on each event loop with each poller, and look for leaks after it."""
    make_loop, poller = request.param

    def run_scenario(scenario: Scenario) -> None:
        async def main() -> None:
            reactor = Reactor(poller=poller)
            try:
                async with asyncio.timeout(15):
                    await scenario(reactor)
            finally:
                reactor.close()
            assert reactor.statistics().links == 0

        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(main())

    return run_scenario


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Certificates of every kind that the tests need, as PEM files with their keys."""
    folder = tmp_path_factory.mktemp("pki")
    authority, other = trustme.CA(key_type=trustme.KeyType.ECDSA), trustme.CA()
    now = dt.datetime.now(dt.UTC)

    def write(name: str, certificate: trustme.LeafCert) -> Path:
        path = folder / name
        certificate.private_key_and_cert_chain_pem.write_to_path(path)
        return path

    def issue(by: trustme.CA, *names: str, **how: Any) -> trustme.LeafCert:
        return by.issue_cert(*names, key_type=trustme.KeyType.ECDSA, **how)

    ca, other_ca = folder / "ca.pem", folder / "other-ca.pem"
    authority.cert_pem.write_to_path(ca)
    other.cert_pem.write_to_path(other_ca)
    return SimpleNamespace(
        folder=folder,
        ca=ca,
        other_ca=other_ca,
        server=write("server.pem", issue(authority, "localhost", "127.0.0.1", "broker.test")),
        misnamed=write("misnamed.pem", issue(authority, "elsewhere.test")),
        untrusted=write("untrusted.pem", issue(other, "localhost", "127.0.0.1")),
        expired=write(
            "expired.pem",
            issue(authority, "localhost", "127.0.0.1", not_after=now - dt.timedelta(days=1)),
        ),
        client=write("client.pem", issue(authority, "device-7", common_name="device-7")),
        foreign_client=write("foreign-client.pem", issue(other, "device-8")),
    )
