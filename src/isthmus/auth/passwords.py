"""Password files of Mosquitto: `user:hash` lines, and the hashes in them.

Kinds of hash:
    $6$salt$hash             SHA-512 of password and salt, one round (Mosquitto 1.6)
    $7$iterations$salt$hash  PBKDF2-HMAC-SHA512 (Mosquitto 2.0)
    $argon2id$...            PHC text (Mosquitto 2.1); needs the `argon2` extra

Reading fails closed: an empty file, a garbled line or a user named twice is a ConfigError that
tells file and line, never a smaller set of users. (Mosquitto 1.5 took a broken line for a user
that any password fits: CVE-2018-12551.) Comparison takes constant time, and an unknown user costs
the same work as one of the known users, always the same one for the same name, so that time does
not tell who exists even where a file mixes kinds of different cost.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from isthmus.errors import ConfigError

DEFAULT_ITERATIONS = 210_000
"""PBKDF2-HMAC-SHA512 rounds of new entries, as OWASP recommends; Mosquitto 2.0 makes 101."""

MAX_ITERATIONS = 10_000_000
"""More would keep a thread busy for seconds per try; it is a garbled number."""

FAST_ITERATIONS = 200
"""PBKDF2 up to here takes under 0.2 ms, less than handing it to a thread and back."""

SALT_BYTES = 12
"""The salt length that every Mosquitto since 2.0 can read."""

ARGON2_KIB, ARGON2_PASSES, ARGON2_LANES, ARGON2_SALT_BYTES = 47_104, 1, 1, 64
"""The costs of new argon2id entries: those of Mosquitto 2.1, and one of OWASP's proposals."""

MAX_ARGON2_KIB = 1 << 20
MAX_ARGON2_PASSES = 100

_HASH_BYTES = 64
_ARGON2 = re.compile(
    r"\$argon2id\$v=19\$m=(\d{1,8}),t=(\d{1,4}),p=(\d{1,3})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)"
)


class Entry(Protocol):
    """One hash of a password file."""

    @property
    def slow(self) -> bool:
        """Whether a check takes so long that it belongs on a thread."""

    def check(self, password: bytes) -> bool:
        """Whether the password fits, in a time that does not depend on the answer."""


class SHA512Entry(NamedTuple):
    """`$6$`: one round of SHA-512."""

    salt: bytes
    digest: bytes

    @property
    def slow(self) -> bool:
        """Never."""
        return False

    def check(self, password: bytes) -> bool:
        """Whether the password fits."""
        return hmac.compare_digest(hashlib.sha512(password + self.salt).digest(), self.digest)


class PBKDF2Entry(NamedTuple):
    """`$7$`: PBKDF2-HMAC-SHA512."""

    iterations: int
    salt: bytes
    digest: bytes

    @property
    def slow(self) -> bool:
        """Whether there are many iterations."""
        return self.iterations > FAST_ITERATIONS

    def check(self, password: bytes) -> bool:
        """Whether the password fits."""
        fits = hmac.compare_digest(_pbkdf2(password, self.salt, self.iterations), self.digest)
        # HMAC fills its key up with zero bytes: to it, "pw\0" is "pw", and "\0" is no password.
        return fits and not password.endswith(b"\0")


class Argon2Entry(NamedTuple):
    """`$argon2id$`: the whole PHC text."""

    encoded: bytes

    @property
    def slow(self) -> bool:
        """Always."""
        return True

    def check(self, password: bytes) -> bool:
        """Whether the password fits."""
        from argon2 import low_level
        from argon2.exceptions import VerificationError

        try:
            return low_level.verify_secret(self.encoded, password, low_level.Type.ID)
        except VerificationError:
            return False


class PasswordFile:
    """The users of a password file."""

    __slots__ = ("_entries", "_key", "_stand_ins")

    def __init__(self, entries: dict[str, Entry]) -> None:
        if not entries:
            raise ValueError("a password file without users")
        self._entries = entries
        self._stand_ins = tuple(entries.values())
        self._key = secrets.token_bytes(32)

    @classmethod
    def load(cls, path: Path) -> "PasswordFile":
        """Return the users of a file.

        Raises:
            ConfigError: the file cannot be read, has no users, a garbled line, or a user twice.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        entries: dict[str, Entry] = {}
        problems = []
        for number, line in enumerate(data.split(b"\n"), 1):
            try:
                for username, entry in _parse_line(line):
                    if username in entries:
                        raise ValueError("the user is there twice")
                    entries[username] = entry
            except ValueError as error:
                problems.append(f"{path}:{number}: {error}")
        if not entries and not problems:
            problems.append(f"{path}:1: has no users; add one with isthmus passwd")
        if problems:
            raise ConfigError(*problems)
        return cls(entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, username: str) -> bool:
        return username in self._entries

    def entry(self, username: str) -> Entry | None:
        """The hash of a user, for comparing it with that of another file; None if unknown."""
        return self._entries.get(username)

    def is_slow(self, username: str) -> bool:
        """Whether `verify` for this name takes long; known and unknown names look the same."""
        return self._entry(username)[0].slow

    def verify(self, username: str, password: bytes) -> bool:
        """Whether the user exists and the password is right. An empty password never is."""
        entry, known = self._entry(username)
        fits = entry.check(password)
        return fits and known and bool(password)

    def _entry(self, username: str) -> tuple[Entry, bool]:
        # The stand-in is chosen for known users too, so that both take the same steps.
        name = username.encode(errors="surrogatepass")
        number = int.from_bytes(hmac.digest(self._key, name, "sha256")[:8])
        stand_in = self._stand_ins[number % len(self._stand_ins)]
        return self._entries.get(username, stand_in), username in self._entries


def create_entry(
    username: str,
    password: bytes,
    *,
    kind: Literal["argon2id", "sha512-pbkdf2"] = "sha512-pbkdf2",
    iterations: int = DEFAULT_ITERATIONS,
    salt: bytes | None = None,
) -> str:
    """Return a line of a password file, without line break, that Mosquitto reads as well.

    Args:
        username: not empty, without `:`, control characters and blanks at its ends.
        password: not empty.
        kind: `sha512-pbkdf2` is `$7$`; `argon2id` needs the `argon2` extra, and Mosquitto 2.1.
        iterations: 1 to MAX_ITERATIONS, of `$7$` only.
        salt: random unless given.

    Raises:
        ValueError: an argument is out of its range, or the library for `kind` is missing.
    """
    check_new_username(username)
    if not password:
        raise ValueError("the password is empty")
    if kind == "argon2id":
        return f"{username}:{_create_argon2(password, salt)}"
    if not 1 <= iterations <= MAX_ITERATIONS:
        raise ValueError(f"iterations must be between 1 and {MAX_ITERATIONS}")
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    digest = _pbkdf2(password, salt, iterations)
    encoded = (base64.b64encode(part).decode() for part in (salt, digest))
    return f"{username}:$7${iterations}${'$'.join(encoded)}"


def check_new_username(username: str) -> None:
    """Raise ValueError if the name cannot stand in a file of users."""
    check_username(username)
    if ":" in username or username.startswith("#"):
        raise ValueError("a user name must not hold ':' or begin with '#'")


def _create_argon2(password: bytes, salt: bytes | None) -> str:
    _need_argon2()
    from argon2 import low_level

    encoded: bytes = low_level.hash_secret(
        password,
        secrets.token_bytes(ARGON2_SALT_BYTES) if salt is None else salt,
        time_cost=ARGON2_PASSES,
        memory_cost=ARGON2_KIB,
        parallelism=ARGON2_LANES,
        hash_len=_HASH_BYTES,
        type=low_level.Type.ID,
    )
    return encoded.decode()


def has_argon2() -> bool:
    """Whether the library for argon2id is installed."""
    try:
        import argon2  # noqa: F401 - only here, as few need it
    except ImportError:
        return False
    return True


def _need_argon2() -> None:
    if not has_argon2():
        raise ValueError(
            "the hash is argon2id, for which a library is missing: pip install 'isthmus[argon2]'"
        )


def _pbkdf2(password: bytes, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", password, salt, iterations, _HASH_BYTES)


def _parse_line(raw: bytes) -> Iterator[tuple[str, Entry]]:
    """Yield the user of a line, or nothing for a comment or blank line. No error repeats it."""
    if raw.startswith(b"#") or not raw.strip():
        return
    try:
        line = raw.decode()
    except UnicodeDecodeError:
        raise ValueError("the line is not UTF-8 text") from None
    username, colon, text = line.partition(":")
    if not colon:
        raise ValueError("the line is not 'user:hash'")
    username = username.strip()
    check_username(username)
    yield username, _parse_hash(text.strip())


def check_username(username: str) -> None:
    """Raise ValueError if no line of a file of users could hold the name."""
    if not username:
        raise ValueError("the user name is empty")
    if username != username.strip():
        raise ValueError("the user name begins or ends with a blank")
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in username):
        raise ValueError("the user name holds a control character")


def _parse_hash(text: str) -> Entry:
    if not text:
        raise ValueError("the hash is missing")
    if text.startswith("$argon2id$"):
        return _parse_argon2(text)
    match text.split("$"):
        case ["", "6", salt, digest]:
            return SHA512Entry(_decode(salt), _decode_digest(digest))
        case ["", "7", count, salt, digest]:
            if not (count.isascii() and count.isdigit() and len(count) < 10):
                raise ValueError("the number of iterations is no number")
            iterations = int(count)
            if not 1 <= iterations <= MAX_ITERATIONS:
                raise ValueError(f"the iterations must be between 1 and {MAX_ITERATIONS}")
            return PBKDF2Entry(iterations, _decode(salt), _decode_digest(digest))
    if text.startswith("$"):
        raise ValueError("the hash is of an unknown kind; use isthmus passwd to make it")
    raise ValueError("the password is not hashed; run mosquitto_passwd -U on the file")


def _parse_argon2(text: str) -> Entry:
    match = _ARGON2.fullmatch(text)
    if match is None:
        raise ValueError("the argon2id hash is garbled")
    memory, passes, lanes = (int(part) for part in match.groups()[:3])
    if not (
        1 <= lanes <= 255
        and 8 * lanes <= memory <= MAX_ARGON2_KIB
        and 1 <= passes <= MAX_ARGON2_PASSES
    ):
        raise ValueError("the costs of the argon2id hash are out of range")
    for part in (match[4], match[5]):
        if len(_decode(part + "=" * (-len(part) % 4))) < 8:
            raise ValueError("the argon2id hash is cut off")
    _need_argon2()
    return Argon2Entry(text.encode())


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the hash is no base64") from None
    if not data:
        raise ValueError("the salt or hash is empty")
    return data


def _decode_digest(text: str) -> bytes:
    digest = _decode(text)
    if len(digest) != _HASH_BYTES:
        raise ValueError(f"the hash has {len(digest)} bytes instead of {_HASH_BYTES}")
    return digest
