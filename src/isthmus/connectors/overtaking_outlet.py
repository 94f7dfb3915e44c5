"""The outlet of routes with `may_overtake`: what is new goes before what an outage has left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.connectors.keeping_outlet import KeepingOutlet
from isthmus.delivery.outlet import LaneOutlet
from isthmus.delivery.receipt import PUBREC

if TYPE_CHECKING:
    from isthmus.delivery.receipt import Receipt


class OvertakingOutlet(LaneOutlet):
    """One topic on a lane; its QoS 1 messages do not wait behind a backlog.

    As long as there is a connection they need no disk either: their publisher waits for the peer.
    What is QoS 2 on either side keeps its turn, as it has to be on disk before it is sent. So do
    retained messages: the last one that comes is the one that stays there.
    """

    __slots__ = ()

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Send or queue one message; see `Outlet.send`."""
        lane = self.lane
        first = self.first[flags]
        if (
            not lane.waiting
            or lane.link is None
            or not lane.drains
            or first >= 0x34
            or first & 1  # retained
            or (receipt is not None and receipt.prefix is PUBREC)
        ):
            super().send(flags, properties, payload, receipt)
        elif first < 0x32:
            LaneOutlet.send(self, flags, properties, payload, receipt)
        else:
            holder = None if self.memory and not lane.full else receipt
            lane.overtake(self.topic, first, properties + self.stamp, payload, holder)


class KeepingOvertakingOutlet(OvertakingOutlet, KeepingOutlet):
    """The same with `queue_qos0`."""

    __slots__ = ()
