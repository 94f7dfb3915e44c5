"""Receipts: the acknowledgements that one read of one connection owes.

The rules that keep the promise "PUBACK means safe":

* The source owns one hold while it fans a read out, so that a target which is safe at once cannot
  release the receipt before the next target has taken its hold.
* A lane's entry owns the lane's hold. Whoever takes the entry out first releases, so nothing is
  released twice.
* A receipt belongs to one network connection. When that ends, the receipt settles into nothing: a
  client that comes back uses the same packet identifiers for other messages.
* Acknowledgements leave in the order of arrival (MQTT-4.6.0-2, MQTT-4.6.0-3); one that must never
  be sent is left out and does not hold up the others.
"""

from __future__ import annotations

PUBACK = b"\x40\x02"
"""The first bytes of PUBACK: the prefix of the receipt of QoS 1 messages."""

PUBREC = b"\x50\x02"
"""The first bytes of PUBREC: the prefix of the receipt of a QoS 2 message."""


class Settler:
    """Who is told that a receipt has no holds left: where its messages came from.

    `v5` says that reason codes can be sent there, `closed` that nothing can be sent any more,
    `bridges` that others may have been told that a message is safe because this one brought it,
    `takes_back` that its messages return to it when their target is gone: nobody else keeps them.
    """

    __slots__ = ("bridges", "closed", "takes_back", "v5")

    def __init__(self) -> None:
        self.v5 = False
        self.closed = False
        self.bridges = False
        self.takes_back = False

    def settled(self, receipt: Receipt) -> None:
        """All messages of `receipt` are safe, or have ended with a code."""

    def remembers(self, packet_id: bytes) -> bool:
        """Whether a repeated QoS 2 PUBLISH with this identifier would be taken for a repetition."""
        del packet_id
        return False

    def close_reason(self, reason: str) -> None:
        """Close the connection, if there is one, for `reason`, at once."""

    def press(self) -> None:
        """A target has more waiting than it should: send it less for a while, if possible."""


class Receipt:
    """What is owed for the QoS 1 messages of one read, or for one QoS 2 message.

    `prefix` is the first two bytes of each acknowledgement (`40 02` PUBACK, `50 02` PUBREC), `ids`
    the packet identifiers as on the wire, `holds` the number of parties that are not done; of these
    `tied` have been waiting for nothing but the store since the message came. `codes` maps the
    index of a message to the reason code it failed with; None while there is none.
    """

    __slots__ = ("codes", "holds", "ids", "prefix", "source", "tied")

    source: Settler
    prefix: bytes
    ids: list[bytes]
    holds: int
    tied: int
    codes: dict[int, int] | None

    def release(self, count: int = 1) -> None:
        """Give back `count` holds."""
        holds = self.holds = self.holds - count
        if not holds:
            self.source.settled(self)

    def refuse(self, index: int, code: int) -> None:
        """Message number `index` ends with reason `code` (0x80 or above); no hold is given back."""
        if self.codes is None:
            self.codes = {}
        self.codes.setdefault(index, code)


def open_receipt(source: Settler, prefix: bytes) -> Receipt:
    """A receipt with one hold, the source's own, and no messages yet."""
    # There is one for each read: compiled, this is a third of the cost of a call of the class.
    receipt = Receipt.__new__(Receipt)
    receipt.source = source
    receipt.prefix = prefix
    receipt.ids = []
    receipt.holds = 1
    receipt.tied = 0
    receipt.codes = None
    return receipt
