"""Addresses of peers, as people read them."""

from __future__ import annotations

import pytest

from isthmus.net.peer import peer_network, peer_text, printable


@pytest.mark.parametrize(
    ("peername", "text", "network"),
    [
        (("192.0.2.7", 4711), "192.0.2.7:4711", "192.0.2.7"),
        (("2001:db8::7", 4711, 0, 0), "[2001:db8::7]:4711", "2001:db8::/64"),
        (("2001:db8:0:0:9:9:9:9", 1, 0, 0), "[2001:db8:0:0:9:9:9:9]:1", "2001:db8::/64"),
        (("fe80::1%eth0", 1, 0, 2), "[fe80::1%eth0]:1", "fe80::/64"),
        (("::ffff:192.0.2.7", 1, 0, 0), "[::ffff:192.0.2.7]:1", "192.0.2.7"),
        ("", "", ""),
        (("gateway", 1), "gateway:1", "gateway"),
    ],
)
def test_addresses(peername, text, network):
    assert (peer_text(peername), peer_network(peername)) == (text, network)


def test_what_a_peer_said_does_nothing_to_a_terminal():
    assert printable("a\x1b[2J\r\nb\u202e" + "x" * 200) == r"a\x1b[2J\r\nb\u202e" + "x" * 91
