"""Settings of listeners and of TLS, as they stand in the configuration."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

TLSVersion = Literal["1.2", "1.3"]


class _TLSSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Path | None = Field(
        default=None,
        description="PEM file with the private key. Default: it is in the certificate's file.",
        examples=["server.key"],
    )
    key_password: SecretStr | None = Field(
        default=None,
        description="Password of the private key, if it is encrypted.",
        examples=["${env:KEY_PASSWORD}"],
    )
    alpn: tuple[str, ...] = Field(
        default=(),
        description="Application protocols to offer or accept, best first.",
        examples=[["mqtt"]],
    )
    min_version: TLSVersion = Field(
        default="1.2", description="Oldest TLS version that is used; older peers are refused."
    )

    @field_validator("alpn")
    @classmethod
    def _alpn_names_fit(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not (name.isascii() and 1 <= len(name) <= 255):
                raise ValueError(f"an ALPN name is 1 to 255 ASCII characters, not {name!r}")
        return names


class TLSServerSettings(_TLSSettings):
    """How a listener proves who it is, and what it asks of clients."""

    certificate: Path = Field(
        description="PEM file with the certificate, followed by intermediate certificates.",
        examples=["server.pem"],
    )
    client_ca: Path | None = Field(
        default=None,
        description="PEM file with the authorities whose client certificates are accepted.",
        examples=["devices-ca.pem"],
    )
    require_client_certificate: bool = Field(
        default=False, description="Refuse clients that show no certificate. Needs client_ca."
    )

    @model_validator(mode="after")
    def _required_certificates_can_be_checked(self) -> Self:
        if self.require_client_certificate and self.client_ca is None:
            raise ValueError("require_client_certificate needs client_ca, to check them against")
        return self


class TLSClientSettings(_TLSSettings):
    """How a connector checks the far side, and how it proves who it is."""

    ca: Path | None = Field(
        default=None,
        description="PEM file with the authorities to trust. Default: those of the system.",
        examples=["ca.pem"],
    )
    certificate: Path | None = Field(
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

    @model_validator(mode="after")
    def _key_has_a_certificate(self) -> Self:
        if self.key is not None and self.certificate is None:
            raise ValueError("key needs certificate")
        return self


class ListenerSettings(BaseModel):
    """One address on which clients may connect."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bind: str = Field(
        description="Address and port; IPv6 in brackets; * for every address; port 0 for any.",
        examples=["127.0.0.1:1883", "0.0.0.0:8883", "[::1]:1883"],
    )
    tls: TLSServerSettings | None = Field(default=None, description="Absent: not encrypted.")
    transport: Literal["tcp"] = Field(default="tcp", description="What carries MQTT.")

    @field_validator("bind", mode="before")
    @classmethod
    def _bind_has_an_address(cls, bind: object) -> object:
        if isinstance(bind, int):
            raise ValueError(f"needs an address in front of the port, such as 127.0.0.1:{bind}")
        return bind

    @field_validator("bind")
    @classmethod
    def _bind_can_be_split(cls, bind: str) -> str:
        split_address(bind)
        return bind

    @property
    def host(self) -> str:
        """The address without brackets and port; "*" is every address."""
        return split_address(self.bind)[0]

    @property
    def port(self) -> int:
        """The port; 0 lets the system choose."""
        return split_address(self.bind)[1]

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        host = self.host
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host.partition("%")[0]).is_loopback
        except ValueError:
            return False


def split_address(text: str) -> tuple[str, int]:
    """Split "host:port" or "[v6]:port"; ValueError says what is expected."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address needs brackets, such as [::1]:1883, not {text!r}")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise ValueError(f"expected address:port, such as 127.0.0.1:1883, not {text!r}")
    return host, int(port)
