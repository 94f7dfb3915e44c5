"""Who stands behind a connection, as far as rights are concerned."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """The identity that rights are given to. It belongs to the session, not to one packet.

    `username` is None for anonymous clients, and has been verified otherwise; `client_id` is what
    the client is really called, also when the broker assigned it.
    """

    username: str | None
    client_id: str
