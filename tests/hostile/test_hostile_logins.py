"""Forged proofs: tokens, certificates, a web service that is not what it should be, AUTH."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import hashlib
import hmac
import itertools
import json
import ssl
import time
from types import SimpleNamespace
from typing import Any, Self

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from isthmus.auth.passwords import create_entry
from isthmus.auth.scram_file import create_scram_entry, create_secret
from mosquitto import free_port
from raw import AUTH, CONNACK, Raw, auth_packet, connect_packet, within

PASSWORD = "right"
TOKENS, HOOK, NAMES, SUBJECTS, OTHER, SCRAM, SERVICE = (free_port() for _ in range(7))

GOOD = {"username": "good", "password": PASSWORD}

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
STRANGER = ec.generate_private_key(ec.SECP256R1())
PKI = SimpleNamespace(folder=None)


def public(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


def configuration(folder):
    PKI.folder = folder
    entries = [create_entry(name, PASSWORD.encode(), iterations=101) for name in ("good", "anna")]
    scram = [create_secret(), create_scram_entry("anna", PASSWORD, iterations=4096)]
    files = {
        "users": "\n".join(entries) + "\n",
        "access": "user good\ntopic good/#\nuser anna\ntopic first/#\npattern own/%u/#\n",
        "other": "user anna\ntopic second/#\npattern own/%u/#\n",
        "scram": "\n".join(scram) + "\n",
        "ec.pem": public(EC).decode(),
        "rsa.pem": public(RSA).decode(),
    }
    for name, content in files.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0o600)
    (folder / "ca.pem").write_bytes(CA.public_bytes(Encoding.PEM))
    issue(common("localhost"), path=folder / "server.pem")
    tls = {
        "certificate": str(folder / "server.pem"),
        "client_ca": str(folder / "ca.pem"),
        "require_client_certificate": True,
    }
    own = {"acl_file": str(folder / "other")}

    def listener(port: int, auth: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"bind": f"127.0.0.1:{port}", "auth": {**own, **auth}, **more}

    service = {"url": f"http://127.0.0.1:{SERVICE}/", "timeout": "300ms", "cache": "0s"}
    return {
        "listeners": [
            {"bind": f"127.0.0.1:{free_port()}"},
            listener(
                TOKENS,
                {
                    "jwt": {
                        "keys": [str(folder / "ec.pem"), str(folder / "rsa.pem")],
                        "audience": "here",
                        "issuer": "us",
                    }
                },
            ),
            listener(HOOK, {"http": service}),
            listener(NAMES, {"identity": "common_name"}, tls=tls),
            listener(SUBJECTS, {"identity": "subject"}, tls=tls),
            listener(OTHER, {"password_file": str(folder / "users")}),
            listener(SCRAM, {"scram": str(folder / "scram")}),
        ],
        "auth": {"password_file": str(folder / "users"), "acl_file": str(folder / "access")},
        "broker": {
            "limits": {
                "connect_timeout": "1500ms",
                # These tests are one flood of wrong logins; tests/auth/test_guesses.py stops it.
                "failed_login_rate": None,
                "failed_login_rate_per_user": None,
            }
        },
    }


async def refused(port: int, **how: Any) -> int:
    """The code of the CONNACK that refuses a client."""
    raw = await Raw.open(port)
    raw.send(connect_packet("x", **how))
    answer = await raw.expect(CONNACK)
    assert await raw.closed() == b""
    raw.close()
    return answer.code


# -- tokens --------------------------------------------------------------------------------------


def part(data: bytes | dict[str, Any]) -> bytes:
    data = json.dumps(data).encode() if isinstance(data, dict) else data
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def claims(**more: Any) -> dict[str, Any]:
    return {"sub": "anna", "iss": "us", "aud": "here", "exp": int(time.time()) + 60, **more}


def forged(header: dict[str, Any], signature: bytes = b"", **more: Any) -> bytes:
    return b".".join((part({"typ": "JWT", **header}), part(claims(**more)), part(signature)))


def hmac_of(key: bytes, header: dict[str, Any], digest: str = "sha256") -> bytes:
    signed = forged(header).rpartition(b".")[0]
    return signed + b"." + part(hmac.new(key, signed, digest).digest())


def true(header: dict[str, Any] | None = None, key: Any = EC, **more: Any) -> bytes:
    """A token with a good signature, whatever it says."""
    algorithm = "RS256" if key is RSA else "ES256"
    signed = forged({"alg": algorithm, **(header or {})}, **more).rpartition(b".")[0]
    return signed + b"." + part(jwt.get_algorithm_by_name(algorithm).sign(signed, key))


def numbers(key: Any) -> dict[str, Any]:
    found: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return found


def der(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return found


DOTS = [b".", b"..", b"...", b"....", b"." * 16_000, b"e30.e30.e30", b"e30.e30."]

FORGED: dict[str, Any] = {
    "DSA-3293 CVE-2022-29217 HMAC with a public key": lambda: [
        hmac_of(secret, {"alg": f"HS{digest[3:]}"}, digest)
        for key in (EC, RSA)
        for secret in (public(key), public(key).strip(), der(key), b"", b"\0")
        for digest in ("sha256", "sha384", "sha512")
    ],
    "DSA-3293 with the certificate's words in other shapes": lambda: [
        hmac_of(public(EC), {"alg": name}) for name in ("hs256", "HS256 ", "HMAC", "HS1")
    ],
    "python-jose#274 CVE-2024-33663 the algorithm of another key": lambda: [
        forged({"alg": "RS256"}, EC.sign(b"x", ec.ECDSA(hashes.SHA256()))),
        forged({"alg": "ES256"}, RSA.sign(b"x", padding.PKCS1v15(), hashes.SHA256())),
        forged({"alg": "ES384"}, b"\1" * 96),
        forged({"alg": "EdDSA"}, b"\1" * 64),
    ],
    "CVE-2024-33664 encrypted and compressed": lambda: [
        b".".join([part({"alg": "dir", "enc": "A256GCM", "zip": "DEF"}), *[part(b"x" * 50)] * 4]),
        forged({"alg": "ES256", "zip": "DEF"}, b"\1" * 64),
    ],
    "CVE-2025-59420 extensions nobody knows": lambda: [
        true({"crit": ["x"], "x": 1}),
        true({"crit": []}),
        true({"crit": ["exp"], "exp": 1}),
        true({"crit": None}),
        true({"crit": ["b64"], "b64": False}),
        true({"b64": True}),
    ],
    "gapbench jwt no algorithm": lambda: [
        forged({"alg": name}, signature)
        for name in ("none", "None", "NONE", "nOnE", "", " none", None, 0, ["ES256"], {"a": 1})
        for signature in (b"", b"\0" * 64)
    ],
    "gapbench jwt a key of the token's own": lambda: (
        [
            jwt.encode(claims(), STRANGER, "ES256", headers=header).encode()
            for header in (
                {"jwk": numbers(STRANGER)},
                {"jku": f"http://127.0.0.1:{SERVICE}/keys"},
                {"x5u": f"http://127.0.0.1:{SERVICE}/x5u"},
                {"x5c": [base64.b64encode(der(STRANGER)).decode()]},
                {"kid": "../../../dev/null"},
                {"kid": "' OR 1=1 --"},
                {"kid": "|id"},
                {"kid": "x" * 5000},
            )
        ]
        + [hmac_of(b"", {"alg": "HS256", "kid": "/dev/null"}), forged({"alg": "ES256", "kid": 1})]
    ),
    "gapbench jwt signatures of nothing": lambda: [
        forged({"alg": "ES256"}, bytes(64)),
        forged({"alg": "ES256"}, b"\xff" * 64),
        forged({"alg": "ES256"}, b""),
        forged({"alg": "RS256"}, bytes(256)),
        forged({"alg": "RS256"}, b"\xff" * 256),
        true()[:-1],
        true()[:-4],
        true() + b"A",
        true() + b"=",
        true() + b"\n",
        true() + b".x",
        b" " + true(),
        true().replace(b".", b"=.", 1),
        true().rpartition(b".")[0] + b".",
    ],
    "gapbench jwt claims of somebody else": lambda: [
        true(aud=None),
        true(aud="there"),
        true(aud=["there"]),
        true(aud=[["here"]]),
        true(aud=[]),
        true(iss="them"),
        true(iss=["us"]),
        true(iss=None),
        true(sub=""),
        true(sub="a\nb"),
    ],
    "gapbench jwt times": lambda: [
        true(exp=int(time.time()) - 11),
        true(exp=0),
        true(exp=-1),
        true(exp=None),
        true(exp=10**30),
        true(nbf=int(time.time()) + 30),
        true(iat=int(time.time()) + 30),
        true(acl={"pub": "#"}),
        true(acl="#"),
        true(acl={"pub": ["a/#/b"]}),
        true(acl=[{"permission": "allow", "action": "all", "topic": "#", "x": 1}]),
    ],
    "gapbench jwt texts that are no tokens": lambda: [
        *DOTS,
        b"",
        b"\0",
        b"Bearer " + true(),
        part(b"[" * 4000) + b"." + part(b"{}") + b".",
        part({"alg": "ES256"}) + b"." + part(b"[" * 4000) + b"." + part(bytes(64)),
        part(b'{"alg":"ES256","alg":"none"}') + b"." + part(claims()) + b".",
        part({"alg": "ES256"}) + b"." + part(b'{"a":' + b"9" * 5000 + b"}") + b"." + part(b"x"),
        b"x" * 60_000,
        true(padding="x" * 20_000),
    ],
}


@pytest.mark.parametrize("what", FORGED)
async def test_forged_tokens(victim, served, what):
    """Each is refused with the one answer that all of them get, and says nothing to the log."""
    asked = []
    async with await asyncio.start_server(
        lambda _, writer: (asked.append(1), writer.close()), "127.0.0.1", SERVICE
    ):
        before = len(victim.log)
        for token in FORGED[what]():
            for name in ("anna", None):
                code = await refused(TOKENS, username=name, password=token)
                assert code == (0x86 if name else 0x87), token[:100]
    assert not asked, "it went where a token told it to"
    assert served() < 1
    assert victim.log[before:].replace("\n", "").isprintable()


async def test_gapbench_jwt_the_true_ones(victim):
    """gapbench jwt: the others were refused for what they are, and not because nothing works."""
    for key in (EC, RSA):
        raw = await Raw.client(TOKENS, "t", username="bert", password=true(key=key))
        assert await raw.subscribe("second/x", "own/anna/x", "own/bert/x") == [0, 0, 0x87]
    for number, sub in enumerate(("#", "+", "a/b", "%u", "x" * 3000)):
        raw = await Raw.client(TOKENS, f"t{number}", username="x", password=true(sub=sub))
        assert await raw.subscribe("own/anna/x") == [0x87], sub
        assert await raw.published("own/anna/x", "forged", 1) == 0x87
        await raw.subscribe("own/#")
        await raw.nothing()
    # A lone surrogate is no text: nothing could write it down.
    assert await refused(TOKENS, username="x", password=true(sub="\ud800")) == 0x86


# -- certificates --------------------------------------------------------------------------------

CA_KEY = rsa.generate_private_key(65537, 2048)
_CA_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hostile CA")])
_SINCE = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)


def _certificate(subject: x509.Name, key: Any, *, authority: bool) -> x509.Certificate:
    return (
        x509.CertificateBuilder(_CA_NAME, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(_SINCE)
        .not_valid_after(_SINCE + dt.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(CA_KEY, hashes.SHA256())
    )


CA = _certificate(_CA_NAME, CA_KEY, authority=True)


def issue(*names: x509.NameAttribute, path: Any, change: tuple[bytes, bytes] = (b"", b"")) -> None:
    """A certificate and its key; `change` replaces bytes of it before it is signed."""
    signed = _certificate(x509.Name(names), EC, authority=False)
    data, body = signed.public_bytes(Encoding.DER), signed.tbs_certificate_bytes
    changed = body.replace(*change) if change[0] else body
    assert len(changed) == len(body)
    assert (changed != body) == bool(change[0])
    signature = CA_KEY.sign(changed, padding.PKCS1v15(), hashes.SHA256())
    data = data.replace(body, changed)[:-256] + signature
    key = EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(key + ssl.DER_cert_to_PEM_cert(data).encode())
    path.chmod(0o600)


def common(value: str) -> x509.NameAttribute:
    return x509.NameAttribute(NameOID.COMMON_NAME, value, _validate=False)


CLIENT_IDS = itertools.count()


async def shown(port: int, *names: x509.NameAttribute, **how: Any) -> Raw | int:
    """Connect with a certificate: the client, or the code that it was refused with."""
    path = PKI.folder / "client.pem"
    issue(*names, path=path, **how)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(PKI.folder / "ca.pem")
    context.load_cert_chain(path)
    raw = await Raw.open(port, ssl=context)
    raw.send(connect_packet(f"c{next(CLIENT_IDS)}", username="anna", password=PASSWORD))
    answer = await raw.expect(CONNACK)
    return answer.code or raw


@pytest.mark.parametrize(
    "name",
    ["anna,O=x", "anna=x", "anna+CN=anna", " anna", "anna ", "Anna", "anna\n", "\u0430nna",
     "anna\u200b", "a\u0308nna", '"anna"', "\\61nna", "#616e6e61", "#", "+", "%u", "anna/x"],
)  # fmt: skip
async def test_cve_2026_33248_names_that_look_like_another(victim, name):
    """CVE-2026-33248: what looks like anna, or would be it in another spelling, is not anna."""
    before = len(victim.log)
    for port in (NAMES, SUBJECTS):
        raw = await shown(port, common(name))
        if isinstance(raw, int):
            continue
        assert await raw.subscribe("second/x", "own/anna/x") == [0x87, 0x87]
        assert await raw.published("own/anna/x", "forged", 1) == 0x87
        raw.close()
    assert victim.log[before:].replace("\n", "").isprintable()


async def test_cve_2026_33248_a_subject_is_one_whole_name(victim):
    """CVE-2026-33248: `CN=anna` is not the user anna, and an escaped comma is no separator."""
    raw = await shown(NAMES, common("anna"))
    assert await raw.subscribe("second/x", "own/anna/x") == [0, 0]
    for names in (
        [common("anna")],
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x"), common("anna")],
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "anna")],
    ):
        raw = await shown(SUBJECTS, *names)
        assert await raw.subscribe("second/x", "own/anna/x") == [0x87, 0x87]
    raw = await shown(NAMES, common("first"), common("anna"))  # the first of two names counts
    assert await raw.subscribe("own/first/x", "own/anna/x") == [0, 0x87]
    assert await shown(NAMES, x509.NameAttribute(NameOID.ORGANIZATION_NAME, "anna")) == 0x86


@pytest.mark.parametrize("change", [(b"anna__x", b"anna\0.x"), (b"anna__x", b"\0nna__x")])
@pytest.mark.parametrize("port", [NAMES, SUBJECTS], ids=["names", "subjects"])
async def test_cve_2026_33248_names_with_nul(victim, port, change):
    """CVE-2026-33248: signed by an authority that did not look; nobody is let in by them."""
    raw = await shown(port, common("anna__x"), change=change)
    if isinstance(raw, Raw):  # a subject shows bytes like these as \\00, as OpenSSL does
        assert port == SUBJECTS
        assert await raw.subscribe("second/x", "own/anna/x") == [0x87, 0x87]
    else:
        assert raw == 0x86


# -- a listener's own list -----------------------------------------------------------------------


@pytest.mark.parametrize("version", [5, 4])
async def test_cve_2018_20145_the_access_list_of_a_listener(victim, version):
    """CVE-2018-20145: one password file, two listeners, two lists: each keeps its own."""
    refusal, denied = (0x87, 0x87) if version == 5 else (0x80, 0)
    how = {"username": "anna", "password": PASSWORD}
    first = await Raw.client(victim.port, "first", version, **how)
    second = await Raw.client(OTHER, "second", version, **how)
    assert await first.subscribe("first/#", "second/#") == [0, refusal]
    assert await second.subscribe("first/#", "second/#", "#") == [refusal, 0, 0]
    assert await second.published("first/x", "forged", 1, retain=True) == denied
    assert await first.published("second/x", "forged", 1, retain=True) == denied
    first.publish("first/x", "private")
    assert [found.topic for found in await first.arrived()] == ["first/x"]
    await second.nothing()
    # Their names are the same, and they are two: neither takes the other's session.
    for port, name in ((OTHER, "first"), (victim.port, "second")):
        raw = await Raw.open(port, version)
        raw.send(connect_packet(name, version, **how))
        assert (await raw.expect(CONNACK)).code == (0x87 if version == 5 else 5)


async def test_cve_2018_20145_nobody_comes_in_by_the_door_of_another(victim):
    """CVE-2018-20145: what one listener knows is worth nothing at the others."""
    token = true()
    for port in (victim.port, HOOK, OTHER, SCRAM):
        assert await refused(port, username="anna", password=token) in (0x86, 0x88)
        assert await refused(port, password=token) in (0x86, 0x87, 0x88)
    for port in (TOKENS, SCRAM, HOOK):
        assert await refused(port, username="anna", password=PASSWORD) in (0x86, 0x88)
    for port in (victim.port, TOKENS, OTHER, HOOK):
        assert await refused(port, auth_method="SCRAM-SHA-256", auth_data=b"n,,n=anna,r=x") == 0x8C


# -- a web service -------------------------------------------------------------------------------


def answer(body: bytes, head: str = "200 OK", *lines: str) -> bytes:
    lines += (f"Content-Length: {len(body)}", "Connection: close")
    fields = "".join(f"{line}\r\n" for line in lines)
    return f"HTTP/1.1 {head}\r\n{fields}\r\n".encode() + body


ALLOW = b'{"result":"allow"}'

ANSWERS: dict[str, Any] = {
    "nothing": b"",
    "a status": answer(ALLOW, "500 No"),
    "no content": answer(b"", "204 No Content"),
    "a redirect": answer(ALLOW, "302 Found", f"Location: http://127.0.0.1:{SERVICE}/allow"),
    "a permanent redirect": answer(ALLOW, "308 Found", f"Location: http://127.0.0.1:{SERVICE}/x"),
    "not modified": answer(b"", "304 Not Modified"),
    "no HTTP": b"\x16\x03\x01" + ALLOW,
    "half a header": b"HTTP/1.1 200 OK\r\nContent-Le",
    "half a body": answer(ALLOW * 2)[:-10],
    "a huge body": answer(b" " * 2_000_000 + ALLOW),
    "a huge line": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
    "many lines": b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 2000 + b"\r\n" + ALLOW,
    "chunks that are none": answer(b"", "200 OK", "Transfer-Encoding: chunked") + b"zz\r\nx",
    "a chunk without end": answer(b"", "200 OK", "Transfer-Encoding: chunked") + b"ffffffff\r\nx",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + b" " * 300_000,
    "continue without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 50_000,
    **{
        f"a body of {body[:30]!r}": answer(body)
        for body in (
            b"", b"null", b"true", b"1", b"[]", b'"allow"', b"{}", b'{"result":true}', b"allow",
            b'{"result":"ALLOW"}', b'{"result":"allow "}', b'{"result":["allow"]}', b"\xff" + ALLOW,
            b'{"result":"allow"', b"[" * 100_000, b'{"result":"allow","is_superuser":1}',
            b'{"result":"allow","is_superuser":"false"}', b'{"result":"allow","acl":"#"}',
            b'{"result":"allow","acl":{"pub":["a/#/b"]}}', b'{"result":"allow","expire_at":"9"}',
            b'{"result":"allow","acl":[{"permission":"deny"}]}',
            b'{"result":"allow","expire_at":1e999}', b'{"result":"allow","expire_at":NaN}',
            b'{"result":"allow","expire_at":true}', b"9" * 10_000,
        )
    },
}  # fmt: skip


class Service:
    """A server that answers every request with the same bytes."""

    def __init__(self, data: bytes, *, stays: bool = False, drips: bool = False) -> None:
        self.data, self.stays, self.drips = data, stays, drips
        self.questions: list[dict[str, Any]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length:")[2].split()[0])
            self.questions.append(json.loads(await reader.readexactly(size)))
            if self.drips:
                for at in range(len(self.data)):
                    writer.write(self.data[at : at + 1])
                    await asyncio.sleep(0.1)
            writer.write(self.data)
            if self.stays:
                await reader.read()
        writer.close()

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self, "127.0.0.1", SERVICE)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()


HOW = {"username": "anna", "password": PASSWORD}


async def test_nanomq_2191_a_service_with_wrong_answers(victim, served):
    """nanomq#2191: whatever is no clear "allow" lets nobody in, and is not what the client did."""
    assert await refused(HOOK, **HOW) == 0x88  # nothing listens there
    for what, data in ANSWERS.items():
        async with Service(data) as service:
            assert await refused(HOOK, **HOW) == 0x88, what
            assert len(service.questions) == 1 or what == "nothing", what
    assert served() < 1
    assert "c4n4ry" not in victim.log


async def test_nanomq_2191_a_service_that_is_slow(victim, served):
    """nanomq#2191: it says nothing, or a byte now and then; others do not wait for it."""
    for how in ({"data": b"", "stays": True}, {"data": answer(ALLOW), "drips": True}):
        async with Service(**how):
            begin = time.monotonic()
            waiting = [asyncio.ensure_future(refused(HOOK, **HOW)) for _ in range(8)]
            await asyncio.sleep(0.1)
            assert served() < 0.3
            assert set(await asyncio.gather(*waiting)) == {0x88}
            assert time.monotonic() - begin < 3


async def test_nanomq_2191_nobody_is_asked_about_as_nobody(victim):
    """nanomq#2191, nanomq#1819: no user name is null, an empty one is empty."""
    async with Service(answer(b'{"result":"deny"}')) as service:
        assert await refused(HOOK) == 0x87
        assert await refused(HOOK, username="", password="") == 0x86
        assert await refused(HOOK, username='"}', password="\ud7ff") == 0x86
        assert await refused(HOOK, username="anna", password="\xff\xfe".encode("latin-1")) == 0x86
    asked = [(one["username"], one.get("password")) for one in service.questions]
    assert asked[:3] == [(None, None), ("", ""), ('"}', "\ud7ff")]
    assert base64.b64decode(service.questions[3]["password_base64"]) == b"\xff\xfe"


# -- AUTH ----------------------------------------------------------------------------------------

SCRAM_METHOD = "SCRAM-SHA-256"


async def begun(user: str = "anna", data: bytes | None = None) -> Raw:
    raw = await Raw.open(SCRAM)
    data = f"n,,n={user},r=abc".encode() if data is None else data
    raw.send(connect_packet("s", auth_method=SCRAM_METHOD, auth_data=data))
    return raw


async def test_slowloris_a_client_that_never_answers_auth(victim, served):
    """slowloris: 100 exchanges that stop in the middle end by the deadline of CONNECT."""
    begin = time.monotonic()
    raws = [await begun() for _ in range(100)]
    for raw in raws:
        assert (await raw.expect(AUTH)).code == 0x18
    assert served() < 1
    for raw in raws:
        await raw.closed()
    assert time.monotonic() - begin < 4


@pytest.mark.parametrize(
    "data",
    [b"", b"n", b"n,,", b"n,,n=,r=x", b"n,,n=anna", b"n,,n=anna,r=", b"n,,r=x,n=anna", b"\xff",
     b"p=tls-unique,,n=anna,r=x", b"n,a=bert,n=anna,r=x", b"n,,m=x,n=anna,r=x", b"n,,n=an=zz,r=x",
     b"n,,n=an\0na,r=x", b"n,,n=anna,r=" + b"x" * 2000, b"," * 1000, b"x" * 60_000,
     "n,,n=anna\u0340,r=x".encode()],
)  # fmt: skip
async def test_scram_that_begins_wrong(victim, data):
    """RFC 5802: refused, with the same code for every reason."""
    raw = await begun(data=data)
    found = await raw.packet()
    if found.kind == AUTH:
        raw.send(auth_packet(0x18, SCRAM_METHOD, b"c=biws,r=x,p=x"))
        found = await raw.packet()
    assert (found.kind, found.code) == (CONNACK, 0x87)
    assert await raw.closed() == b""


@pytest.mark.parametrize("user", ["anna", "nobody"])
@pytest.mark.parametrize(
    "last",
    ["c=biws,r={nonce},p=" + base64.b64encode(bytes(32)).decode(), "c=biws,r={nonce},p=",
     "c=biws,r={nonce}", "c=biws,r=abc,p=AAAA", "", "c=cD10bHM=,r={nonce},p=AAAA", "p=", ",,,",
     "c=biws,r={nonce},p=!!!!", "c=biws,r={nonce},p=" + "A" * 10_000, "n,,n=anna,r=abc",
     "c=biws,r={nonce}\ud7ff,p=" + base64.b64encode(hashlib.sha256(b"").digest()).decode()],
)  # fmt: skip
async def test_scram_that_ends_wrong(victim, user, last):
    """RFC 5802: no proof, another's, none at all; users who do not exist look the same."""
    raw = await begun(user)
    challenge = (await raw.expect(AUTH)).properties["auth_data"].decode()
    assert challenge.endswith(",i=4096")
    nonce = challenge.split(",")[0][2:]
    raw.send(auth_packet(0x18, SCRAM_METHOD, last.format(nonce=nonce).encode()))
    assert (await raw.expect(CONNACK)).code == 0x87
    assert await raw.closed() == b""


@pytest.mark.parametrize(
    "packets",
    [[auth_packet(0x19, SCRAM_METHOD, b"n,,n=anna,r=x")], [auth_packet(0, SCRAM_METHOD)],
     [auth_packet(0x18, "OTHER", b"x")], [auth_packet(0x18, None, b"x")],
     [connect_packet("again")], [b"\xc0\0"], [b"\xf0\0"],
     [auth_packet(0x18, SCRAM_METHOD, b"x")] * 50],
)  # fmt: skip
async def test_auth_out_of_place(victim, packets):
    """MQTT 5, 4.12: nothing but the next step is due before the CONNACK."""
    raw = await begun()
    raw.send(*packets)
    data = await within(raw.closed())
    assert b"\x20" not in data[:1] or data[3] >= 0x80
    kinds = {data[0] >> 4} if data else set()
    assert kinds <= {CONNACK, AUTH, 14}
    raw = await begun()
    await raw.expect(AUTH)
    raw.send(*packets)
    await within(raw.closed())
