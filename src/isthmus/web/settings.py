"""Settings of the HTTP port: the `http` key."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from isthmus.config.problems import Problem
from isthmus.config.units import Duration, Size
from isthmus.net.settings import AddressSettings, ListenerSettings

DEFAULT_HTTP_BIND = "127.0.0.1:8080"


class HttpSettings(AddressSettings):
    """The HTTP port, with `/metrics`, `/healthz` and `/readyz`."""

    bind: str = Field(
        default=DEFAULT_HTTP_BIND,
        description="Address and port, written as that of a listener. Where the default address "
        "is taken, the process goes on without this port.",
        examples=["127.0.0.1:9100", "unix:/run/isthmus/http.sock"],
    )
    insecure_public: bool = Field(
        default=False,
        description="Let everybody who reaches the address read everything there. Without it an "
        "address that others reach needs `tls.require_client_certificate`.",
    )
    connections: int = Field(
        default=100, ge=1, le=10_000, description="Connections at the same time; more are closed."
    )
    header_bytes: Size = Field(
        default=16 << 10, ge=1024, le=1 << 20, description="Biggest request line with its headers."
    )
    request_timeout: Duration = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Time for a request, from the start of the connection, or from its first byte "
        "on a kept one, to the end of the answer.",
    )
    keep_alive: Duration = Field(
        default=30.0,
        ge=1,
        le=3600,
        description="Time that a connection is kept for the next request, in whole seconds.",
    )

    @property
    def listener(self) -> ListenerSettings:
        """What is listened on."""
        given = self.model_fields_set & AddressSettings.model_fields.keys()
        return ListenerSettings(**{key: getattr(self, key) for key in {"bind", *given}})

    @property
    def url(self) -> str:
        """Where the pages begin, as people write it."""
        if self.unix_path is not None:
            return self.bind
        return f"{'http' if self.tls is None else 'https'}://{self.bind}"

    @property
    def asks_certificates(self) -> bool:
        """Whether only clients with a certificate get an answer."""
        return self.tls is not None and self.tls.require_client_certificate

    def _contradictions(self) -> Iterator[Problem]:
        yield from super()._contradictions()
        if not (self.on_this_machine or self.asks_certificates or self.insecure_public):
            yield Problem(
                ("bind",),
                f"'{self.bind}' is open to others, and nobody is asked for a password here; bind "
                "to 127.0.0.1, ask for certificates with 'tls.client_ca' and "
                "'tls.require_client_certificate', or set 'insecure_public: true'",
            )
