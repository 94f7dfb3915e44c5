"""The outlet of routes with `queue_qos0`: their messages of QoS 0 wait for a connection too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.connectors.queued_lane import LimitedOutlet
from isthmus.delivery.outlet import LaneOutlet

if TYPE_CHECKING:
    from isthmus.delivery.receipt import Receipt


class KeepingOutlet(LaneOutlet):
    """One topic on a lane that queues it with any QoS."""

    __slots__ = ()

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Send or queue one message; see `Outlet.send`."""
        lane = self.lane
        first = self.first[flags]
        # What waits goes first: messages of one topic stay in order.
        if first < 0x32 and (lane.link is None or lane.waiting):
            lane.enqueue(self.topic, first, properties + self.stamp, payload, None)
        else:
            super().send(flags, properties, payload, receipt)


class KeepingLimitedOutlet(KeepingOutlet, LimitedOutlet):
    """The same on a lane that has a bucket."""

    __slots__ = ()
