"""Which settings of a connector may change while its connections stay open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.connectors.queued_lane import QueuedLane
from isthmus.delivery.lane import Lane

if TYPE_CHECKING:
    from isthmus.connectors.settings import ConnectorSettings

LIVE = frozenset(
    {
        "ack_timeout",
        "connect_timeout",
        "drain_rate",
        "failback",
        "filters_per_subscribe",
        "join_filters",
        "lazy",
        "max_dead_letters",
        "local_client_id",
        "max_inflight",
        "rate_limit",
        "reconnect",
        "round_robin",
        "send_retained",
        "spill_after",
        "unsent_bytes",
        "unstored_bytes",
        "unsubscribe_out",
        # These make the identities, which are compared one by one.
        "client_id",
        "client_id_prefix",
        "password",
        "pool",
        "static_client_ids",
        "tls",
        "username",
    }
)
"""Settings whose change leaves open connections alone. Some count for the next connection only."""


def needs_new_connections(before: ConnectorSettings, after: ConnectorSettings) -> bool:
    """Whether all connections have to be made anew, whoever they log in as."""
    return kind_of_lane(before) is not kind_of_lane(after) or any(
        getattr(before, key) != getattr(after, key)
        for key in type(after).model_fields
        if key not in LIVE
    )


def kind_of_lane(settings: ConnectorSettings) -> type[Lane]:
    """The kind of lane that connections with these settings have."""
    return Lane if settings.rate_limit is None and settings.start != "lazy" else QueuedLane
