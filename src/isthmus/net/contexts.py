"""TLS contexts: made once per settings and shared, since one with the system's CAs takes 20 ms.

A context is made again when one of its files changed, so that a renewed certificate is used by the
next connection without a restart. Everything here reads files: in a running process, call it in a
thread.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from isthmus.errors import ConfigError
from isthmus.net.key_material import (
    AUTHORITY_ENDINGS,
    as_file,
    check_readable,
    is_der,
    is_java_store,
    read,
    store_pem,
)
from isthmus.net.tls_failures import explain
from isthmus.net.tls_settings import Source, TLSClientSettings, TLSServerSettings, TLSSettings

log = logging.getLogger(__name__)

MAX_CONTEXTS = 256
"""Contexts kept; the oldest goes first. Each costs about 40 KiB, with the system's CAs 1 MiB."""

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_LIST = b"-----BEGIN X509 CRL-----"

_NO_CHECK_TIME: Final = ssl.VerifyFlags(0x20_0000)
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h, which `ssl` has no name for."""

_MISMATCHES: Final = ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""What OpenSSL says of a key that is another certificate's, of the same kind and of another."""

_Settings = TLSServerSettings | TLSClientSettings
_Kind = TypeVar("_Kind", TLSServerSettings, TLSClientSettings)
Stamps = tuple[object, ...]


class _Kept:
    """A context, and the state of the files that it was made of."""

    def __init__(self, context: ssl.SSLContext, stamps: Stamps) -> None:
        self.context = context
        self.stamps = stamps
        self.refused: Stamps | None = None


class Failures:
    """How often changed files of a connector could not be used since the start."""

    count = 0


_contexts: dict[_Settings, _Kept] = {}
_making = threading.Lock()
client_failures = Failures()


class RequestedName(ssl.SSLObject):
    """An SSLObject of a server that remembers the name which the client asked for (SNI)."""

    requested: str | None = None


def server_context(settings: TLSServerSettings) -> ssl.SSLContext:
    """Return the context of a listener; ConfigError says which file is wrong and how."""
    return _current(settings, _make_server)


def client_context(settings: TLSClientSettings) -> ssl.SSLContext:
    """Return the context of a connector; ConfigError says which file is wrong and how."""
    return _current(settings, _make_client)


def usable_client_context(settings: TLSClientSettings) -> ssl.SSLContext:
    """The same, but files that broke after they were good leave the good context in use.

    That is logged and counted once for each change.
    """
    try:
        return client_context(settings)
    except ConfigError as error:
        kept = _contexts.get(settings)
        if kept is None:
            raise
        stamps = file_stamps(settings)
        if kept.refused != stamps:
            kept.refused = stamps
            client_failures.count += 1
            log.error(
                "the changed TLS files of a connector cannot be used, the old ones stay in use: "
                "tls.%s",
                error,
            )
        return kept.context


def cached_context(settings: _Settings) -> ssl.SSLContext | None:
    """Return the context for these settings and files as they are now, if there is one."""
    kept = _contexts.get(settings)
    return kept.context if kept is not None and kept.stamps == file_stamps(settings) else None


def has_files(settings: _Settings) -> bool:
    """Whether anything can change."""
    return any(isinstance(source, Path) for source in _sources(settings))


def file_stamps(settings: _Settings) -> Stamps:
    """What tells that one of the files has changed."""
    stamps: list[object] = []
    for source in _sources(settings):
        if isinstance(source, Path):
            stamps += [_stamp(source), *map(_stamp, _files_in(source))]
    return tuple(stamps)


def _sources(settings: _Settings) -> tuple[Source | None, ...]:
    return (
        settings.certificate,
        settings.key,
        settings.store,
        settings.authorities,
        settings.crl,
    )


def _stamp(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _files_in(path: Path) -> list[Path]:
    """The certificate files of a folder; none if it is no folder."""
    try:
        return sorted(one for one in path.iterdir() if one.suffix in AUTHORITY_ENDINGS)
    except OSError:
        return []


def _current(settings: _Kind, make: Callable[[_Kind], ssl.SSLContext]) -> ssl.SSLContext:
    with _making:  # a pool that connects has many threads here, and needs one context
        context = cached_context(settings)
        if context is None:
            stamps = file_stamps(settings)  # from before they are read: a change is seen later
            context = make(settings)
            _contexts.pop(settings, None)
            while len(_contexts) >= MAX_CONTEXTS:
                del _contexts[next(iter(_contexts))]
            _contexts[settings] = _Kept(context, stamps)
        return context


def _make_server(settings: TLSServerSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _apply_common(context, settings, settings.certificate)
    if settings.client_ca is not None:
        _load_authorities(context, "client_ca", settings.client_ca)
        context.verify_mode = (
            ssl.CERT_REQUIRED if settings.require_client_certificate else ssl.CERT_OPTIONAL
        )
        if not settings.verify_client_dates:
            context.verify_flags |= _NO_CHECK_TIME
    _load_revoked(context, settings)
    context.sslobject_class = RequestedName
    context.sni_callback = _remember_name
    return context


def _make_client(settings: TLSClientSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = settings.verify_hostname
    _apply_common(context, settings, settings.certificate)
    if settings.ca is not None:
        _load_authorities(context, "ca", settings.ca)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    _load_revoked(context, settings)
    return context


def _apply_common(
    context: ssl.SSLContext, settings: TLSSettings, certificate: Source | None
) -> None:
    context.minimum_version = _VERSIONS[settings.min_version]
    context.maximum_version = _VERSIONS[settings.max_version]
    # A peer could make us work with renegotiation, and a write could then have to wait for a read.
    context.options |= ssl.OP_NO_RENEGOTIATION
    if settings.ciphers is not None:
        try:
            context.set_ciphers(settings.ciphers)
        except ssl.SSLError as error:
            raise ConfigError(
                f"ciphers: OpenSSL knows no cipher in '{settings.ciphers}'; see `openssl ciphers`"
            ) from error
    if settings.alpn:
        context.set_alpn_protocols(list(settings.alpn))
    if settings.store is not None:
        _load_store(context, settings, settings.store)
    elif certificate is not None:
        _load_certificate(context, settings, certificate)


def _load_store(context: ssl.SSLContext, settings: TLSSettings, store: Source) -> None:
    try:
        with as_file(store_pem(settings)) as path:
            context.load_cert_chain(path or "")
    except ssl.SSLError as error:
        key = "pkcs12" if settings.pkcs12 is not None else "jks"
        why = (
            "the private key does not belong to the certificate"
            if error.reason in _MISMATCHES
            else f"key or certificate cannot be used: {explain(error)[0]}"
        )
        raise ConfigError(f"{key}: {store}: {why}") from error


def _load_certificate(context: ssl.SSLContext, settings: TLSSettings, certificate: Source) -> None:
    key = settings.key
    check_readable("certificate", certificate)
    if key is not None:
        check_readable("key", key)
    password = _Password(settings)
    try:
        with as_file(certificate) as chain, as_file(key) as key_path:
            # Always with a password callback: OpenSSL would ask on the terminal otherwise.
            context.load_cert_chain(chain or "", key_path, password)
    except ssl.SSLError as error:
        raise ConfigError(_certificate_problem(error, settings, certificate, password)) from error


def _certificate_problem(
    error: ssl.SSLError, settings: TLSSettings, certificate: Source, password: Callable[[], str]
) -> str:
    key = settings.key or certificate
    if error.reason in _MISMATCHES:
        return f"key: {key} does not belong to the certificate {certificate}"
    if isinstance(password, _Password) and password.asked:
        if settings.key_password is None:
            return f"key: {key} is encrypted; key_password is missing"
        return f"key_password: it does not open {key}"
    return f"certificate: {certificate} and key {key} are no PEM certificate and private key"


class _Password:
    """The callback for the key's password; `asked` tells whether the key is encrypted."""

    def __init__(self, settings: TLSSettings) -> None:
        secret = settings.key_password
        self._text = secret.get_secret_value() if secret is not None else ""
        self.asked = False

    def __call__(self) -> str:
        self.asked = True
        return self._text


def _load_authorities(context: ssl.SSLContext, key: str, source: Source) -> None:
    parts = [source]
    if isinstance(source, Path) and source.is_dir():
        parts = [*_files_in(source)]
        if not parts:
            endings = ", ".join(AUTHORITY_ENDINGS)
            raise ConfigError(f"{key}: the folder {source} has no files that end in {endings}")
    for part in parts:
        data = read(key, part)
        if is_java_store(key, part, data):
            _load_java_authorities(context, key, part, data)
            continue
        try:
            with as_file(data) as path:
                context.load_verify_locations(path)
        except ssl.SSLError as error:
            text = f"{key}: {part} holds no PEM certificate"
            if is_der(data):
                text += (
                    "; of a PKCS#12 store, write the certificates as PEM first: keytool "
                    f"-exportcert -rfc -alias ALIAS -keystore {part} -file ca.pem"
                )
            raise ConfigError(text) from error


def _load_java_authorities(context: ssl.SSLContext, key: str, source: Source, data: bytes) -> None:
    from isthmus.net import jks  # only who has such a store pays for it

    try:
        context.load_verify_locations(cadata=jks.trusted(data))
    except ConfigError as error:
        raise ConfigError(f"{key}: {source}: {error}") from error
    except ssl.SSLError as error:
        raise ConfigError(f"{key}: {source}: a certificate in it cannot be read") from error


def _load_revoked(context: ssl.SSLContext, settings: TLSSettings) -> None:
    if settings.crl is None:
        return
    check_readable("crl", settings.crl)
    problem = f"crl: {settings.crl} holds no PEM revocation list (BEGIN X509 CRL)"
    # A file of certificates would be loaded too, and then every peer would be refused.
    if _LIST not in read("crl", settings.crl):
        raise ConfigError(problem)
    try:
        with as_file(settings.crl) as path:
            context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(problem) from error
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _remember_name(
    tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext
) -> None:
    if isinstance(tls, RequestedName):
        tls.requested = name
