"""Whether the process can do its work now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isthmus.web.process import Process


def readiness(process: Process) -> dict[str, Any]:
    """Whether clients can connect and what has to be kept can be written, in plain values.

    `not_ready` says what is in the way. The state of connectors stands apart: a far side that is
    away is no reason to send the clients nearby to somebody else.
    """
    closed = [listener.where for listener in process.listeners if not listener.open]
    reasons = [f"listener {where} accepts no connections" for where in closed]
    store = process.store
    if store is not None and store.failure is not None:
        reasons.append(f"the store cannot be written: {store.failure}")
    return {
        "ready": not reasons,
        "not_ready": reasons,
        "listeners": {listener.where: listener.open for listener in process.listeners},
        "store": None if store is None else store.failure is None,
        "connectors": {
            name: {
                "state": connector.state,
                "connections": connector.figures.read()["connections_up"],
                "wanted": connector.wanted,
            }
            for name, connector in process.connectors.items()
        },
    }
