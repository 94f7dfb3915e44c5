"""A message of a share group that is kept on disk, wherever it is on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.delivery.queue import Queued
from isthmus.delivery.receipt import Receipt

if TYPE_CHECKING:
    from isthmus.broker.share_log import ShareLog


class Shared(Receipt):
    """Stands for the receipt of one message of `keeper`'s group, in the lane of a member or queued.

    `topic` (with its length), `first`, `properties` and `expires` are as they were published.
    `number` says which message came first, `seq` is its place in the log, 0 while it has none.
    `receipt` is its publisher's, while that waits for a member. `given_at` is the monotonic time at
    which a member got it; 0.0 where that does not matter.
    """

    __slots__ = (
        "expires",
        "first",
        "given_at",
        "keeper",
        "number",
        "properties",
        "receipt",
        "seq",
        "topic",
    )

    expires: float | None
    first: int
    given_at: float
    keeper: ShareLog
    number: int
    properties: bytes
    receipt: Receipt | None
    seq: int
    topic: bytes

    def queued(self, payload: bytes) -> Queued:
        """The message as it waits in the group."""
        return Queued(
            self.topic,
            self.first,
            self.properties,
            payload,
            self,
            0,
            self.expires,
            self.number,
        )
