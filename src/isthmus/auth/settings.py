"""Settings of authentication and authorisation: the `auth` key."""

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from isthmus.auth.algorithms import ALGORITHMS
from isthmus.config.model import SettingsModel
from isthmus.config.secrets import Secret
from isthmus.config.units import Duration
from isthmus.net.settings import TLSClientSettings


def _service_url(url: str) -> str:
    """Passwords and keys go there: only encrypted, or within this machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is no URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("must be an http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold credentials; use headers")
    if parts.scheme == "http" and not _is_near(host):
        raise ValueError("is not encrypted: use https, or a service on this machine")
    return url


def _is_near(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _algorithm(name: str) -> str:
    if name not in ALGORITHMS:
        raise ValueError(f"is no algorithm that can be used; known are {', '.join(ALGORITHMS)}")
    return name


def _import_path(path: str) -> str:
    module, colon, name = path.partition(":")
    if not (colon and all(part.isidentifier() for part in (*module.split("."), name))):
        raise ValueError("must be written as package.module:name")
    return path


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("must be more than 0")
    return value


ServiceURL = Annotated[str, AfterValidator(_service_url)]
Algorithm = Annotated[str, AfterValidator(_algorithm)]
ImportPath = Annotated[str, AfterValidator(_import_path)]
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Timeout = Annotated[Duration, AfterValidator(_positive)]


class JWTSettings(SettingsModel):
    """Tokens that another service has signed. Needs `pip install 'isthmus[jwt]'`."""

    secret: Secret | None = Field(
        default=None,
        description="Shared secret of HS256, HS384 or HS512 tokens: 32, 48 or 64 bytes or more.",
    )
    keys: tuple[Path, ...] = Field(
        default=(),
        description="PEM files with the public keys, or certificates, of those who sign tokens.",
        examples=[["issuer.pem"]],
    )
    jwks_file: Path | None = Field(
        default=None, description="JSON file with a JWK set.", examples=["keys.json"]
    )
    jwks_url: ServiceURL | None = Field(
        default=None,
        description="URL of a JWK set. It is fetched in the background, and again when a token "
        "names a key that is not known, at most every 15 s.",
        examples=["https://login.example.com/.well-known/jwks.json"],
    )
    refresh: Timeout = Field(default=3600.0, description="Time between two fetches of `jwks_url`.")
    timeout: Timeout = Field(default=5.0, description="Longest time of one fetch.")
    tls: TLSClientSettings | None = Field(
        default=None, description="How the service of `jwks_url` is verified."
    )
    read_from: Literal["password", "username", "auth"] = Field(
        default="password",
        description="Where the token is in the CONNECT: `auth` is the Authentication Data of "
        "MQTT 5 with the method OAUTH2-JWT, which also lets a client renew it.",
    )
    algorithms: tuple[Algorithm, ...] = Field(
        default=(),
        description="Algorithms that are accepted. Not set means all that fit the kind of the key.",
        examples=[["RS256", "ES256"]],
    )
    issuer: Names = Field(
        default=(),
        description="Accepted values of `iss`. Not set means any.",
        examples=["https://login.example.com"],
    )
    audience: Names = Field(
        default=(),
        description="Names of this broker in `aud`. Not set means that only tokens without `aud` "
        "are accepted.",
        examples=["mqtt"],
    )
    leeway: Duration = Field(
        default=10.0, description="How much clocks may differ, for `exp`, `nbf` and `iat`."
    )
    require_expiry: bool = Field(
        default=True, description="Whether a token without `exp` is refused."
    )
    end_at_expiry: bool = Field(
        default=True, description="Whether a connection ends when its token does."
    )
    username_claim: str = Field(
        default="sub",
        min_length=1,
        description="Claim that is the user name; `a.b` is `b` inside of `a`. "
        "The name that the client sent is not used.",
    )
    client_id_claim: str | None = Field(
        default=None,
        min_length=1,
        description="Claim that the client id must be equal to.",
        examples=["client_id"],
    )
    acl_claim: str = Field(
        default="acl",
        min_length=1,
        description="Claim with rights; where a token has it, it stands in place of `acl_file`.",
    )

    @model_validator(mode="after")
    def _has_keys(self) -> Self:
        if not (self.secret or self.keys or self.jwks_file or self.jwks_url):
            raise ValueError("needs secret, keys, jwks_file or jwks_url to verify tokens with")
        return self


class HTTPAuthSettings(SettingsModel):
    """A web service that is asked about each login with a POST of JSON."""

    url: ServiceURL = Field(
        description="Where to ask: https, or http on this machine.",
        examples=["https://login.example.com/mqtt"],
    )
    timeout: Timeout = Field(
        default=5.0,
        description="Longest time of one question. Without an answer nobody gets in.",
    )
    concurrency: int = Field(
        default=8, ge=1, le=64, description="Questions at the same time; the others wait in turn."
    )
    cache: Duration = Field(
        default=60.0, description="How long `allow` is remembered; 0s asks at each login."
    )
    headers: dict[str, Secret] = Field(
        default_factory=dict,
        description="Headers of the request, such as Authorization.",
        examples=[{"Authorization": "${env:LOGIN_TOKEN}"}],
    )
    tls: TLSClientSettings | None = Field(
        default=None, description="How the service is verified, and who we are there."
    )

    @model_validator(mode="after")
    def _headers_are_headers(self) -> Self:
        for name, value in self.headers.items():
            text = value.get_secret_value()
            if not name.replace("-", "").isalnum() or not name.isascii():
                raise ValueError(f"headers: '{name}' is no name of a header")
            if not (text.isascii() and text.isprintable()):
                raise ValueError(f"headers: the value of '{name}' is no text for a header")
        return self


class AuthSettings(SettingsModel):
    """Who may connect, and who may read and write which topics."""

    allow_anonymous: bool | None = Field(
        default=None,
        description="Whether clients without a user name may connect. Not set means: only while "
        "every listener is on a loopback address and nothing here verifies user names.",
    )
    insecure_public_anonymous: bool = Field(
        default=False,
        description="Allow `allow_anonymous: true` on addresses that others can reach. "
        "Everybody on that network can then read and write.",
    )
    identity: Literal["username", "common_name", "subject"] = Field(
        default="username",
        description="Where the user name comes from: `common_name` or `subject` (in the form of "
        "RFC 2253) of the client certificate replaces what the client sends. Clients without a "
        "certificate go on to the other ways to log in. Needs `client_ca` on a listener.",
    )
    jwt: JWTSettings | None = Field(default=None, description="Accept signed tokens.")
    password_file: Path | None = Field(
        default=None,
        description="Users, as `isthmus passwd` or `mosquitto_passwd` writes them "
        "($6$, $7$, argon2id).",
        examples=["users.txt"],
    )
    password_threads: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Passwords that are checked at the same time; the others wait in turn. More "
        "take CPU from the messages.",
    )
    waiting_logins: int = Field(
        default=1000,
        ge=1,
        le=1_000_000,
        description="Logins that wait for a password check, and as many that wait for the web "
        "service. More are refused as busy (0x89), those of whoever has most first.",
    )
    http: HTTPAuthSettings | None = Field(
        default=None, description="Ask a web service about users that nothing above knows."
    )
    scram: Path | None = Field(
        default=None,
        description="Users of the MQTT 5 authentication method SCRAM-SHA-256, as "
        "`isthmus passwd --scram` writes them.",
        examples=["scram.txt"],
    )
    methods: tuple[ImportPath, ...] = Field(
        default=(),
        description="Further MQTT 5 authentication methods, each the Python object "
        "`package.module:name`.",
        examples=[["my_company.mqtt:kerberos"]],
    )
    acl_file: Path | None = Field(
        default=None,
        description="Rights, in the format of Mosquitto's `acl_file`. "
        "Without one everybody who may connect may read and write all topics.",
        examples=["acl.txt"],
    )

    @property
    def verifies(self) -> bool:
        """Whether there is anything to verify a login with."""
        return bool(
            self.identity != "username"
            or self.jwt
            or self.password_file
            or self.http
            or self.scram
            or self.methods
        )
