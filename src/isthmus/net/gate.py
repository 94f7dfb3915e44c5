"""Who may come in: how many connections an address may have, and how fast they may come.

It is asked as soon as the address is known, before TLS or a CONNECT cost anything. A connection
that it refuses is closed without a word: only a CONNECT could be answered, and it would have to be
waited for. Where too many come in all, none is refused: they wait in the queue of the system.

IPv6 addresses count by their /64, as a host has all of it. Unix sockets have no addresses, and are
counted only in all. Memory: an entry for each address that has connections, and `REMEMBERED` twice
for the rates of those that had some. Who can come from more addresses than that could not be held
by a rate per address anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isthmus.net.peer import peer_network
from isthmus.net.recent import Recent
from isthmus.net.token_bucket import TokenBucket

BURST_S = 10.0
"""For how long a rate is saved up: after a loss of power all devices come back at once."""

REMEMBERED = 8192
"""Addresses whose rate is remembered, per generation; there are two, young and old."""

PER_ADDRESS = "connections_per_address"
RATE = "connect_rate"


class Gate:
    """The limits of everything that comes in by the listeners of a broker.

    Each connection that `enter` let in has to `leave` once. Counting goes on where a limit is None,
    so that one that is set later holds for what is there.

    Args:
        refused: Called with the name of the limit and the peer for each connection that is refused.
        failed: Called with a stage, the peer and a text for each one that failed before MQTT.
    """

    __slots__ = ("_buckets", "_in_all", "_open", "_rate", "failed", "per_address", "refused")

    def __init__(
        self,
        refused: Callable[[str, Any], None],
        failed: Callable[[str, Any, str], None],
    ) -> None:
        self.refused = refused
        self.failed = failed
        self.per_address: int | None = None
        self._rate: float | None = None
        self._in_all: TokenBucket | None = None
        self._open: dict[str, int] = {}
        self._buckets: Recent[TokenBucket] = Recent(REMEMBERED)

    def change(
        self, *, per_address: int | None, rate: float | None, in_all: float | None, now: float
    ) -> None:
        """Take these limits: connections and rate of one address, and the rate of all together."""
        self.per_address = per_address
        if rate != self._rate:
            self._rate = rate
            self._buckets.clear()
        if in_all != (self._in_all.rate if self._in_all is not None else None):
            self._in_all = None if in_all is None else TokenBucket(in_all, now, BURST_S)

    def opens_at(self, now: float) -> float:
        """When the next connection may be accepted, whoever it is; `now` or before is at once."""
        return now if self._in_all is None else self._in_all.ready_at(now)

    def enter(self, peername: Any, now: float) -> bool:
        """Count a connection in; False if it has to be closed, which is counted already."""
        if isinstance(peername, tuple):
            network = peer_network(peername)
            count = self._open.get(network, 0)
            if self.per_address is not None and count >= self.per_address:
                self.refused(PER_ADDRESS, peername)
                return False
            if self._rate is not None and not self._bucket(network, self._rate, now).take(now):
                self.refused(RATE, peername)
                return False
            self._open[network] = count + 1
        if self._in_all is not None:
            # Behind a PROXY header more may be on their way than there is room for: a debt.
            self._in_all.spend(1, now, BURST_S)
        return True

    def leave(self, peername: Any) -> None:
        """A connection that came in has ended."""
        if isinstance(peername, tuple):
            network = peer_network(peername)
            count = self._open.get(network, 0)
            if count > 1:
                self._open[network] = count - 1
            else:
                self._open.pop(network, None)

    def __len__(self) -> int:
        """How many addresses take memory here."""
        return len(self._open) + len(self._buckets)

    def _bucket(self, network: str, rate: float, now: float) -> TokenBucket:
        found = self._buckets.get(network) or TokenBucket(rate, now, BURST_S)
        self._buckets.put(network, found)
        return found
