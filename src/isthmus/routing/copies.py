"""What several routes that lead a message to the same place make of it: one copy, or two.

Two routes to one topic of one target would send every message twice. Copies that are alike are one;
where they differ in the QoS alone, the higher one counts (as for overlapping subscriptions,
MQTT-3.3.4-2). Only copies with and without the retain flag are both sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.delivery.outlet import Outlet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from isthmus.delivery.receipt import Receipt

Flags = tuple[int, ...]
"""A table from the flags of a message to those it is sent with; see `flag_table`."""

ALL = frozenset(range(8))


def joined(tables: Iterable[Flags]) -> tuple[Flags, tuple[Flags, frozenset[int]] | None]:
    """The table of the first copy, and that of the second with the flags it is for, if any.

    The first copy of a message has the retain flag as the first table has it.
    """
    found = list(dict.fromkeys(tables))
    first = list(found[0])
    second = list(found[0])
    wanted = set()
    for flags in range(8):
        retain = first[flags] & 1
        same = [table[flags] for table in found if table[flags] & 1 == retain]
        other = [table[flags] for table in found if table[flags] & 1 != retain]
        first[flags] = max(same)
        if other:
            second[flags] = max(other)
            wanted.add(flags)
    return tuple(first), (tuple(second), frozenset(wanted)) if wanted else None


class PartOutlet(Outlet):
    """An outlet that takes only messages with some flags; others pass it by."""

    __slots__ = ("flags", "outlet")

    def __init__(self, outlet: Outlet, flags: frozenset[int]) -> None:
        super().__init__(outlet.echo_key, retains=outlet.retains, hops=outlet.hops)
        self.outlet = outlet
        self.flags = flags

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Pass a message on if its flags are among `flags`."""
        if flags in self.flags:
            self.outlet.send(flags, properties, payload, receipt)

    def with_flags(self, table: Flags) -> PartOutlet | None:
        """The same for messages whose flags are first mapped by `table`."""
        outlet = self.outlet.with_flags(table)
        flags = frozenset(flag for flag in ALL if table[flag] in self.flags)
        return PartOutlet(outlet, flags) if outlet is not None and flags else None
