"""The credentials of SCRAM-SHA-256: lines that PostgreSQL could read as well.

    user:SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>

A stolen file does not let anybody in as a user by itself, but passwords can be guessed from it. The
first line holds no user: `:<base64>` is a secret from which the salts of unknown users are made, so
that they stay the same over a restart, as those of real users do. Reading fails closed as that of
password files does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from pathlib import Path
from typing import NamedTuple

from isthmus.auth.passwords import check_new_username, check_username
from isthmus.auth.saslprep import saslprep
from isthmus.errors import ConfigError

DEFAULT_ITERATIONS = 600_000
"""PBKDF2-HMAC-SHA256 rounds of new entries, as OWASP recommends. The client pays for them."""

MIN_ITERATIONS = 4096
"""The least that RFC 7677 allows."""

MAX_ITERATIONS = 10_000_000

SALT_BYTES = 16
KEY_BYTES = 32
KIND = "SCRAM-SHA-256"


class ScramEntry(NamedTuple):
    """What the server knows of one user (RFC 5802, 3)."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes


class ScramFile:
    """The users of a credentials file."""

    __slots__ = ("_entries", "_secret", "_stand_ins")

    def __init__(self, entries: dict[str, ScramEntry], secret: bytes | None = None) -> None:
        if not entries:
            raise ValueError("a credentials file without users")
        self._entries = entries
        self._stand_ins = tuple(entries.values())
        self._secret = secrets.token_bytes(KEY_BYTES) if secret is None else secret

    @classmethod
    def load(cls, path: Path) -> ScramFile:
        """Return the users of a file.

        Raises:
            ConfigError: the file cannot be read, has no users, a garbled line, or a user twice.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        entries: dict[str, ScramEntry] = {}
        secret: bytes | None = None
        problems = []
        for number, raw in enumerate(data.split(b"\n"), 1):
            if raw.startswith(b"#") or not raw.strip():
                continue
            try:
                username, text = _split(raw)
                if not username:
                    secret = _decode(text)
                elif username in entries:
                    raise ValueError("the user is there twice")
                else:
                    entries[username] = _parse(text)
            except ValueError as error:
                problems.append(f"{path}:{number}: {error}")
        if not entries and not problems:
            problems.append(f"{path}:1: has no users; add one with isthmus passwd --scram")
        if problems:
            raise ConfigError(*problems)
        return cls(entries, secret)

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, username: str) -> ScramEntry | None:
        """What is known of a user; None if there is no such user."""
        return self._entries.get(username)

    def entry_or_stand_in(self, username: str) -> ScramEntry:
        """What is known of a user, or for an unknown name an entry that no password opens.

        A stand-in looks like the entry of some real user, always the same for the same name.
        """
        name = username.encode(errors="surrogatepass")
        digest = hmac.digest(self._secret, name, "sha512")
        model = self._stand_ins[int.from_bytes(digest[:8]) % len(self._stand_ins)]
        salt = hmac.digest(self._secret, b"salt" + name, "sha512")[: len(model.salt)]
        # Nobody knows what has this hash.
        stand_in = model._replace(salt=salt, stored_key=secrets.token_bytes(KEY_BYTES))
        return self._entries.get(username, stand_in)


def derive(password: str, salt: bytes, iterations: int) -> ScramEntry:
    """Return the entry of a password (RFC 5802, 3).

    Raises:
        ValueError: the password holds what SASLprep forbids.
    """
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    return ScramEntry(iterations, salt, stored_key, hmac.digest(salted, b"Server Key", "sha256"))


def create_scram_entry(
    username: str, password: str, *, iterations: int = DEFAULT_ITERATIONS
) -> str:
    """Return a line of a credentials file, without line break.

    Raises:
        ValueError: an argument is out of its range, or holds what SASLprep forbids.
    """
    check_new_username(username)
    if saslprep(username) != username:
        raise ValueError("the user name is not as SASLprep (RFC 4013) writes it")
    if not password:
        raise ValueError("the password is empty")
    if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise ValueError(f"iterations must be between {MIN_ITERATIONS} and {MAX_ITERATIONS}")
    entry = derive(password, secrets.token_bytes(SALT_BYTES), iterations)
    salt, stored, server = (base64.b64encode(part).decode() for part in entry[1:])
    return f"{username}:{KIND}${iterations}:{salt}${stored}:{server}"


def create_secret() -> str:
    """Return the line from which the salts of unknown users are made."""
    return f":{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"


def _split(raw: bytes) -> tuple[str, str]:
    try:
        line = raw.decode()
    except UnicodeDecodeError:
        raise ValueError("the line is not UTF-8 text") from None
    username, colon, text = line.partition(":")
    if not colon:
        raise ValueError(f"the line is not 'user:{KIND}$...'")
    if username:
        check_username(username)
    return username, text.strip()


def _parse(text: str) -> ScramEntry:
    match text.split("$"):
        case [kind, costs, keys] if kind == KIND:
            count, _, salt = costs.partition(":")
            stored, _, server = keys.partition(":")
        case _:
            raise ValueError("is no SCRAM-SHA-256 entry; make one with isthmus passwd --scram")
    if not (count.isascii() and count.isdigit() and len(count) < 10):
        raise ValueError("the number of iterations is no number")
    if not MIN_ITERATIONS <= int(count) <= MAX_ITERATIONS:
        raise ValueError(f"the iterations must be between {MIN_ITERATIONS} and {MAX_ITERATIONS}")
    entry = ScramEntry(int(count), _decode(salt), _decode(stored), _decode(server))
    if len(entry.stored_key) != KEY_BYTES or len(entry.server_key) != KEY_BYTES:
        raise ValueError(f"a key has not {KEY_BYTES} bytes")
    return entry


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a salt or key is no base64") from None
    if len(data) < 8:
        raise ValueError("a salt or key is cut off")
    return data
