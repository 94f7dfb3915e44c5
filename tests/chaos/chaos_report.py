"""What is said of a crash test: what is wrong in words, and systems side by side in a table."""

from __future__ import annotations

from collections.abc import Mapping

from chaos_course import Course, Result
from chaos_nine import NineCourse, NineResult, longest

DUPLICATES_PERCENT = 0.14
"""QoS 1 may bring so many messages again over the nine faults: what the best of Mosquitto's ways to
store brought."""

BACK_S = 2.0
"""So long after a fault is over a message has to be there."""


def failures(course: Course, result: Result) -> list[str]:
    """What is wrong with a course of random faults, in words."""
    account = result.account
    found = []
    if account.lost:
        found.append(f"{account.lost} acknowledged messages lost, such as {account.lost_examples}")
    if account.invented:
        found.append(f"{account.invented} messages invented")
    if account.disordered and course.in_order:
        found.append(
            f"{account.disordered} first deliveries out of order, such as {result.stories[0]}"
        )
    if result.turned_by.get("publisher"):
        found.append("the publisher itself did not keep the order: a fault of this test")
    if account.refused:
        found.append(f"{account.refused} messages refused")
    if not account.acknowledged:
        found.append("nothing was acknowledged")
    most = 0 if course.qos == 2 else sum(result.faults.values()) * course.again
    if account.duplicates > most:
        found.append(f"{account.duplicates} messages arrived again, {most} may")
    # With several hops, what comes first may have been behind the fault already.
    longest_s = max(result.new_s, default=0.0)
    if longest_s > BACK_S:
        found.append(f"back after {longest_s:.2f} s, {BACK_S:g} s may pass")
    return found


def nine_failures(course: NineCourse, result: NineResult) -> list[str]:
    """What is wrong with the nine faults, in words."""
    total = result.total
    found = []
    if total.lost:
        found.append(f"{total.lost} acknowledged messages lost")
    if total.disordered:
        found.append(f"{total.disordered} first deliveries out of order")
    if result.invented:
        found.append(f"{result.invented} messages invented")
    if result.refused:
        found.append(f"{result.refused} messages refused")
    if course.qos == 2 and total.duplicates:
        found.append(f"{total.duplicates} messages of QoS 2 arrived again")
    if total.duplicates_percent > DUPLICATES_PERCENT:
        found.append(f"{total.duplicates_percent:.2f} % arrived again, {DUPLICATES_PERCENT} % may")
    for fault, tally in result.tallies.items():
        most = course.window * len(tally.back_s) if course.window is not None else None
        if most is not None and tally.duplicates > most:
            found.append(f"{fault}: {tally.duplicates} arrived again, {most} may")
        longest_s = longest(tally.back_s)
        if longest_s < 0:
            found.append(f"{fault}: nothing arrived any more")
        elif longest_s > BACK_S:
            found.append(f"{fault}: back after {longest_s:.2f} s, {BACK_S:g} s may pass")
    return found


def course_rows(results: Mapping[str, Result]) -> tuple[list[str], list[list[str]]]:
    """Head and body of a table: what came of a course of random faults, a system a column."""
    columns = [result.as_data() for result in results.values()]
    return ["", *results], [[key, *(str(data[key]) for data in columns)] for key in columns[0]]


def nine_rows(results: Mapping[str, NineResult]) -> tuple[list[str], list[list[str]]]:
    """Head and body of a table: a fault a row, and the systems side by side."""
    head = ["fault"]
    for system in results:
        head += [f"{system}: acknowledged", "arrived", "lost", "again", "out of order"]
        head += ["first, s", "new, s"]
    totals = {system: result.total for system, result in results.items()}
    body = []
    for fault in [*next(iter(results.values())).tallies, "all"]:
        row = [fault]
        for system, result in results.items():
            tally = totals[system] if fault == "all" else result.tallies[fault]
            row += [
                f"{tally.acknowledged:,}",
                f"{tally.arrived:,}",
                f"{tally.lost:,}",
                f"{tally.duplicates:,} ({tally.duplicates_percent:.2f} %)",
                f"{tally.disordered:,}",
                _seconds(tally.back_s),
                _seconds(tally.new_s),
            ]
        body.append(row)
    return head, body


NINE_NOTE = (
    "What is acknowledged in the turn of one fault may arrive in the next, so the two figures of a "
    "row may differ without a loss; only `lost` counts what never arrived."
)


def _seconds(times_s: list[float]) -> str:
    longest_s = longest(times_s)
    return f"{longest_s:.2f}" if longest_s >= 0 else "never"
