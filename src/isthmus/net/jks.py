"""Key stores as Java wrote them before version 9 (JKS): from their bytes to PEM and DER.

All numbers are big-endian; a field is a length and that many bytes.

    FEEDFEED, version (1 or 2), number of entries
    entry: kind, alias, date, and then
        kind 1: a private key, the number of its certificates, these certificates
        kind 2: a certificate that is trusted
    certificate: its type (not in version 1), its DER
    SHA-1 over password, "Mighty Aphrodite" and everything before

Certificates are not encrypted. A private key is, and has a password of its own, which is that of
the store unless somebody chose another. Nothing here needs a package for cryptography: all of it is
SHA-1, and what it gives is for OpenSSL to judge.
"""

from __future__ import annotations

import base64
import hashlib
from typing import NamedTuple

from isthmus.errors import ConfigError

MAX_ENTRIES = 10_000
"""Java's own store of authorities has about 150."""

MAX_CHAIN = 100
"""As many certificates as OpenSSL follows from one to its issuer."""

MAX_KEY_BYTES = 65_536
"""An RSA key of 16,384 bits has 9 KiB."""

_KEY, _CERTIFICATE = 1, 2
_SHA1_BYTES = 20
_SALT_BYTES = 20
_MOST_NAMED = 5
_LONGEST_NAME = 64

_SEQUENCE, _OCTETS = 0x30, 0x04
_PROTECTOR = bytes.fromhex("060a2b060104012a02110101")
"""The object identifier of Sun's key protector, 1.3.6.1.4.1.42.2.17.1.1, as DER."""


class _Key(NamedTuple):
    alias: str
    protected: bytes
    chain: list[bytes]


class _Store(NamedTuple):
    keys: list[_Key]
    trusted: list[bytes]


def identity(data: bytes, store_password: str | None, key_password: str | None) -> bytes:
    """Return the private key of a store and its chain, as PEM and not encrypted.

    Args:
        data: the whole store.
        store_password: what its sum is made with.
        key_password: what the key is encrypted with; None if it is the same.

    Raises:
        ConfigError: it is damaged, a password is wrong, or it has not exactly one private key.
    """
    store = _parse(data)
    if store_password is None:
        raise ConfigError("store_password is missing")
    body, found = data[:-_SHA1_BYTES], data[-_SHA1_BYTES:]
    if _sha1(_as_java(store_password), b"Mighty Aphrodite", body) != found:
        raise ConfigError("store_password does not open it, or it is damaged")
    key = _only_key(store)
    if not key.chain:
        raise ConfigError(f"the private key {key.alias} has no certificate")
    secret = store_password if key_password is None else key_password
    plain = _unprotected(key, secret)
    if plain is None:
        raise ConfigError(
            f"key_password does not open the private key {key.alias}"
            if key_password is not None
            else f"store_password does not open the private key {key.alias}, so key_password is "
            "needed"
        )
    return _pem("PRIVATE KEY", plain) + b"".join(_pem("CERTIFICATE", one) for one in key.chain)


def trusted(data: bytes) -> bytes:
    """Return the certificates that a store trusts, as DER one after the other.

    They can be read without its password, and are: a file of PEM certificates has no sum either.

    Raises:
        ConfigError: it is damaged, or has none.
    """
    store = _parse(data)
    if not store.trusted:
        raise ConfigError("it has no trusted certificate")
    return b"".join(store.trusted)


def _only_key(store: _Store) -> _Key:
    """The one private key; a store has no order, so that none of several is the right one."""
    if not store.keys:
        hint = "; its certificates can be 'ca' or 'client_ca'" if store.trusted else ""
        raise ConfigError(f"it has no private key{hint}")
    if len(store.keys) > 1:
        names = ", ".join(key.alias for key in store.keys[:_MOST_NAMED])
        if len(store.keys) > _MOST_NAMED:
            names += f", and {len(store.keys) - _MOST_NAMED} more"
        raise ConfigError(
            f"it has several private keys: {names}; copy the one to use into a store of its own: "
            "keytool -importkeystore -srckeystore old.jks -destkeystore new.p12 -deststoretype "
            "PKCS12 -srcalias ALIAS"
        )
    return store.keys[0]


def _unprotected(key: _Key, password: str) -> bytes | None:
    """Return the key as PKCS#8, None if the password is wrong."""
    try:
        whole, end = _der(key.protected, 0, _SEQUENCE)
        algorithm, at = _der(whole, 0, _SEQUENCE)
        content, at = _der(whole, at, _OCTETS)
        known = algorithm.startswith(_PROTECTOR) and len(content) >= _SALT_BYTES + _SHA1_BYTES
        known = known and end == len(key.protected) and at == len(whole)
    except (IndexError, ValueError):
        known = False
    if not known:
        raise ConfigError(f"the private key {key.alias} is not encrypted as Java does it in JKS")
    secret = _as_java(password)
    last, hidden = content[:_SALT_BYTES], content[_SALT_BYTES:-_SHA1_BYTES]
    stream = bytearray()
    while len(stream) < len(hidden):
        last = _sha1(secret, last)
        stream += last
    plain = bytes(one ^ other for one, other in zip(hidden, stream, strict=False))
    return plain if _sha1(secret, plain) == content[-_SHA1_BYTES:] else None


def _der(data: bytes, at: int, tag: int) -> tuple[bytes, int]:
    """Return the content of the element of DER that begins at `at`, and where the next one does.

    Raises:
        ValueError: it is another element, or longer than the data.
        IndexError: the data ends in its head.
    """
    size, begin = data[at + 1], at + 2
    if size & 0x80:
        begin += size & 0x7F
        size = int.from_bytes(data[at + 2 : begin], "big")
    if data[at] != tag or begin + size > len(data):
        raise ValueError
    return data[begin : begin + size], begin + size


def _as_java(password: str) -> bytes:
    # What is no Unicode, such as a wrong byte in the environment, is a wrong password.
    return password.encode("utf-16-be", "surrogatepass")


def _sha1(*parts: bytes) -> bytes:
    # The format has no other, so a system that forbids SHA-1 for new things has to compute it too.
    return hashlib.sha1(b"".join(parts), usedforsecurity=False).digest()


def _pem(label: str, der: bytes) -> bytes:
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n".encode()


# -- the entries -----------------------------------------------------------------------------------


def _parse(data: bytes) -> _Store:
    reader = _Reader(data[:-_SHA1_BYTES])
    reader.take(4)
    version, count = reader.number(4), reader.number(4)
    if version not in (1, 2):
        raise ConfigError(f"it has version {version}, and 1 and 2 are known")
    if count > MAX_ENTRIES:
        raise ConfigError(f"it claims {count} entries; at most {MAX_ENTRIES} are read")
    store = _Store([], [])
    for _ in range(count):
        kind, alias = reader.number(4), reader.name()
        reader.take(8)  # when it was made
        if kind == _KEY:
            store.keys.append(_Key(alias, reader.key(), reader.chain(version)))
        elif kind == _CERTIFICATE:
            store.trusted.append(reader.certificate(version))
        else:
            raise ConfigError(f"it is damaged: no entry has the kind {kind}")
    if not reader.at_end:
        raise ConfigError("it is damaged: there is something behind its end")
    return store


class _Reader:
    """Takes one part after the other; the length of none is believed."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise ConfigError("it is damaged: it ends too early")
        part = self._data[self._at : end]
        self._at = end
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def name(self) -> str:
        """A text as an error can show it: a file must not write to a terminal."""
        name = self.take(self.number(2)).decode(errors="replace")
        return ascii(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}...")

    def key(self) -> bytes:
        size = self.number(4)
        if size > MAX_KEY_BYTES:
            raise ConfigError(
                f"it claims a private key of {size} bytes; at most {MAX_KEY_BYTES} are read"
            )
        return self.take(size)

    def chain(self, version: int) -> list[bytes]:
        count = self.number(4)
        if count > MAX_CHAIN:
            raise ConfigError(
                f"it claims a chain of {count} certificates; at most {MAX_CHAIN} are read"
            )
        return [self.certificate(version) for _ in range(count)]

    def certificate(self, version: int) -> bytes:
        kind = self.name() if version > 1 else "'X.509'"
        if kind != "'X.509'":
            raise ConfigError(f"it has a certificate of the type {kind}, and only X.509 is read")
        return self.take(self.number(4))
