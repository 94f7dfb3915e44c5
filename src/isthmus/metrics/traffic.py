"""What went through one process since its start, in plain counters."""

from __future__ import annotations


class Traffic:
    """Counters that everything on the message path adds to, and that metrics read.

    `received` and `sent` are messages (PUBLISH packets), `received_bytes` and `sent_bytes` their
    payloads. `packets_received` are packets of any type, `answers` those that were sent and are no
    messages.
    """

    __slots__ = (
        "answers",
        "packets_received",
        "received",
        "received_bytes",
        "sent",
        "sent_bytes",
    )

    def __init__(self) -> None:
        self.answers = 0
        self.packets_received = 0
        self.received = 0
        self.received_bytes = 0
        self.sent = 0
        self.sent_bytes = 0


class Tally:
    """How many messages went one way. Belongs to something that lives long, such as a route."""

    __slots__ = ("messages",)

    def __init__(self) -> None:
        self.messages = 0
