"""The answer to the request `status` as lines for people."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from isthmus.amounts import duration, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

AS_WANTED = frozenset({"connected", "idle"})
"""The states of connectors that need nobody's attention: idle is a lazy one with nothing to do."""

COUNTED = ("received", "sent", "acknowledged")
"""What is shown as a rate where there are two answers."""

_RIGHT = frozenset(
    {
        "QUEUED",
        "BYTES",
        "INFLIGHT",
        "OLDEST",
        "RECEIVED",
        "SENT",
        "ACKED",
        "DROPPED",
        "MESSAGES",
        "RTT",
    }
)


def is_well(answer: Mapping[str, Any]) -> bool:
    """Whether every connector is as wanted, and the store can be written."""
    store = answer["broker"]["store"]
    return (store is None or store["failure"] is None) and all(
        connector["state"] in AS_WANTED for connector in answer["connectors"]
    )


def table(answer: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Everything that `answer` says.

    With `before`, an earlier answer, messages are shown per second since then.
    """
    process = answer["process"]
    elapsed_s = None
    if before is not None:
        elapsed_s = process["uptime_s"] - before["process"]["uptime_s"]
        if process["pid"] != before["process"]["pid"]:
            elapsed_s = 0.0
    node = f", node {process['node']}" if process["node"] else ""
    yield (
        f"isthmus {process['version']}, process {process['pid']}{node}, "
        f"up {duration(process['uptime_s'])}"
    )
    earlier = {} if before is None else before["broker"]
    yield from _broker(answer["broker"], earlier, elapsed_s)
    if answer["connectors"]:
        yield ""
        yield from _connectors(answer, before, elapsed_s)
    if answer["routes"]:
        yield ""
        rows = [
            (
                route["name"],
                route["from"],
                route["to"],
                str(route["messages"]),
                _total(route["dropped"]),
            )
            for route in answer["routes"]
        ]
        yield from _columns(("ROUTE", "FROM", "TO", "MESSAGES", "DROPPED"), rows)
    yield from _drops(answer)


def _broker(
    broker: Mapping[str, Any], earlier: Mapping[str, Any], elapsed_s: float | None
) -> Iterator[str]:
    received, sent = (
        _flow(broker[name], earlier.get(name, 0), elapsed_s) for name in ("received", "sent")
    )
    yield (
        f"broker: {broker['clients']} clients, {broker['sessions']} sessions, "
        f"{broker['subscriptions']} subscriptions, {broker['retained']} retained, "
        f"messages {received} received, {sent} sent"
    )
    store = broker["store"]
    if store is None:
        yield "store: none, nothing outlives the process"
    elif store["failure"] is None:
        yield f"store: {_commits(store)}"
    else:
        yield f"store: FAILS after {_commits(store)}: {store['failure']}"


def _commits(store: Mapping[str, Any]) -> str:
    return f"{store['commits']} commit{'' if store['commits'] == 1 else 's'}"


def _connectors(
    answer: Mapping[str, Any], before: Mapping[str, Any] | None, elapsed_s: float | None
) -> Iterator[str]:
    known = {} if before is None else {one["name"]: one for one in before["connectors"]}
    now = answer["process"]["at"]
    rows = []
    for one in answer["connectors"]:
        earlier = known.get(one["name"], one)
        received, sent, acknowledged = (
            _flow(one[name], earlier[name], elapsed_s) for name in COUNTED
        )
        rows.append(
            (
                one["name"],
                one["state"],
                f"{one['connections_up']}/{one['connections_wanted']}",
                duration(_seconds(one["since"], now)),
                str(one["queued"]),
                size(one["queued_bytes"]),
                str(one["inflight"]),
                duration(one["oldest_age_s"]) if one["oldest_age_s"] else "-",
                received,
                sent,
                acknowledged,
                _total(one["dropped"]),
                "-" if one["round_trip_ms"] is None else f"{one['round_trip_ms']:.1f} ms",
                one["version"] or "-",
                one["address"],
            )
        )
    titles = (
        "CONNECTOR", "STATE", "UP", "FOR", "QUEUED", "BYTES", "INFLIGHT", "OLDEST", "RECEIVED",
        "SENT", "ACKED", "DROPPED", "RTT", "MQTT", "ADDRESS",
    )  # fmt: skip
    yield from _columns(titles, rows)
    for one in answer["connectors"]:
        if one["reason"]:
            yield f"{one['name']}: {one['state']}: {one['reason']}"
        elif one["last_error"]:
            ago = duration(_seconds(one["last_error_at"], now))
            yield f"{one['name']}: last error {ago} ago: {one['last_error']}"
        rare = [
            f"{one[name]} {words}"
            for name, words in (
                ("connections_on_backup", "at a backup"),
                ("retried", "sent again"),
                ("refused", "refused by the far side"),
                ("subscriptions_refused", "subscriptions refused"),
            )
            if one[name]
        ]
        if rare:
            yield f"{one['name']}: {', '.join(rare)}"
        if one["dead_letters"]:
            name, count = one["name"], one["dead_letters"]
            yield f"{name}: {count} dead letter(s) (isthmus dlq list {name})"


def _drops(answer: Mapping[str, Any]) -> Iterator[str]:
    places = [("broker", answer["broker"])]
    places += [(f"connector {one['name']}", one) for one in answer["connectors"]]
    places += [(f"route {one['name']}", one) for one in answer["routes"]]
    lines = [
        f"dropped at {place}: " + ", ".join(f"{reason} {n}" for reason, n in one["dropped"].items())
        for place, one in places
        if one["dropped"]
    ]
    if lines:
        yield ""
        yield from lines


def _flow(count: int, before: int, elapsed_s: float | None) -> str:
    """A count, or where a time is given what it grew by per second."""
    if elapsed_s is None:
        return str(count)
    return f"{(count - before) / elapsed_s:.0f}/s" if elapsed_s > 0 else "-/s"


def _total(dropped: Mapping[str, int]) -> str:
    return str(sum(dropped.values()))


def _seconds(since: str, now: str) -> float:
    return max(0.0, (datetime.fromisoformat(now) - datetime.fromisoformat(since)).total_seconds())


def _columns(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table: words to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        cells = (
            cell.rjust(width) if title in _RIGHT else cell.ljust(width)
            for cell, width, title in zip(row, widths, titles, strict=True)
        )
        yield "  ".join(cells).rstrip()
