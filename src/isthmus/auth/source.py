"""A source of identities: one way to verify a login, such as a password file.

Sources are asked in a fixed order, and the first that knows the user decides. "Knows" is each
source's own matter: a password file knows the names in it, a token source knows tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from isthmus.auth.login import Login, Verdict


class Unsure(Enum):
    """What a source says when it gives no verdict."""

    UNKNOWN = 0
    """It does not know the user: the next source is asked."""
    WAIT = 1
    """It has to think: `ask` tells."""


class Source(Protocol):
    """One way to verify a login. Belongs to the event loop."""

    name: str
    """Its key in the configuration."""

    def is_guess(self, login: Login) -> bool:
        """Whether it would check a password that it does not remember as right.

        What cannot be guessed, such as the signature of a token, is none.
        """

    def at_once(self, login: Login) -> Verdict | Unsure:
        """Answer without waiting, where that is possible."""

    async def ask(self, login: Login, gone: Callable[[], bool]) -> Verdict | Unsure:
        """Answer after `at_once` said WAIT; never says that itself. Cancelling is safe.

        `gone` is asked when the turn has come: for a client that has gone nothing is done, and the
        answer is a refusal.

        Raises:
            ProtocolViolation: The question cannot be answered now, with the reason code.
        """

    def still_good(self, verdict: Verdict) -> bool:
        """Whether a verdict of an earlier source with this name would be given again."""

    def start(self) -> None:
        """Begin what runs in the background."""

    def close(self) -> None:
        """End it. Who waits in `ask` gets a refusal, and asks again if there is a successor."""
