"""The queue of a connector, which all routes that lead there share.

Of `max_bytes` the largest counts. What else is set in one route holds for all of them; where
several set it, they have to agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.config.problems import Problem
from isthmus.delivery.queue_limits import QueueLimits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from isthmus.routing.leg import Leg
    from isthmus.routing.settings import QueueSettings

SHARED = ("when_full", "max_messages", "max_age")


def shared_limits(queues: Sequence[QueueSettings]) -> QueueLimits:
    """The limits of the queue that routes with these settings share."""
    if not queues:
        return QueueLimits()
    found = {
        key: next(
            (getattr(queue, key) for queue in queues if key in queue.model_fields_set),
            getattr(queues[0], key),
        )
        for key in SHARED
    }
    return QueueLimits(
        max(queue.max_bytes for queue in queues),
        found["max_messages"] or 0,
        found["max_age"] or 0.0,
        found["when_full"],
    )


def contradictions(legs: Sequence[Leg], on_disk: Mapping[str, bool]) -> Iterator[Problem]:
    """What routes cannot want of the queue that they share.

    `on_disk` says by connector whether what waits for it is kept on disk.
    """
    first: dict[tuple[str, str], Leg] = {}
    for leg in legs:
        if leg.target not in on_disk:
            continue
        queue = leg.settings.queue
        for key in SHARED:
            if key not in queue.model_fields_set:
                continue
            loc = ("routes", leg.route, "queue", key)
            other = first.setdefault((leg.target, key), leg)
            if getattr(other.settings.queue, key) != getattr(queue, key):
                yield Problem(
                    loc,
                    f"is another one than in route '{other.route}', and both lead to "
                    f"'{leg.target}', which has one queue: set it in one of them, or alike",
                )
            wants_disk = (key == "max_age" and queue.max_age is not None) or (
                key == "when_full" and queue.when_full == "dead_letter"
            )
            if wants_disk and not on_disk[leg.target]:
                yield Problem(
                    loc,
                    "needs messages on disk: set 'broker.data' to a folder, and leave "
                    "'durability: disk'",
                )
