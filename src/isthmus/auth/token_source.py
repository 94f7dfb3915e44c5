"""Signed tokens (JWT, RFC 7519) as a source of identities.

A token is looked at strictly before anything is computed: three parts of canonical base64url, a
header without extensions (`crit`), no name twice. What it says about keys (`jwk`, `jku`, `x5c`) is
not used. Why a token is refused goes to the log; the client is told no more than "no".
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from isthmus import clock
from isthmus.auth.grants import Grants, parse_grants
from isthmus.auth.key_url import KeyURL
from isthmus.auth.login import DENIED, Login, Verdict, is_time
from isthmus.auth.source import Unsure
from isthmus.auth.token_keys import TokenKey, TokenKeys

log = logging.getLogger("isthmus.auth")

MAX_TOKEN_BYTES = 16_384
"""Longer texts are no tokens."""

_TIMES = ("exp", "nbf", "iat")


@dataclass(frozen=True, kw_only=True)
class TokenRules:
    """What a token must be like. Times in seconds; see the settings of `auth.jwt`."""

    read_from: Literal["password", "username", "auth"] = "password"
    algorithms: tuple[str, ...] | None = None
    issuer: tuple[str, ...] = ()
    audience: tuple[str, ...] = ()
    leeway_s: float = 0.0
    require_expiry: bool = True
    end_at_expiry: bool = True
    username_claim: str = "sub"
    client_id_claim: str | None = None
    acl_claim: str = "acl"


class TokenSource:
    """Knows every token. A password or user name that is none is left to the next source."""

    name = "jwt"

    def __init__(self, rules: TokenRules, keys: Iterable[TokenKey], url: KeyURL | None) -> None:
        self._rules = rules
        self._keys = TokenKeys(tuple(keys))
        self._url = url

    def is_guess(self, login: Login) -> bool:
        """Never: nobody guesses a signature."""
        del login
        return False

    def at_once(self, login: Login) -> Verdict | Unsure:
        """Verify a token with the keys that are there."""
        rules = self._rules
        if rules.read_from == "auth":
            return Unsure.UNKNOWN
        shown: str | bytes | None = login.password
        if rules.read_from == "username":
            shown = login.username
        token = shown.encode(errors="surrogatepass") if isinstance(shown, str) else shown
        if token is None or not is_token(token):
            return Unsure.UNKNOWN
        return self.verify(token, login)

    async def ask(self, login: Login, gone: Callable[[], bool]) -> Verdict | Unsure:
        """Verify a token again, after the keys were fetched."""
        assert self._url is not None
        await self._url.refreshed()
        if gone():
            return DENIED
        verdict = self.at_once(login)
        return DENIED if verdict is Unsure.WAIT else verdict

    async def verify_waiting(self, token: bytes, login: Login) -> Verdict:
        """Verify a token, and wait for its key if that may come."""
        verdict = self.verify(token, login)
        if verdict is Unsure.WAIT:
            assert self._url is not None
            await self._url.refreshed()
            verdict = self.verify(token, login)
        return verdict if isinstance(verdict, Verdict) else DENIED

    def verify(self, token: bytes, login: Login) -> Verdict | Unsure:
        """The verdict about a token; WAIT if its key may be found where keys come from."""
        try:
            header, claims = _decode(token)
            algorithm, kid = header.get("alg"), header.get("kid")
            if not isinstance(algorithm, str) or not isinstance(kid, str | None):
                raise ValueError("alg or kid is no text")
            allowed = self._rules.algorithms
            if allowed is not None and algorithm not in allowed:
                raise ValueError("the algorithm is not allowed")
            keys = [found for source in self._sets() for found in source.find(kid, algorithm)]
            key = next((key for key in keys if _signed(token, key, algorithm)), None)
            if key is None:
                if not keys and self._url is not None and self._url.may_bring_more():
                    return Unsure.WAIT
                raise ValueError("no key fits" if not keys else "the signature is wrong")
            return self._accept(claims, login, key)
        except ValueError as error:
            log.info("a token was refused: %s", error)
            return DENIED

    def still_good(self, verdict: Verdict) -> bool:
        """Whether the key is still trusted. Keys of a URL may not have been fetched yet."""
        if self._url is not None and not len(self._url.keys):
            return True
        return any(key.identity == verdict.proof for keys in self._sets() for key in keys)

    def start(self) -> None:
        """Fetch the keys of the URL, now and from time to time."""
        if self._url is not None:
            self._url.start()

    def close(self) -> None:
        """Stop fetching."""
        if self._url is not None:
            self._url.close()

    def _sets(self) -> tuple[TokenKeys, ...]:
        return (self._keys,) if self._url is None else (self._keys, self._url.keys)

    def _accept(self, claims: Mapping[str, Any], login: Login, key: TokenKey) -> Verdict:
        rules = self._rules
        expires_at = self._check_times(claims)
        if rules.issuer and claims.get("iss") not in rules.issuer:
            raise ValueError("iss is not one of those that are trusted")
        self._check_audience(claims.get("aud"))
        username = _text_at(claims, rules.username_claim)
        if rules.client_id_claim is not None:
            named = _text_at(claims, rules.client_id_claim)
            if named != login.client_id:
                raise ValueError(f"{rules.client_id_claim} is another client id")
        grants: Grants | None = None
        found = _at(claims, rules.acl_claim)
        if found is not None:
            try:
                grants = parse_grants(found, username)
            except ValueError as error:
                raise ValueError(f"{rules.acl_claim}: {error}") from None
        end = expires_at if rules.end_at_expiry else None
        return Verdict(True, username, grants, end, self.name, key.identity)

    def _check_times(self, claims: Mapping[str, Any]) -> float | None:
        """Check exp, nbf and iat; returns when the token ends, leeway included."""
        now, leeway_s = clock.wall(), self._rules.leeway_s
        for name in _TIMES:
            if name in claims and not is_time(claims[name]):
                raise ValueError(f"{name} is no time")
        expires_at = claims.get("exp")
        if expires_at is None and self._rules.require_expiry:
            raise ValueError("exp is missing")
        if expires_at is not None and expires_at + leeway_s <= now:
            raise ValueError("it has expired")
        for name in ("nbf", "iat"):
            if claims.get(name, 0) > now + leeway_s:
                raise ValueError(f"{name} is in the future")
        return None if expires_at is None else float(expires_at + leeway_s)

    def _check_audience(self, found: Any) -> None:
        """RFC 7519, 4.1.3: a token that names an audience is for nobody else."""
        audience = self._rules.audience
        if found is None and not audience:
            return
        named = found if isinstance(found, list) else [found]
        if not any(isinstance(name, str) and name in audience for name in named):
            raise ValueError("aud does not name this broker")


def is_token(data: bytes) -> bool:
    """Whether this is meant to be a signed token: three parts, and a header that is JSON."""
    if len(data) > MAX_TOKEN_BYTES or data.count(b".") != 2:
        return False
    try:
        header = json.loads(_part(data.partition(b".")[0]))
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header


def _decode(token: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, not verified yet."""
    if len(token) > MAX_TOKEN_BYTES:
        raise ValueError("it is too long")
    parts = token.split(b".")
    if len(parts) != 3:
        raise ValueError("it has no three parts")
    header, claims = (_object(part) for part in parts[:2])
    if "crit" in header or "b64" in header:
        raise ValueError("it needs an extension")
    return header, claims


def _object(part: bytes) -> dict[str, Any]:
    try:
        found = json.loads(_part(part), object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("a part is no JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _part(part: bytes) -> bytes:
    """Decode base64url; other ways to write the same bytes are refused."""
    try:
        data = base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("a part is no base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part:
        raise ValueError("a part is no base64url")
    return data


def _signed(token: bytes, key: TokenKey, algorithm: str) -> bool:
    import jwt

    signed, _, signature = token.rpartition(b".")
    try:
        verified: bool = jwt.get_algorithm_by_name(algorithm).verify(
            signed, key.material, _part(signature)
        )
    except (jwt.PyJWTError, TypeError):
        return False
    return verified


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of this name, or inside of claims: `resource.acl`."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    return found


def _text_at(claims: Mapping[str, Any], path: str) -> str:
    found = _at(claims, path)
    if not isinstance(found, str) or not found or any(ord(char) < 0x20 for char in found):
        raise ValueError(f"{path} is missing or no name")
    try:
        found.encode()
    except UnicodeEncodeError:  # a lone surrogate: JSON can say it, MQTT and the store cannot
        raise ValueError(f"{path} is no text") from None
    return found
