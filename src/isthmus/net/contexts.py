"""TLS contexts: made once per settings and shared, since one with the system's CAs takes 20 ms.

A context is made again when one of its files changed, so that a renewed certificate is used by the
next connection without a restart.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from isthmus.errors import ConfigError
from isthmus.net.settings import TLSClientSettings, TLSServerSettings

MAX_CONTEXTS = 256
"""Contexts kept; the oldest goes first. Each costs about 40 KiB, with the system's CAs 1 MiB."""

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_Settings = TLSServerSettings | TLSClientSettings
_contexts: dict[tuple[object, ...], ssl.SSLContext] = {}


class RequestedName(ssl.SSLObject):
    """An SSLObject of a server that remembers the name which the client asked for (SNI)."""

    requested: str | None = None


def server_context(settings: TLSServerSettings) -> ssl.SSLContext:
    """Return the context of a listener; ConfigError says which file is wrong and how."""
    return cached_context(settings) or _keep(settings, _make_server(settings))


def client_context(settings: TLSClientSettings) -> ssl.SSLContext:
    """Return the context of a connector; ConfigError says which file is wrong and how.

    Reads files: call it in a thread unless `cached_context` has it already.
    """
    return cached_context(settings) or _keep(settings, _make_client(settings))


def cached_context(settings: _Settings) -> ssl.SSLContext | None:
    """Return the context for these settings and files as they are now, if there is one."""
    return _contexts.get(_identity(settings))


def _keep(settings: _Settings, context: ssl.SSLContext) -> ssl.SSLContext:
    while len(_contexts) >= MAX_CONTEXTS:
        del _contexts[next(iter(_contexts))]
    return _contexts.setdefault(_identity(settings), context)


def _identity(settings: _Settings) -> tuple[object, ...]:
    authorities = settings.client_ca if isinstance(settings, TLSServerSettings) else settings.ca
    stamps: list[object] = [settings]
    for path in (settings.certificate, settings.key, authorities):
        if path is not None:
            try:
                status = path.stat()
            except OSError:
                stamps.append(None)
            else:
                stamps += (status.st_mtime_ns, status.st_size, status.st_ino)
    return tuple(stamps)


def _make_server(settings: TLSServerSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _apply_common(context, settings, settings.certificate)
    if settings.client_ca is not None:
        _load_authorities(context, "client_ca", settings.client_ca)
        context.verify_mode = (
            ssl.CERT_REQUIRED if settings.require_client_certificate else ssl.CERT_OPTIONAL
        )
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
    return context


def _apply_common(context: ssl.SSLContext, settings: _Settings, certificate: Path | None) -> None:
    context.minimum_version = _VERSIONS[settings.min_version]
    # A peer could make us work with renegotiation, and a write could then have to wait for a read.
    context.options |= ssl.OP_NO_RENEGOTIATION
    if settings.alpn:
        context.set_alpn_protocols(list(settings.alpn))
    if certificate is not None:
        _load_certificate(context, settings, certificate)


def _load_certificate(context: ssl.SSLContext, settings: _Settings, certificate: Path) -> None:
    key = settings.key
    _check_readable("certificate", certificate)
    if key is not None:
        _check_readable("key", key)
    password = _Password(settings)
    try:
        # Always with a password callback: OpenSSL would ask on the terminal otherwise.
        context.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        raise ConfigError(_certificate_problem(error, settings, certificate, password)) from error


def _certificate_problem(
    error: ssl.SSLError, settings: _Settings, certificate: Path, password: Callable[[], str]
) -> str:
    key = settings.key or certificate
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"key: {key} does not belong to the certificate {certificate}"
    if isinstance(password, _Password) and password.asked:
        if settings.key_password is None:
            return f"key: {key} is encrypted; key_password is missing"
        return f"key_password: it does not open {key}"
    return f"certificate: {certificate} and key {key} are no PEM certificate and private key"


class _Password:
    """The callback for the key's password; `asked` tells whether the key is encrypted."""

    def __init__(self, settings: _Settings) -> None:
        secret = settings.key_password
        self._text = secret.get_secret_value() if secret is not None else ""
        self.asked = False

    def __call__(self) -> str:
        self.asked = True
        return self._text


def _load_authorities(context: ssl.SSLContext, key: str, path: Path) -> None:
    _check_readable(key, path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(f"{key}: {path} holds no PEM certificate") from error


def _check_readable(key: str, path: Path) -> None:
    """Name the file that is missing; OpenSSL only says that one is."""
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{key}: {path}: {error.strerror}") from error


def _remember_name(
    tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext
) -> None:
    if isinstance(tls, RequestedName):
        tls.requested = name
