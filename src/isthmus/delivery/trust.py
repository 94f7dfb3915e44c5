"""How many messages may be on their way to a far side that has yet to show that it answers.

What a far side gets and cannot acknowledge arrives twice: a link that brings it everything and
nothing back would make as many duplicates as the window is large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from isthmus.delivery.lane import Lane

DOUBTED = 16
"""So many are sent to a far side that has acknowledged nothing since it was late, or since it is
connected. Each acknowledgement doubles that."""

MORE_S = 5.0
"""This time doubles it too: some far sides acknowledge only many at once."""

UNLIMITED = 1 << 62


class Trust:
    """How far a lane trusts its peer: `most` messages may be on their way, or not recorded.

    A client is always trusted: what it does with its messages is its own affair.
    """

    __slots__ = ("_loop", "_waiting", "lane", "most")

    def __init__(self, lane: Lane, loop: asyncio.AbstractEventLoop) -> None:
        self.lane = lane
        self.most = UNLIMITED
        self._loop = loop
        self._waiting = False

    def doubt(self, unrecorded: int) -> None:
        """The peer is late, or new: what is on its way is enough until it answers.

        Args:
            unrecorded: messages that it has acknowledged, and of which the disk does not know it.
        """
        lane = self.lane
        if lane.blocks:
            self.most = max(DOUBTED, lane.inflight + unrecorded)
            self._wait()

    def answered(self) -> None:
        """The peer has acknowledged something."""
        if self.most < UNLIMITED:
            self.most *= 2

    def restore(self) -> None:
        """The peer keeps up."""
        self.most = UNLIMITED

    def _wait(self) -> None:
        if not self._waiting:
            self._waiting = True
            self._loop.call_later(MORE_S, self._more)

    def _more(self) -> None:
        self._waiting = False
        if self.lane.link is not None and self.most < self.lane.max_inflight:
            self.most *= 2
            self._wait()
            self.lane.look_for_room()
