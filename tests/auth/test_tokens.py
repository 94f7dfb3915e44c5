"""Tokens: those that are let in, and the long list of those that are not."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from isthmus.auth import key_url
from isthmus.auth.authenticator import Authenticator
from isthmus.auth.login import DENIED, Login, Verdict
from isthmus.auth.settings import AuthSettings
from isthmus.auth.source import Unsure
from isthmus.auth.sources import Sources, load_sources
from isthmus.auth.token_keys import TokenKeys, jwks, pem_key, secret_key
from isthmus.auth.token_source import TokenRules, TokenSource
from isthmus.errors import ConfigError

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
SECRET = b"s" * 32
HOUR = 3600
"""Tokens are made when this file is read, and used when its tests run."""


def pem(key: Any) -> bytes:
    data: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return data


def claims(**more: Any) -> dict[str, Any]:
    found = {"sub": "anna", "exp": int(time.time()) + HOUR, **more}
    return {name: value for name, value in found.items() if value is not None}


def token(key: Any = EC, algorithm: str = "ES256", header: Any = None, **more: Any) -> bytes:
    return jwt.encode(claims(**more), key, algorithm=algorithm, headers=header).encode()


def source(*keys: bytes, **rules: Any) -> TokenSource:
    return TokenSource(TokenRules(**rules), [pem_key(key) for key in keys or [pem(EC)]], None)


def ask(found: TokenSource, password: bytes, client_id: str = "c") -> Verdict | Unsure:
    return found.at_once(Login(client_id, "somebody", password))


def name(verdict: Verdict | Unsure) -> str | None:
    return verdict.username if isinstance(verdict, Verdict) and verdict.allowed else None


def raw(header: dict[str, Any], payload: str, signature: bytes = b"") -> bytes:
    parts = (json.dumps(header).encode(), payload.encode(), signature)
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


def signed(header: dict[str, Any], payload: str) -> bytes:
    """A token with this very text, signed with the secret."""
    head = raw(header, payload).rpartition(b".")[0]
    signature = jwt.get_algorithm_by_name("HS256").sign(head, SECRET)
    return head + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(EC, "ES256"), (RSA, "RS256"), (RSA, "PS512"), (ED, "EdDSA"), (SECRET, "HS256")],
)
def test_a_good_token(key: Any, algorithm: str) -> None:
    keys = [secret_key(SECRET), *(pem_key(pem(one)) for one in (RSA, EC, ED))]
    found = TokenSource(TokenRules(), keys, None)
    verdict = ask(found, token(key, algorithm))
    assert name(verdict) == "anna"
    assert isinstance(verdict, Verdict)
    assert verdict.expires_at == pytest.approx(time.time() + HOUR, abs=2)
    assert found.still_good(verdict)
    assert not source(pem(ec.generate_private_key(ec.SECP256R1()))).still_good(verdict)


NOW = int(time.time())
GOOD = token()


@pytest.mark.parametrize(
    "bad",
    [
        raw({"alg": "none"}, json.dumps(claims())),
        raw({"alg": "None"}, json.dumps(claims())),
        raw({"alg": "nOnE"}, json.dumps(claims()), b"x"),
        raw({"alg": 7}, json.dumps(claims())),
        raw({"alg": "HS256"}, json.dumps(claims())),
        raw({"alg": "ES256"}, json.dumps(claims()), bytes(64)),
        raw({"alg": "ES256"}, json.dumps(claims()), b""),
        raw({"alg": "ES256", "kid": 7}, json.dumps(claims()), bytes(64)),
        GOOD[:-1],
        GOOD[:-4],
        GOOD + b"=",
        GOOD + b"A",
        GOOD.rpartition(b".")[0] + b".",
        token(RSA, "RS256"),
        token(ec.generate_private_key(ec.SECP256R1())),
        token(header={"crit": ["x"], "x": 1}),
        token(header={"crit": []}),
        token(header={"kid": "../../dev/null", "jku": "https://evil.example"},
              key=ec.generate_private_key(ec.SECP256R1())),
        token(exp=NOW - 61),
        token(exp=None),
        token(exp="soon"),
        token(exp=True),
        token(nbf=NOW + HOUR),
        token(iat=NOW + HOUR),
        token(aud="mqtt"),
        token(sub=None),
        token(sub=""),
        token(acl="#"),
        token(acl={"pub": ["a/#/b"]}),
        token(acl={"publishing": ["a"]}),
    ],
    ids=count(),  # the tokens hold the time
)  # fmt: skip
def test_tokens_that_are_refused(bad: bytes) -> None:
    assert ask(source(pem(EC)), bad) in (DENIED, Unsure.UNKNOWN)
    if (
        bad.count(b".") == 2
        and b"=" not in bad
        and bad.partition(b".")[0] == GOOD.partition(b".")[0]
    ):
        assert ask(source(pem(EC)), bad) == DENIED


def test_a_public_key_is_no_secret() -> None:
    """CVE-2022-29217 and its like: HMAC with the public key as the secret."""
    head = raw({"alg": "HS256", "typ": "JWT"}, json.dumps(claims())).rpartition(b".")[0]
    for form in (pem(RSA), pem(RSA).strip()):
        import hashlib
        import hmac

        forged = hmac.new(form, head, hashlib.sha256).digest()
        attack = head + b"." + base64.urlsafe_b64encode(forged).rstrip(b"=")
        assert ask(source(pem(RSA)), attack) == DENIED


@pytest.mark.parametrize(
    "payload",
    [
        '{"sub":"anna","sub":"root","exp":%d}',
        '{"sub":"anna","exp":%d,"x":NaN}',
        '{"sub":"anna","exp":%d,"nbf":1e999}',
        '{"sub":"anna","exp":%d,"nbf":null}',
        '{"sub":"anna","exp":%d,"iat":null}',
        '["anna",%d]',
        '{"sub":"anna","exp":%d' + "0" * 400 + "}",
        '{"sub":"anna","exp":%d,"x":' + "[" * 3000 + "]" * 3000 + "}",
    ],
)
def test_claims_that_are_no_plain_json(payload: str) -> None:
    found = TokenSource(TokenRules(), [secret_key(SECRET)], None)
    good = signed({"alg": "HS256"}, json.dumps(claims()))
    assert name(ask(found, good)) == "anna"
    assert ask(found, signed({"alg": "HS256"}, payload.replace("%d", str(NOW + HOUR)))) == DENIED


@pytest.mark.parametrize(
    ("rules", "more", "allowed"),
    [
        ({"issuer": ("me",)}, {"iss": "me"}, True),
        ({"issuer": ("me",)}, {"iss": "you"}, False),
        ({"issuer": ("me",)}, {}, False),
        ({"audience": ("mqtt",)}, {"aud": "mqtt"}, True),
        ({"audience": ("mqtt",)}, {"aud": ["web", "mqtt"]}, True),
        ({"audience": ("mqtt",)}, {"aud": ["web", ["mqtt"]]}, False),
        ({"audience": ("mqtt",)}, {}, False),
        ({"leeway_s": 2.0 * HOUR}, {"exp": NOW - 50, "nbf": NOW + HOUR}, True),
        ({"require_expiry": False}, {"exp": None}, True),
        ({"client_id_claim": "cid"}, {"cid": "c"}, True),
        ({"client_id_claim": "cid"}, {"cid": "other"}, False),
        ({"client_id_claim": "cid"}, {}, False),
        ({"algorithms": ("ES256",)}, {}, True),
        ({"algorithms": ("RS256",)}, {}, False),
        ({"username_claim": "user.name"}, {"user": {"name": "anna"}}, True),
        ({"username_claim": "user.name"}, {"user": "anna"}, False),
    ],
)
def test_rules(rules: dict[str, Any], more: dict[str, Any], allowed: bool) -> None:
    assert name(ask(source(pem(EC), **rules), token(**more))) == ("anna" if allowed else None)


def test_where_the_token_is() -> None:
    password = source()
    assert password.at_once(Login("c", "anna", b"a.b.c")) is Unsure.UNKNOWN
    assert password.at_once(Login("c", GOOD.decode(), None)) is Unsure.UNKNOWN
    assert name(password.at_once(Login("c", None, GOOD))) == "anna"
    username = source(read_from="username")
    assert name(username.at_once(Login("c", GOOD.decode(), b""))) == "anna"
    assert source(read_from="auth").at_once(Login("c", None, GOOD)) is Unsure.UNKNOWN
    assert password.at_once(Login("c", None, GOOD + b"x" * 20_000)) is Unsure.UNKNOWN


# -- keys ----------------------------------------------------------------------------------------


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    algorithm: Any = jwt.algorithms.ECAlgorithm
    if isinstance(key, rsa.RSAPrivateKey):
        algorithm = jwt.algorithms.RSAAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), **more}


def test_a_jwk_set() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    keys = [
        jwk(EC, kid="a"), jwk(other, kid="b", use="sig"), jwk(RSA, kid="c", alg="RS512"),
        {"kty": "future"}, jwk(RSA, use="enc", kid="d"), jwk(RSA, key_ops=["sign"], kid="e"),
        {"kty": "EC", "crv": "P-256", "x": "!", "y": "!"},
        jwk(RSA, key_ops=5), jwk(RSA, key_ops=None), {"kty": "oct"}, {"kty": "RSA", "n": []},
        {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET).decode(), "kid": "s"},
    ]  # fmt: skip
    data = json.dumps({"keys": keys}).encode()
    assert [key.kid for key in jwks(data, secrets=False)] == ["a", "b", "c"]
    assert [key.kid for key in jwks(data, secrets=True)] == ["a", "b", "c", "s"]
    found = TokenSource(TokenRules(), jwks(data, secrets=True), None)
    assert name(ask(found, token())) == "anna"
    assert name(ask(found, token(header={"kid": "a"}))) == "anna"
    assert ask(found, token(header={"kid": "b"})) == DENIED
    assert ask(found, token(header={"kid": "' OR 1=1"})) == DENIED
    assert ask(found, token(RSA, "RS256")) == DENIED  # its `alg` says RS512
    assert name(ask(found, token(RSA, "RS512"))) == "anna"


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"[]", b"{}", b'{"keys": 7}', b'{"keys": []}', b'{"keys": ["x"]}', b"[" * 90_000],
)
def test_what_is_no_jwk_set(data: bytes) -> None:
    with pytest.raises(ValueError, match="holds"):
        jwks(data, secrets=True)


def test_keys_that_are_refused() -> None:
    private = EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    weak = rsa.generate_private_key(65537, 1024)
    for data, problem in (
        (private, "private key"), (pem(weak), "2048"), (b"hello", "no public key"),
        (pem(ec.generate_private_key(ec.SECP256K1())), "curve"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            pem_key(data)
    with pytest.raises(ValueError, match="32 bytes"):
        secret_key(b"short")


def load(tmp_path: Path, **how: Any) -> Sources:
    return load_sources(AuthSettings.model_validate({"jwt": how}), allow_anonymous=False)


def test_all_wrong_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("x")
    (tmp_path / "keys.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        load(
            tmp_path,
            secret="too-short-secret",
            keys=[tmp_path / "a.pem"],
            jwks_file=tmp_path / "keys.json",
        )
    text = str(caught.value)
    assert "jwt: secret: " in text
    assert f"jwt: {tmp_path / 'a.pem'}: holds no public key" in text
    assert f"jwt: {tmp_path / 'keys.json'}: holds no JWK set" in text
    assert "too-short-secret" not in text
    (tmp_path / "a.pem").write_bytes(pem(EC))
    with pytest.raises(ConfigError, match="algorithms: none of them"):
        load(tmp_path, keys=[tmp_path / "a.pem"], algorithms=["RS256"])


# -- keys of a URL -------------------------------------------------------------------------------


class KeyServer:
    def __init__(self) -> None:
        self.data = b"{}"
        self.asked = 0
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(outer.data)))
                self.end_headers()
                self.wfile.write(outer.data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/keys"


@pytest.fixture
def key_server() -> Iterator[KeyServer]:
    found = KeyServer()
    yield found
    found.server.shutdown()
    found.server.server_close()


async def login(auth: Authenticator, password: bytes) -> str | None:
    found = Login("c", None, password)
    return name(auth.at_once(found) or await auth.authenticate(found))


async def test_keys_of_a_url(
    key_server: KeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    key_server.data = json.dumps({"keys": [jwk(EC, kid="a")]}).encode()
    auth = Authenticator(load(tmp_path, jwks_url=key_server.url))
    auth.start()
    assert auth.at_once(Login("c", None, token(header={"kid": "a"}))) is None  # not fetched yet
    logins = [login(auth, token(header={"kid": "a"})) for _ in range(20)]
    assert await asyncio.gather(*logins) == ["anna"] * 20
    assert key_server.asked == 1
    # A key that is new over there. Not before some time has gone by is anybody asked.
    key_server.data = json.dumps({"keys": [jwk(EC, kid="a"), jwk(other, kid="b")]}).encode()
    new = token(other, header={"kid": "b"})
    assert await login(auth, new) is None
    assert key_server.asked == 1
    (tokens,) = auth._sources.chain
    tokens._url._next_at = 0.0
    assert await login(auth, new) == "anna"
    assert key_server.asked == 2
    # While it fails, what was fetched goes on.
    key_server.status = 500
    tokens._url._next_at = 0.0
    assert await login(auth, token(header={"kid": "c"})) is None
    assert key_server.asked == 3
    assert await login(auth, new) == "anna"
    auth.close()


async def test_keys_that_are_too_long_or_never_come(
    key_server: KeyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key_server.data = b" " * (key_url.MAX_SET_BYTES + 1)
    auth = Authenticator(load(tmp_path, jwks_url=key_server.url))
    auth.start()
    assert await login(auth, token()) is None
    assert "longer than" in caplog.text
    auth.close()
    listening = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    auth = Authenticator(load(tmp_path, jwks_url=f"http://127.0.0.1:{port}", timeout="100ms"))
    auth.start()
    began = time.monotonic()
    assert await login(auth, token()) is None
    assert time.monotonic() - began < 2
    assert "no answer within 0.1 s" in caplog.text
    auth.close()
    listening.close()


@pytest.mark.parametrize(
    "url", ["http://keys.example.com/x", "ftp://127.0.0.1/", "https://u:p@h/", "https://", "x"]
)
def test_urls_that_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jwks_url"):
        load(tmp_path, jwks_url=url)


def test_an_empty_set_finds_nothing() -> None:
    assert TokenKeys(()).find(None, "ES256") == []
