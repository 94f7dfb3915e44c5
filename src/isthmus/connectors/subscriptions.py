"""What a connector is subscribed to at its far service.

Several routes may ask for overlapping filters. The far service is asked for a cover: filters of
which none includes another, so that it has no reason to send a message twice. Which route gets a
message is decided here, by matching its topic. Filters that overlap without one including the other
(`a/+` and `+/b`) stay apart; a service that sends a copy for each then delivers a message of `a/b`
twice.

A filter that the service refuses stands for no other: what it covers is asked for itself, until the
service grants it after all. What is subscribed already stays so until the filter that covers it has
been granted. Who owns a filter does not depend on any answer, else a service that grants one thing
to one member and another to the next could send a filter round between them for ever.

Not `joined`, every filter is asked for, whatever others include: that is how Mosquitto does it.
"""

from __future__ import annotations

from itertools import chain

from isthmus.connectors.ownership import owners
from isthmus.mqtt.topic_tree import TopicTree
from isthmus.mqtt.topics import covers

UNANSWERED = (0, -1)
"""What stands for a filter that the far service has not answered: asked QoS, and no code."""


class Subscriptions:
    """Filters that subscribers asked for, and what the far service answered to each member.

    Members of the pool are counted from 0. An answer is the code of a SUBACK: the granted QoS, or
    0x80 and above for a refusal. `moving` says that a filter waits for the answer to another one,
    or that a refusal asks for more: bring all members up to date after each answer.
    """

    __slots__ = (
        "_answers",
        "_asked",
        "_cover",
        "_joined",
        "_owners",
        "_shares",
        "_standing",
        "_wider",
        "moving",
    )

    def __init__(self, members: int = 1, *, joined: bool = True) -> None:
        self._asked: dict[bytes, dict[object, int]] = {}
        self._joined = joined
        # For each filter, the others that include it; None if that is to be found anew.
        self._wider: dict[bytes, list[bytes]] | None = None
        # Those that include others: their answers decide what else is asked for.
        self._standing: frozenset[bytes] = frozenset()
        self._cover: dict[bytes, int] | None = None
        self._owners: dict[bytes, int | None] = {}
        self._shares: list[dict[bytes, int]] = []
        # For each member, filter -> (asked QoS, code).
        self._answers: list[dict[bytes, tuple[int, int]]] = [{} for _ in range(members)]
        self.moving = False

    def add(self, filter_: bytes, subscriber: object, qos: int) -> None:
        """`subscriber` wants `filter_` with at most `qos`."""
        self._asked.setdefault(filter_, {})[subscriber] = qos
        self._wider = self._cover = None

    def remove(self, filter_: bytes, subscriber: object) -> None:
        """`subscriber` no longer wants `filter_`."""
        subscribers = self._asked.get(filter_)
        if subscribers is not None:
            subscribers.pop(subscriber, None)
            self._wider = self._cover = None
            if not subscribers:
                del self._asked[filter_]

    def join(self, *, joined: bool) -> None:
        """Ask for the widest filters only, or for every one."""
        if joined != self._joined:
            self._joined = joined
            self._wider = self._cover = None

    def cover(self) -> dict[bytes, int]:
        """The filters to subscribe to and the QoS of each, in the order they were asked."""
        if self._cover is None:
            if self._wider is None:
                self._wider = self._find_wider()
                self._standing = frozenset(chain.from_iterable(self._wider.values()))
                self._owners = self._find_owners(self._wider)
            self._cover = self._make_cover(self._wider)
            self._shares = [{} for _ in self._answers]
            for filter_, qos in self._cover.items():
                owner = self._owners[filter_]
                for share in self._shares if owner is None else (self._shares[owner],):
                    share[filter_] = qos
        return self._cover

    def share(self, member: int) -> dict[bytes, int]:
        """The part of the cover that `member` subscribes to."""
        self.cover()
        return self._shares[member]

    def missing(
        self, member: int, *, again: bool, lasting: frozenset[int] = frozenset()
    ) -> dict[bytes, int]:
        """What of its share `member` has to ask for.

        Refused filters only if `again`, and not if the code of the refusal is one of `lasting`.
        """
        answers = self._answers[member]
        found = {}
        for filter_, qos in self.share(member).items():
            asked, code = answers.get(filter_, UNANSWERED)
            refused = code >= 0x80
            if refused and (not again or code in lasting):
                continue
            if refused or code < 0 or asked < qos:
                found[filter_] = qos
        return found

    def surplus(self, member: int) -> list[bytes]:
        """What the service sends to `member` and nobody wants from it any more; it is forgotten."""
        answers = self._answers[member]
        share = self.share(member)
        gone = []
        for filter_ in answers:
            if filter_ in share:
                continue
            if self._on_the_way(filter_, member):
                self.moving = True
            else:
                gone.append(filter_)
        return [filter_ for filter_ in gone if answers.pop(filter_)[1] < 0x80]

    def _on_the_way(self, filter_: bytes, member: int) -> bool:
        """Whether what shall bring the messages of a filter of `member` now has no answer yet.

        That is the same filter at another member, or one that covers it. What was there before
        stays so long, so that no message is missed.
        """
        wider = self._wider or {}
        if filter_ not in wider:
            return False
        by, cover = filter_, self.cover()
        if filter_ not in cover:
            by = next(one for one in wider[filter_] if one in cover and not self._is_refused(one))
        owner = self._owners[by]
        return by not in self._answers[member if owner is None else owner]

    def regroup(self, members: list[int | None]) -> list[list[bytes]]:
        """The members are others now: for each, which one it was before, or None.

        Returns what the service has granted to those that are gone, one list for each of them.
        """
        before = self._answers
        self._answers = [{} if old is None else before[old] for old in members] or [{}]
        self._wider = self._cover = None
        return [
            [filter_ for filter_, (_, code) in answers.items() if code < 0x80]
            for old, answers in enumerate(before)
            if old not in members
        ]

    def answered(self, member: int, filter_: bytes, qos: int, code: int) -> bool:
        """The service answered `code` where `qos` was asked for; whether that says anything new."""
        answers = self._answers[member]
        before = answers.get(filter_, UNANSWERED)
        answers[filter_] = (qos, code)
        if filter_ in self._standing and (before[1] >= 0x80) != (code >= 0x80):
            self._cover = None
            self.moving = True
        return before[1] != code

    def forget(self, member: int) -> None:
        """The session of `member` at the service is new: nothing is subscribed in it."""
        self._answers[member].clear()
        if self._standing:
            self._cover = None

    def counts(self, member: int) -> tuple[int, int]:
        """How many filters the service granted to `member`, and how many it refused."""
        codes = [code for _, code in self._answers[member].values()]
        refused = sum(code >= 0x80 for code in codes)
        return len(codes) - refused, refused

    @property
    def answers(self) -> dict[bytes, int]:
        """The answer to each filter; for one of several members the highest, once all are there."""
        found: dict[bytes, int] = {}
        for filter_ in self.cover():
            owner = self._owners[filter_]
            asked = self._answers if owner is None else [self._answers[owner]]
            codes = [answers.get(filter_, UNANSWERED)[1] for answers in asked]
            if min(codes) >= 0:
                found[filter_] = max(codes)
        return found

    def _find_wider(self) -> dict[bytes, list[bytes]]:
        """For each filter the others that include it; of two that are equal, the earlier."""
        asked = self._asked
        if not self._joined:
            return {filter_: [] for filter_ in asked}
        tree: TopicTree[bytes] = TopicTree()
        place = {}
        for index, filter_ in enumerate(asked):
            tree.add(filter_, None, filter_)
            place[filter_] = index
        # A filter that includes another one matches its text as if that were a topic.
        return {
            filter_: [
                other
                for other in tree.match(filter_)
                if other != filter_
                and covers(other, filter_)
                and (place[other] < place[filter_] or not covers(filter_, other))
            ]
            for filter_ in asked
        }

    def _find_owners(self, wider: dict[bytes, list[bytes]]) -> dict[bytes, int | None]:
        """The member that has each filter: that of the widest one which includes it."""
        found = owners([one for one, others in wider.items() if not others], len(self._answers))
        for filter_, others in wider.items():
            if others:
                found[filter_] = found[next(other for other in others if not wider[other])]
        return found

    def _make_cover(self, wider: dict[bytes, list[bytes]]) -> dict[bytes, int]:
        """What stands for all filters, and what does not because it was refused."""
        refused = {filter_ for filter_ in self._standing if self._is_refused(filter_)}
        found = {filter_: 0 for filter_, others in wider.items() if refused.issuperset(others)}
        for filter_, others in wider.items():
            by = (
                filter_
                if filter_ in found
                else next(other for other in others if other in found and other not in refused)
            )
            qos = max(self._asked[filter_].values())
            # What was refused is asked for again with what it would stand for.
            for one in (by, *refused.intersection(others)):
                if one in found:
                    found[one] = max(found[one], qos)
        return found

    def _is_refused(self, filter_: bytes) -> bool:
        """Whether nobody has been granted `filter_`, and somebody been refused."""
        owner = self._owners[filter_]
        asked = self._answers if owner is None else [self._answers[owner]]
        codes = [answers.get(filter_, UNANSWERED)[1] for answers in asked]
        return max(codes) >= 0x80 and not any(0 <= code < 0x80 for code in codes)
