"""Settings of TLS, on both sides, as they stand in the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator
from pydantic.config import JsonDict

from isthmus.config.model import SettingsModel
from isthmus.config.problems import Problem, raise_any
from isthmus.config.secrets import Secret

TLSVersion = Literal["1.2", "1.3"]

OR_FOLDER: JsonDict = {"x-or-folder": True}
"""Marks a key whose path may be that of a folder."""


class Content(SettingsModel):
    """What a file would hold, in the configuration itself."""

    content: Secret = Field(
        description="The text of the file (PEM); for `pkcs12` and `jks` its bytes in base64.",
        examples=["${env:EDGE_CERTIFICATE}"],
    )

    def __str__(self) -> str:
        return "the given content"


Source: TypeAlias = Path | Content
"""A file, or what it would hold."""


class KeySettings(SettingsModel):
    """The private key of a certificate, or the store that holds both."""

    key: Source | None = Field(
        default=None,
        description="PEM file with the private key. Default: it is in the certificate's file.",
        examples=["server.key"],
    )
    key_password: Secret | None = Field(
        default=None,
        description="Password of the private key, if it is encrypted. In a `jks` store of the old "
        "format: if it is not `store_password`.",
        examples=["${env:KEY_PASSWORD}"],
    )
    pkcs12: Source | None = Field(
        default=None,
        description="PKCS#12 store (`.p12`, `.pfx`) with certificate and key, instead of both.",
        examples=["edge.p12"],
    )
    jks: Source | None = Field(
        default=None,
        description="Java key store with one private key and its certificates, instead of both. "
        "The old format (JKS) can be read, and PKCS#12, which Java has written since version 9.",
        examples=["edge.jks"],
    )
    store_password: Secret | None = Field(
        default=None,
        description="Password of the `pkcs12` or `jks` store.",
        examples=["${env:STORE_PASSWORD}"],
    )

    @property
    def store(self) -> Source | None:
        """The store of certificate and key, if one is given."""
        return self.pkcs12 if self.pkcs12 is not None else self.jks

    def key_contradictions(self, certificate: Source | None) -> Iterator[Problem]:
        """Yield what cannot stand together of these keys and a certificate."""
        if self.pkcs12 is not None and self.jks is not None:
            yield Problem(("jks",), "cannot be combined with 'pkcs12'; drop one")
        if self.store is not None:
            for name, value in (("certificate", certificate), ("key", self.key)):
                if value is not None:
                    yield Problem((name,), "is in the store already; drop one of both")
        elif self.store_password is not None:
            yield Problem(("store_password",), "needs 'pkcs12' or 'jks', which it opens")


class TLSSettings(KeySettings):
    """What both sides have in common."""

    crl: Source | None = Field(
        default=None,
        description="PEM file with the revocation lists of the authorities. With it, every "
        "certificate of the peer's needs a current list of its issuer.",
        examples=["revoked.pem"],
    )
    alpn: tuple[str, ...] = Field(
        default=(),
        description="Application protocols to offer or accept, best first.",
        examples=[["mqtt"]],
    )
    min_version: TLSVersion = Field(
        default="1.2", description="Oldest TLS version that is used; older peers are refused."
    )
    max_version: TLSVersion = Field(default="1.3", description="Newest TLS version that is used.")
    ciphers: str | None = Field(
        default=None,
        description="Ciphers for TLS 1.2 as OpenSSL writes them. Those of TLS 1.3 are all good.",
        examples=["ECDHE+AESGCM:ECDHE+CHACHA20"],
    )

    @field_validator("alpn")
    @classmethod
    def _alpn_names_fit(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not (name.isascii() and 1 <= len(name) <= 255):
                raise ValueError(f"an ALPN name is 1 to 255 ASCII characters, not {name!r}")
        return names

    def _contradictions(self, certificate: Source | None) -> Iterator[Problem]:
        yield from self.key_contradictions(certificate)
        if self.max_version < self.min_version:
            yield Problem(("max_version",), "must not be older than 'min_version'")


class TLSServerSettings(TLSSettings):
    """How a listener proves who it is, and what it asks of clients."""

    certificate: Source | None = Field(
        default=None,
        description="PEM file with the certificate, followed by intermediate certificates. "
        "Required, unless there is a `pkcs12` or `jks` store.",
        examples=["server.pem"],
    )
    client_ca: Source | None = Field(
        default=None,
        description="PEM file with the authorities whose client certificates are accepted, a "
        "folder of such files (`.pem`, `.crt`, `.cer`), or a Java key store of the old format.",
        examples=["devices-ca.pem"],
        json_schema_extra=OR_FOLDER,
    )
    require_client_certificate: bool = Field(
        default=False, description="Refuse clients that show no certificate. Needs client_ca."
    )

    verify_client_dates: bool = Field(
        default=True,
        description="Whether the certificates of clients, and the lists of `crl`, must be valid "
        "now. `false` takes a certificate until it is revoked.",
    )

    @property
    def authorities(self) -> Source | None:
        """Who may have signed the certificates of peers."""
        return self.client_ca

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found = list(self._contradictions(self.certificate))
        if self.certificate is None and self.store is None:
            found.append(Problem(("certificate",), "is required"))
        if self.client_ca is None:
            if self.require_client_certificate:
                text = "needs client_ca, to check them against"
                found.append(Problem(("require_client_certificate",), text))
            if not self.verify_client_dates:
                text = "needs client_ca: it is about the certificates of clients"
                found.append(Problem(("verify_client_dates",), text))
            if self.crl is not None:
                text = "needs client_ca: it is about the certificates of clients"
                found.append(Problem(("crl",), text))
        raise_any(found)
        return self


class TLSClientSettings(TLSSettings):
    """How a connector checks the far side, and how it proves who it is."""

    ca: Source | None = Field(
        default=None,
        description="PEM file with the authorities to trust, a folder of such files (`.pem`, "
        "`.crt`, `.cer`), or a Java key store of the old format. Default: those of the system.",
        examples=["ca.pem"],
        json_schema_extra=OR_FOLDER,
    )
    certificate: Source | None = Field(
        default=None,
        description="PEM file with the client certificate, if the far side wants one.",
        examples=["edge.pem"],
    )
    server_name: str | None = Field(
        default=None,
        description="Name to ask for (SNI) and to find in the certificate. Default: the host.",
        examples=["broker.example.com"],
    )
    verify_hostname: bool = Field(
        default=True,
        description="Whether the certificate must be for that name. Its issuer is always checked.",
    )

    @property
    def authorities(self) -> Source | None:
        """Who may have signed the certificates of peers."""
        return self.ca

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found = list(self._contradictions(self.certificate))
        if self.key is not None and self.certificate is None and self.store is None:
            found.append(Problem(("key",), "key needs certificate"))
        raise_any(found)
        return self
