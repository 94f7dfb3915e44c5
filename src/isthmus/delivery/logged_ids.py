"""The packet identifiers of what is in a log, and the QoS 2 exchanges under them.

A packet identifier follows from the place in the log, so that it is the same after a crash, and
needs no record of its own: a peer that holds the identifier of a QoS 2 message takes its repetition
for one, and nothing else for it. That the peer owns a message (PUBREC) is on disk before PUBREL.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from isthmus.delivery.stored import Stored

if TYPE_CHECKING:
    from isthmus.delivery.receipt import Receipt
    from isthmus.mqtt.inflight import Window
    from isthmus.store.log import Log

THROUGH_CHUNKS = 16
"""Packet identifiers below 16 * 256 belong to what is not in the log, or far ahead in it, and to
SUBSCRIBE."""

FIRST_ID = THROUGH_CHUNKS * 256
FIRST_LOGGED = FIRST_ID.to_bytes(2, "big")
IDS = 60_000
"""Logged messages take the identifiers from FIRST_ID on, by their sequence numbers."""

MAX_AHEAD = IDS // 2
"""So far behind the first that is not done a message may be sent: its identifier is free then."""


class PeerSession(IntEnum):
    """What `Log.begun` says, on disk too: whether the peer's session began with this log.

    In an old one the peer may hold identifiers that the log knows nothing of.
    """

    NEW = 1
    OLD = 2


def packet_id_of(seq: int) -> bytes:
    """The packet identifier of logged message number `seq`."""
    return (FIRST_ID + seq % IDS).to_bytes(2, "big")


class LoggedIds:
    """Those of `log`.

    `taken` are those of what the peer owns by PUBREC, until PUBCOMP, with the places in the log.
    """

    __slots__ = ("_log", "_renamed", "_untold", "_untold_closing", "taken")

    def __init__(self, log: Log) -> None:
        self._log = log
        self.taken: dict[bytes, int] = {}
        # Messages whose own identifier the peer did not take.
        self._renamed: set[int] = set()
        # Whose PUBREC is in the open transaction, and in the one that is being written.
        self._untold: dict[bytes, None] = {}
        self._untold_closing: dict[bytes, None] = {}

    def of(self, receipt: Receipt | None) -> bytes:
        """The packet identifier to send a message with; empty for any that is free."""
        if not isinstance(receipt, Stored):
            return b""
        stored = receipt
        log = self._log
        if stored.log is not log or stored.seq in self._renamed:
            return b""
        if stored.seq >= log.done_below + MAX_AHEAD:  # it has overtaken what is before it
            return b""
        return packet_id_of(stored.seq)

    def was_taken(self, receipt: Receipt | None) -> None:
        """The peer has something else under the identifier of a message: another one next time."""
        if isinstance(receipt, Stored) and receipt.log is self._log:
            self._renamed = {seq for seq in self._renamed if seq >= self._log.done_below}
            self._renamed.add(receipt.seq)

    def opened(self, *, session_present: bool, moved: bool) -> None:
        """There is a connection: note what session the peer has.

        `moved` says that the one before led to another peer, so that this one's session, if there
        is one, is from before that.
        """
        log = self._log
        begun = log.begun
        if not session_present:
            begun = PeerSession.NEW
        elif moved or not begun:
            begun = PeerSession.OLD
        if moved or begun != log.begun:
            log.begin(begun)

    def may_be_held(self, packet_id: bytes) -> bool:
        """Whether the peer may hold `packet_id` for something that nobody knows of any more.

        Of those that follow from a place in the log it does so only in an old session. There it may
        also be this very message, sent in an earlier life: how many were sent then is not known.
        """
        return packet_id < FIRST_LOGGED or self._log.begun == PeerSession.OLD

    # -- QoS 2 -----------------------------------------------------------------------------------

    def resume(self, window: Window) -> None:
        """Go on with the exchanges of an earlier life."""
        for seq in self._log.taken():
            packet_id = packet_id_of(seq)
            self.taken[packet_id] = seq
            window.releasing[packet_id] = None

    def give_back(self) -> int:
        """End all exchanges: the peer has forgotten its session, or there is another peer.

        Whether the messages that it owned went on before is not known: they are to be sent again.
        Returns the place of the first of them, 0 for none.
        """
        taken = self._log.taken()
        self._log.give_back()
        self.taken.clear()
        self._untold.clear()
        self._untold_closing.clear()
        return taken[0] if taken else 0

    def take_over(self, packet_id: bytes, receipt: Receipt | None) -> bool:
        """The peer sent PUBREC for a message: whether PUBREL has to wait for the disk."""
        if not isinstance(receipt, Stored) or receipt.log is not self._log:
            return False
        self.taken[packet_id] = receipt.seq
        self._log.take(receipt.seq)
        self._log.hurry()
        self._untold[packet_id] = None
        return True

    def is_untold(self, packet_id: bytes) -> bool:
        """Whether PUBREC for `packet_id` is not on disk yet."""
        return packet_id in self._untold or packet_id in self._untold_closing

    def closing(self) -> None:
        """A transaction is about to be written: the PUBRECs until now are in it."""
        self._untold_closing |= self._untold  # there may be some, where the disk was full
        self._untold = {}

    def told(self) -> list[bytes]:
        """The transaction is on disk: what may be released now."""
        told, self._untold_closing = self._untold_closing, {}
        return list(told)

    def completed(self, packet_id: bytes) -> None:
        """The peer sent PUBCOMP: the exchange is over."""
        seq = self.taken.pop(packet_id, None)
        if seq is not None:
            self._log.done(seq)
