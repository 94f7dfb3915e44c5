"""What the settings of `auth` name, read and ready: sources, methods and the access list.

Each kind of source is imported where it is made: none costs memory where it is not used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from isthmus.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from isthmus.auth.acl import AccessList
    from isthmus.auth.http_source import HTTPSource
    from isthmus.auth.method import Method
    from isthmus.auth.settings import AuthSettings, HTTPAuthSettings, JWTSettings
    from isthmus.auth.source import Source
    from isthmus.auth.token_keys import TokenKey
    from isthmus.auth.token_source import TokenSource

    T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources in the order in which they are asked, and what belongs to them.

    Nothing runs before an `Authenticator` starts them.
    """

    chain: tuple[Source, ...] = ()
    methods: dict[str, Method] = field(default_factory=dict)
    access: AccessList | None = None
    allow_anonymous: bool = False

    @property
    def any(self) -> bool:
        """Whether there is anything to verify a login with."""
        return bool(self.chain or self.methods)


def load_sources(settings: AuthSettings, *, allow_anonymous: bool, where: str = "auth") -> Sources:
    """Read every file that the settings name, which stand at `where` in the configuration.

    Raises:
        ConfigError: with one text for everything that is wrong, each with its key in front.
    """
    problems: list[str] = []

    def tried(key: str, load: Callable[[], T]) -> T | None:
        try:
            return load()
        except ConfigError as error:
            problems.extend(
                f"{where}.{key}: {problem}" if key else problem for problem in error.problems
            )
        return None

    chain: list[Source | None] = []
    methods: list[Method | None] = []
    if settings.identity != "username":
        from isthmus.auth.certificate import CertificateSource

        chain.append(CertificateSource(settings.identity))
    if settings.jwt is not None:
        jwt = settings.jwt
        tokens = tried("jwt", lambda: _tokens(jwt, f"{where}.jwt"))
        chain.append(tokens)
        if tokens is not None and jwt.read_from == "auth":
            from isthmus.auth.token_method import TokenMethod

            methods.append(TokenMethod(tokens))
    if settings.password_file is not None:
        from isthmus.auth.password_source import PasswordSource
        from isthmus.auth.passwords import PasswordFile

        path = settings.password_file
        passwords = tried("", lambda: PasswordFile.load(path))
        if passwords is not None:
            chain.append(
                PasswordSource(
                    passwords,
                    alone=settings.http is None,
                    threads=settings.password_threads,
                    waiting=settings.waiting_logins,
                )
            )
    if settings.http is not None:
        http = settings.http
        chain.append(tried("http", lambda: _http(http, settings.waiting_logins, f"{where}.http")))
    if settings.scram is not None:
        from isthmus.auth.scram import ScramMethod
        from isthmus.auth.scram_file import ScramFile

        scram = settings.scram
        users = tried("", lambda: ScramFile.load(scram))
        methods.append(ScramMethod(users) if users is not None else None)
    if settings.methods:
        from isthmus.auth.method import load_method

        methods += [tried("methods", partial(load_method, path)) for path in settings.methods]
    access: AccessList | None = None
    if settings.acl_file is not None:
        from isthmus.auth.acl import AccessList

        access = tried("", partial(AccessList.load, settings.acl_file))
    by_name = {method.name: method for method in methods if method is not None}
    if len(by_name) < len([method for method in methods if method is not None]):
        problems.append(f"{where}.methods: two methods have the same name")
    if problems:
        raise ConfigError(*problems)
    found = tuple(source for source in chain if source is not None)
    return Sources(found, by_name, access, allow_anonymous)


def _tokens(settings: JWTSettings, where: str) -> TokenSource:
    from isthmus.auth.key_url import MAX_SET_BYTES, KeyURL
    from isthmus.auth.token_keys import load_jwks, load_pem, secret_key
    from isthmus.auth.token_source import TokenRules, TokenSource
    from isthmus.auth.web_service import WebService
    from isthmus.net.contexts import client_context
    from isthmus.net.settings import TLSClientSettings

    keys: list[TokenKey] = []
    problems: list[str] = []
    try:
        import jwt  # noqa: F401 - found missing at the start, and not at the first login
    except ImportError:
        raise ConfigError("needs PyJWT: pip install 'isthmus[jwt]'") from None
    try:
        if settings.secret is not None:
            keys.append(secret_key(settings.secret.get_secret_value().encode()))
    except ValueError as error:
        problems.append(f"secret: {error}")
    for path in settings.keys:
        try:
            keys.append(load_pem(path))
        except ConfigError as error:
            problems.extend(error.problems)
    try:
        if settings.jwks_file is not None:
            keys.extend(load_jwks(settings.jwks_file))
    except ConfigError as error:
        problems.extend(error.problems)
    allowed = settings.algorithms
    if keys and allowed and not any(set(allowed) & set(key.algorithms) for key in keys):
        problems.append("algorithms: none of them is for one of the keys")
    if problems:
        raise ConfigError(*problems)
    url = None
    if settings.jwks_url is not None:
        service = WebService(
            settings.jwks_url,
            context=client_context(settings.tls or TLSClientSettings()),
            timeout_s=settings.timeout,
            max_bytes=MAX_SET_BYTES,
        )
        url = KeyURL(service, settings.refresh, key=f"{where}.jwks_url")
    rules = TokenRules(
        read_from=settings.read_from,
        algorithms=allowed or None,
        issuer=settings.issuer,
        audience=settings.audience,
        leeway_s=settings.leeway,
        require_expiry=settings.require_expiry,
        end_at_expiry=settings.end_at_expiry,
        username_claim=settings.username_claim,
        client_id_claim=settings.client_id_claim,
        acl_claim=settings.acl_claim,
    )
    return TokenSource(rules, keys, url)


def _http(settings: HTTPAuthSettings, waiting: int, where: str) -> HTTPSource:
    from isthmus.auth.http_source import MAX_ANSWER_BYTES, HTTPSource
    from isthmus.auth.web_service import WebService
    from isthmus.net.contexts import client_context
    from isthmus.net.settings import TLSClientSettings

    service = WebService(
        settings.url,
        context=client_context(settings.tls or TLSClientSettings()),
        timeout_s=settings.timeout,
        max_bytes=MAX_ANSWER_BYTES,
        headers={name: value.get_secret_value() for name, value in settings.headers.items()},
    )
    return HTTPSource(
        service,
        concurrency=settings.concurrency,
        waiting=waiting,
        cache_s=settings.cache,
        key=where,
    )
