"""What came lately, by key, and no more of it than there is room for."""

from __future__ import annotations

from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """A table of at least the `most` latest entries, and twice as many at most.

    It has two generations: when the young one is full, the old one is forgotten.
    """

    __slots__ = ("_most", "old", "young")

    def __init__(self, most: int) -> None:
        self._most = most
        self.young: dict[str | bytes, V] = {}
        self.old: dict[str | bytes, V] = {}

    def get(self, key: str | bytes) -> V | None:
        """What is there under `key`."""
        found = self.young.get(key)
        return self.old.get(key) if found is None else found

    def put(self, key: str | bytes, value: V) -> None:
        """Add an entry, or make it the latest one."""
        self.old.pop(key, None)
        if key not in self.young and len(self.young) >= self._most:
            self.old, self.young = self.young, {}
        self.young[key] = value

    def clear(self) -> None:
        """Forget everything."""
        self.young, self.old = {}, {}

    def __len__(self) -> int:
        return len(self.young) + len(self.old)
