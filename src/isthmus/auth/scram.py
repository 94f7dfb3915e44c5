"""SCRAM-SHA-256 (RFC 5802, RFC 7677) as a method of enhanced authentication.

The password never leaves the client, and the server proves that it knows the user too. What fails
looks the same whatever the reason: an unknown user gets a salt like anybody, and the exchange goes
on to its end. Channel binding is not offered.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable

from isthmus.auth.login import DENIED, Login, Verdict
from isthmus.auth.method import Step
from isthmus.auth.saslprep import saslprep
from isthmus.auth.scram_file import KIND, ScramEntry, ScramFile

NONCE_BYTES = 18
MAX_NONCE_CHARACTERS = 1024


class ScramMethod:
    """The method for the users of a credentials file."""

    name = KIND
    guessable = True

    def __init__(self, users: ScramFile, *, nonce: Callable[[], str] | None = None) -> None:
        self._users = users
        self._nonce = nonce or _nonce

    def begin(self, login: Login) -> ScramExchange:
        """Begin an exchange; user name and password of CONNECT are not used."""
        del login
        return ScramExchange(self._users, self._nonce())

    def still_good(self, verdict: Verdict) -> bool:
        """Whether the user is there with the same keys."""
        username = verdict.username
        return username is not None and self._users.entry(username) == verdict.proof


class ScramExchange:
    """One exchange, from the server's side: two messages of the client, two answers."""

    def __init__(self, users: ScramFile, nonce: str) -> None:
        self._users = users
        self._server_nonce = nonce
        self._username = ""
        self._entry: ScramEntry | None = None
        self._header = ""
        self._messages = ""

    async def step(self, data: bytes | None) -> Step:
        """Take the next message of the client."""
        try:
            if self._entry is None:
                if data is None:
                    return Step(b"")  # the client has to begin (RFC 5802, 5)
                return self._first(data.decode())
            return self._final((data or b"").decode())
        except ValueError:  # UnicodeDecodeError and binascii.Error too
            return self._denied()

    def _denied(self) -> Step:
        """The end; with the name that the client gave, for the log."""
        return Step(None, DENIED._replace(username=self._username or None))

    def _first(self, message: str) -> Step:
        """Take client-first-message, answer with server-first-message."""
        binding, identity, bare = message.split(",", 2)
        if binding not in ("n", "y"):
            raise ValueError("channel binding is not offered")
        self._header = f"{binding},{identity},"
        name, nonce, *_ = bare.split(",")  # extensions that are not mandatory are left unread
        self._username = saslprep(_unquote(_value(name, "n")))
        if identity and _unquote(_value(identity, "a")) != self._username:
            raise ValueError("acting for another user is not possible")
        client_nonce = _value(nonce, "r")
        if not client_nonce or len(client_nonce) > MAX_NONCE_CHARACTERS:
            raise ValueError("the nonce is empty or too long")
        self._server_nonce = client_nonce + self._server_nonce
        self._entry = self._users.entry_or_stand_in(self._username)
        salt = base64.b64encode(self._entry.salt).decode()
        answer = f"r={self._server_nonce},s={salt},i={self._entry.iterations}"
        self._messages = f"{bare},{answer}"
        return Step(answer.encode())

    def _final(self, message: str) -> Step:
        """Take client-final-message, answer with server-final-message."""
        entry = self._entry
        assert entry is not None
        without, _, proof = message.rpartition(",")
        binding, nonce, *_ = without.split(",")
        header = base64.b64encode(self._header.encode()).decode()
        given = base64.b64decode(_value(proof, "p"), validate=True)
        signed = f"{self._messages},{without}".encode()
        signature = hmac.digest(entry.stored_key, signed, "sha256")
        if len(given) != len(signature):
            raise ValueError("the proof has another length")
        client_key = bytes(one ^ other for one, other in zip(given, signature, strict=True))
        fits = hmac.compare_digest(hashlib.sha256(client_key).digest(), entry.stored_key)
        known = self._users.entry(self._username) is not None
        same = hmac.compare_digest(_value(nonce, "r").encode(), self._server_nonce.encode())
        if not (fits and known and same and _value(binding, "c") == header):
            return self._denied()
        answer = base64.b64encode(hmac.digest(entry.server_key, signed, "sha256"))
        return Step(b"v=" + answer, Verdict(True, self._username, by=KIND, proof=entry))


def _value(field: str, name: str) -> str:
    letter, equals, value = field.partition("=")
    if letter != name or not equals:
        raise ValueError(f"{name}= is missing")
    return value


def _unquote(name: str) -> str:
    """Read a saslname: `=2C` is a comma and `=3D` an equals sign."""
    parts = name.split("=")
    text = parts[0]
    for part in parts[1:]:
        if part[:2] not in ("2C", "3D"):
            raise ValueError("the user name holds a bare '='")
        text += ("," if part[:2] == "2C" else "=") + part[2:]
    if not text:
        raise ValueError("the user name is empty")
    return text


def _nonce() -> str:
    return base64.b64encode(secrets.token_bytes(NONCE_BYTES)).decode()
