"""Certificates and keys, wherever they are written: files, the configuration, stores.

`ssl` reads its own certificates from files only. What is no PEM file is therefore shown to it as
one that is in memory, so that a key of a store or of the configuration never gets onto a disk.
"""

from __future__ import annotations

import base64
import binascii
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isthmus.config.secrets import Secret
from isthmus.errors import ConfigError
from isthmus.net.tls_settings import Source, TLSSettings

AUTHORITY_ENDINGS = (".pem", ".crt", ".cer")
"""Files that are read of a folder of authorities."""

MAX_FILE_BYTES = 16 << 20
"""Revocation lists are the biggest of these files; more is the wrong path."""

_PEM = b"-----BEGIN "
_JKS, _JCEKS = b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce"
"""How the stores begin that Java wrote before version 9. Their content tells, not their name."""

_DER_SEQUENCE = 0x30
"""How a PKCS#12 store begins, and a certificate in DER."""


def check_readable(key: str, source: Source) -> None:
    """Name the file that is missing; OpenSSL only says that one is.

    Raises:
        ConfigError: it cannot be opened.
    """
    if isinstance(source, Path):
        try:
            with source.open("rb"):
                pass
        except OSError as error:
            raise ConfigError(f"{key}: {source}: {error.strerror}") from error


def read(key: str, source: Source) -> bytes:
    """Return what a file, or the configuration in its place, holds.

    Raises:
        ConfigError: it cannot be read, or is too big.
    """
    if not isinstance(source, Path):
        return source.content.get_secret_value().encode()
    try:
        with source.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{key}: {source}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{key}: {source} is bigger than {MAX_FILE_BYTES >> 20} MiB")
    return data


@contextmanager
def as_file(source: Source | bytes | None) -> Iterator[str | None]:
    """The path of a file with that content, for as long as the context lasts; None for None."""
    if source is None:
        yield None
    elif isinstance(source, Path):
        yield str(source)
    else:
        data = source if isinstance(source, bytes) else read("", source)
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("isthmus", os.MFD_CLOEXEC)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                yield f"/proc/self/fd/{fd}"
        else:
            with tempfile.TemporaryDirectory(prefix="isthmus-") as folder:  # for the owner only
                path = Path(folder) / "material.pem"
                path.write_bytes(data)
                yield str(path)


def store_pem(settings: TLSSettings) -> bytes:
    """Return key, certificate and chain of the PKCS#12 or Java store, as PEM and not encrypted.

    Raises:
        ConfigError: it cannot be read, has another format, or the password does not open it.
    """
    key, source = ("pkcs12", settings.pkcs12) if settings.pkcs12 else ("jks", settings.jks)
    assert source is not None
    data = read(key, source)
    if not isinstance(source, Path):
        try:
            data = base64.b64decode(data, validate=False)
        except binascii.Error as error:
            raise ConfigError(f"{key}: {source} is no base64") from error
    if data.lstrip().startswith(_PEM):
        raise ConfigError(
            f"{key}: {source}: it is a PEM file, and no store; give it as 'certificate', and the "
            "file of its private key as 'key'"
        )
    passwords = _text(settings.store_password), _text(settings.key_password)
    if is_java_store(key, source, data):
        from isthmus.net import jks  # only who has such a store pays for it

        try:
            return jks.identity(data, *passwords)
        except ConfigError as error:
            raise ConfigError(f"{key}: {source}: {error}") from error
    return _pkcs12_pem(key, source, data, passwords[0])


def is_java_store(key: str, source: Source, data: bytes) -> bool:
    """Whether it is a JKS store; what begins with neither magic is PKCS#12 or PEM.

    Raises:
        ConfigError: it is a JCEKS store.
    """
    if data.startswith(_JCEKS):
        path = source if isinstance(source, Path) else "old.jceks"
        raise ConfigError(
            f"{key}: {source}: it is a JCEKS store, which cannot be read; convert it: keytool "
            f"-importkeystore -srckeystore {path} -srcstoretype JCEKS -destkeystore new.p12 "
            "-deststoretype PKCS12"
        )
    return data.startswith(_JKS)


def is_der(data: bytes) -> bool:
    """Whether it is no text, but what a PKCS#12 store or a certificate in DER begins with."""
    return data[:1] == bytes((_DER_SEQUENCE,)) and data[1:2] >= b"\x80"


def _text(secret: Secret | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


def _pkcs12_pem(key: str, source: Source, data: bytes, password: str | None) -> bytes:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.serialization import pkcs12
    except ImportError:
        raise ConfigError(f"{key}: needs cryptography: pip install 'isthmus[pkcs12]'") from None
    try:
        store = pkcs12.load_pkcs12(data, password.encode() if password is not None else None)
    except ValueError as error:
        why = (
            "store_password does not open it, or it is no PKCS#12 store"
            if password is not None
            else "it is no PKCS#12 store, or store_password is missing"
        )
        raise ConfigError(f"{key}: {source}: {why}") from error
    if store.key is None or store.cert is None:
        raise ConfigError(f"{key}: {source} holds no private key with its certificate")
    parts = [
        store.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    ]
    parts += [
        one.certificate.public_bytes(serialization.Encoding.PEM)
        for one in (store.cert, *store.additional_certs)
    ]
    return b"".join(parts)
