"""Keys that tokens are verified with, and the one rule that matters about them.

A key says by its kind which algorithms it is for; what the header of a token says only chooses
among those. So a token can never make a public key serve as the secret of an HMAC, and `none` is no
algorithm. Sources: a shared secret, PEM files (public keys or certificates), and JWK sets
(RFC 7517), of which keys of unknown kinds are left out, as the RFC wants it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from isthmus.auth.algorithms import CURVES, HMAC, RSA
from isthmus.errors import ConfigError

MIN_RSA_BITS = 2048

MAX_KEYS = 256
"""Keys of one set; more is no key set."""

MAX_TRIED = 8
"""Keys that are tried for a token that does not say which one is meant."""


class TokenKey(NamedTuple):
    """One key. `identity` is equal for equal keys; `kid` is its name in a JWK set, or None."""

    kid: str | None
    algorithms: tuple[str, ...]
    material: Any
    identity: bytes


class TokenKeys:
    """A set of keys. Immutable."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Collection[TokenKey]) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[TokenKey]:
        return iter(self._keys)

    def find(self, kid: str | None, algorithm: str) -> list[TokenKey]:
        """The keys that a token with this header may have been signed with, `MAX_TRIED` at most."""
        found = [
            key
            for key in self._keys
            if algorithm in key.algorithms and (kid is None or key.kid in (None, kid))
        ]
        return found[:MAX_TRIED]


def secret_key(secret: bytes) -> TokenKey:
    """Return the key of a shared secret.

    Raises:
        ValueError: it is too short to be one.
    """
    algorithms = tuple(name for name, size in HMAC if len(secret) >= size)
    if not algorithms:
        raise ValueError(
            f"a secret for tokens needs 32 bytes or more (RFC 7518), not {len(secret)}"
        )
    return TokenKey(None, algorithms, secret, secret)


def load_pem(path: Path) -> TokenKey:
    """Return the public key of a PEM file: a key, or a certificate.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    data = _read(path)
    try:
        return pem_key(data)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def pem_key(data: bytes) -> TokenKey:
    """Return the key of the bytes of a PEM file; ValueError says what is wrong with them."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise ValueError(_missing("cryptography")) from None
    if b"PRIVATE KEY" in data:
        raise ValueError("holds a private key; only the issuer of the tokens should have that")
    try:
        if b"BEGIN CERTIFICATE" in data:
            public: Any = x509.load_pem_x509_certificate(data).public_key()
        else:
            public = load_pem_public_key(data)
    except Exception:  # noqa: BLE001 - of several kinds, and what they say may repeat the file
        raise ValueError("holds no public key or certificate in PEM") from None
    return _public_key(None, public)


def load_jwks(path: Path) -> TokenKeys:
    """Return the keys of a file with a JWK set.

    Raises:
        ConfigError: the file cannot be read, or holds no key that can be used.
    """
    try:
        return jwks(_read(path), secrets=True)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def jwks(data: bytes, *, secrets: bool) -> TokenKeys:
    """Return the keys of a JWK set.

    `secrets` says whether shared secrets are taken: never from a URL, which is public.

    Raises:
        ValueError: it is no JWK set, or has no key that can be used.
    """
    try:
        decoded = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("holds no JSON") from None
    entries = decoded.get("keys") if isinstance(decoded, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("holds no JWK set")
    if len(entries) > MAX_KEYS:
        raise ValueError(f"holds more than {MAX_KEYS} keys")
    keys = [key for entry in entries if (key := _jwk(entry, secrets=secrets)) is not None]
    if not keys:
        raise ValueError("holds no key that tokens can be verified with")
    return TokenKeys(keys)


def _jwk(entry: Mapping[str, Any], *, secrets: bool) -> TokenKey | None:
    """The key of one entry; None if it is not for us (RFC 7517, 5)."""
    uses = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(uses, list) or "verify" not in uses:
        return None
    kid = entry.get("kid")
    if kid is not None and not isinstance(kid, str):
        return None
    try:
        import jwt
    except ImportError:
        raise ValueError(_missing("PyJWT")) from None
    kind = entry.get("kty")
    try:
        if kind == "oct" and secrets:
            key = secret_key(jwt.algorithms.HMACAlgorithm.from_jwk(dict(entry)))
        elif kind == "RSA":
            key = _public_key(kid, jwt.algorithms.RSAAlgorithm.from_jwk(dict(entry)))
        elif kind == "EC":
            key = _public_key(kid, jwt.algorithms.ECAlgorithm.from_jwk(dict(entry)))
        elif kind == "OKP":
            key = _public_key(kid, jwt.algorithms.OKPAlgorithm.from_jwk(dict(entry)))
        else:
            return None
    except (ValueError, TypeError, KeyError, jwt.PyJWTError):
        return None
    algorithms = key.algorithms
    if "alg" in entry:
        algorithms = tuple(name for name in algorithms if name == entry["alg"])
    return key._replace(kid=kid, algorithms=algorithms) if algorithms else None


def _public_key(kid: str | None, public: Any) -> TokenKey:
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    algorithms: tuple[str, ...]
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size < MIN_RSA_BITS:
            raise ValueError(f"holds an RSA key of less than {MIN_RSA_BITS} bits")
        algorithms = RSA
    elif isinstance(public, ec.EllipticCurvePublicKey):
        if public.curve.name not in CURVES:
            raise ValueError("holds a key on a curve that tokens do not use")
        algorithms = (CURVES[public.curve.name],)
    elif isinstance(public, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        algorithms = ("EdDSA",)
    else:
        raise ValueError("holds no public key of a kind that tokens use")
    identity = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return TokenKey(kid, algorithms, public, identity)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _missing(library: str) -> str:
    return f"needs {library}, which is not installed: pip install 'isthmus[jwt]'"
