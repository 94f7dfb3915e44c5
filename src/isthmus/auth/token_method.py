"""Tokens in the Authentication Data of MQTT 5, one packet long.

A client shows a new token with AUTH (0x19) before the old one ends, and stays connected.
"""

from __future__ import annotations

from isthmus.auth.login import DENIED, Login, Verdict
from isthmus.auth.method import Step
from isthmus.auth.token_source import TokenSource

NAME = "OAUTH2-JWT"
"""The name that others use for it as well."""


class TokenMethod:
    """The method for `auth.jwt` with `read_from: auth`."""

    name = NAME

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    def begin(self, login: Login) -> TokenExchange:
        """Begin an exchange."""
        return TokenExchange(self._source, login)

    def still_good(self, verdict: Verdict) -> bool:
        """Whether the key is still trusted."""
        return self._source.still_good(verdict)


class TokenExchange:
    """The token, and yes or no."""

    def __init__(self, source: TokenSource, login: Login) -> None:
        self._source = source
        self._login = login

    async def step(self, data: bytes | None) -> Step:
        """Verify the token."""
        if data is None:
            return Step(None, DENIED)
        return Step(None, await self._source.verify_waiting(data, self._login))
