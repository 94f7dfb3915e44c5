"""How fast the packets of one client are taken: `limits.packet_rate`.

Judged once per read. A client that sent more than it may is not read until that is paid for, so
that its packets wait in its own buffers and those of the network: it is slowed down, and nothing is
lost.

This holds also for a client whose acknowledgements are needed. What makes it dangerous to stop
reading such a link is a circle of peers that wait for each other; this pause waits for nothing but
the clock, and for `LONGEST_PAUSE_S` at most. Acknowledgements themselves are free, so who only
receives is never slowed down. Dropping what is too much would lose messages of clients that did
nothing worse than to send what they had kept; closing (0x96) would make them come again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.delivery.source import LONGEST_PAUSE_S
from isthmus.mqtt.packets import Auth, Connect, Disconnect, Pingreq, Subscribe, Unsubscribe
from isthmus.net.token_bucket import TokenBucket

if TYPE_CHECKING:
    from isthmus.mqtt.codec import Event

_COUNTED = frozenset((tuple, Auth, Connect, Disconnect, Pingreq, Subscribe, Unsubscribe))
"""Events that count; messages are tuples."""


class Pace:
    """The rate of one client, in packets per second.

    `until` is when it may be read again, in monotonic seconds.
    """

    __slots__ = ("_bucket", "rate", "until")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.until = now
        self._bucket = TokenBucket(rate, now)

    def took(self, events: list[Event], now: float, keep_alive_s: int) -> bool:
        """Count the packets of a read; whether the client has to be slowed down, until `until`.

        The pause is shorter than it owes where it could miss the answer to a PINGREQ. The rest is
        owed after the next read.
        """
        count = sum(map(_COUNTED.__contains__, map(type, events)))
        wait_s = self._bucket.spend(count, now, LONGEST_PAUSE_S)
        if keep_alive_s:
            wait_s = min(wait_s, keep_alive_s / 2)
        self.until = now + wait_s
        return wait_s > 0
