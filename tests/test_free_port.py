"""A port that a test gives to a server is that server's, however long it takes to start."""

from __future__ import annotations

import socket

import pytest

import mosquitto
from mosquitto import free_port


def test_no_port_is_given_out_twice() -> None:
    given = {free_port() for _ in range(100)}
    assert len(given) == 100


def test_the_system_gives_none_of_them_to_somebody_else() -> None:
    lowest = mosquitto._first_of_the_system()
    assert all(free_port() < lowest for _ in range(100))


def test_two_processes_that_run_tests_share_none(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    for worker in ("gw0", "gw1"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        given.append({free_port() % mosquitto.WORKERS for _ in range(20)})
    assert not given[0] & given[1]


def test_a_port_that_is_in_use_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        choices = [taken.getsockname()[1], free]
        monkeypatch.setattr(mosquitto, "_given", set())
        monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
        monkeypatch.setattr(mosquitto.random, "choice", lambda _: choices.pop(0))
        assert free_port() == free
