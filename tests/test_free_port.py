"""A port that a test gives to a server is that server's, however long it takes to start."""

from __future__ import annotations

import socket
from itertools import islice

from mosquitto import end_of_ports, free_port, in_turn, ports_of


def test_no_port_is_given_out_again_soon() -> None:
    assert len({free_port() for _ in range(500)}) == 500


def test_there_is_no_end_of_them() -> None:
    few = ports_of("gw15")[:3]
    assert set(islice(in_turn(few), 10)) == set(few)


def test_the_system_gives_none_of_them_to_somebody_else() -> None:
    assert len(ports_of("gw0")) > 1000
    assert max(ports_of("gw0")) < end_of_ports()


def test_two_processes_that_run_tests_share_none() -> None:
    assert not set(ports_of("gw0")) & set(ports_of("gw1"))


def test_a_port_that_is_in_use_is_none() -> None:
    free = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert next(in_turn([free, taken.getsockname()[1]])) == free
