"""What a lane hands messages to that have to be kept: what it knows of its outbox.

The outbox is built on the lane; compiled, the lane calls it through this class as fast as its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isthmus.delivery.receipt import Receipt


class Keeper:
    """Keeps messages of a lane on disk; see `Outbox`."""

    __slots__ = ()

    def takes(self, first: int, receipt: Receipt | None) -> bool:
        """Whether a message goes here rather than in the queue of the lane."""
        raise NotImplementedError

    def append(
        self,
        topic: bytes,
        first: int,
        properties: bytes,
        payload: bytes,
        receipt: Receipt | None,
    ) -> None:
        """Keep a message; the arguments are those of `Queued`."""
        raise NotImplementedError
