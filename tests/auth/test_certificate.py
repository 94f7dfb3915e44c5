"""User names from certificates, as OpenSSL writes them."""

from __future__ import annotations

import datetime as dt
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID as N

from isthmus.auth.certificate import CertificateSource, common_name, subject
from isthmus.auth.login import DENIED, Login
from isthmus.auth.source import Unsure


def decoded(path: Path, *groups: list[tuple[x509.ObjectIdentifier, str]]) -> dict[str, Any]:
    """A certificate with this subject, in a file, and as `ssl` decodes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.RelativeDistinguishedName([x509.NameAttribute(oid, text) for oid, text in group])
            for group in groups
        ]
    )
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(built.public_bytes(Encoding.PEM))
    found: dict[str, Any] = ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(
    "groups",
    [
        [[(N.COUNTRY_NAME, "DE")], [(N.ORGANIZATION_NAME, "Acme, Inc.")], [(N.COMMON_NAME, "e7")]],
        [[(N.COMMON_NAME, 'a+b"c\\d<e>f;g=h')]],
        [[(N.COMMON_NAME, "#first")], [(N.ORGANIZATIONAL_UNIT_NAME, " blanks ")]],
        [[(N.COMMON_NAME, "J\u00fcrgen \u6f22 \U0001f600")]],
        [[(N.COMMON_NAME, "tab\tdel\x7f")]],
        [[(N.COMMON_NAME, "x"), (N.ORGANIZATIONAL_UNIT_NAME, "y")], [(N.LOCALITY_NAME, "z")]],
        [
            [(N.DOMAIN_COMPONENT, "org")], [(N.USER_ID, "u")], [(N.EMAIL_ADDRESS, "a@b.c")],
            [(N.SERIAL_NUMBER, "7")], [(N.GIVEN_NAME, "g")], [(N.SURNAME, "s")], [(N.TITLE, "t")],
            [(N.STATE_OR_PROVINCE_NAME, "st")], [(N.STREET_ADDRESS, "str")],
            [(N.POSTAL_CODE, "1")], [(N.PSEUDONYM, "p")], [(N.GENERATION_QUALIFIER, "jr")],
            [(N.DN_QUALIFIER, "q")], [(N.X500_UNIQUE_IDENTIFIER, "1")], [(N.INITIALS, "i")],
            [(N.JURISDICTION_COUNTRY_NAME, "DE")], [(N.BUSINESS_CATEGORY, "b")],
            [(N.JURISDICTION_LOCALITY_NAME, "l")], [(N.ORGANIZATION_IDENTIFIER, "oi")],
            [(N.JURISDICTION_STATE_OR_PROVINCE_NAME, "js")], [(N.UNSTRUCTURED_NAME, "un")],
        ],
    ],
)  # fmt: skip
def test_the_subject_is_what_openssl_prints(tmp_path: Path, groups: Any) -> None:
    path = tmp_path / "c.pem"
    found = decoded(path, *groups)
    printed = subprocess.run(
        ["openssl", "x509", "-in", path, "-noout", "-subject", "-nameopt", "RFC2253"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert subject(found) == printed.removeprefix("subject=").rstrip("\n").removeprefix(" ")


def test_the_common_name_is_the_first(tmp_path: Path) -> None:
    found = decoded(
        tmp_path / "c", [(N.ORGANIZATION_NAME, "o")], [(N.COMMON_NAME, "a")], [(N.COMMON_NAME, "b")]
    )
    assert common_name(found) == "a"


def test_what_gives_no_name_lets_nobody_in(tmp_path: Path) -> None:
    without = decoded(tmp_path / "c", [(N.ORGANIZATION_NAME, "o")])
    strange = decoded(tmp_path / "c", [(x509.ObjectIdentifier("1.2.3.4.5"), "v")])
    zero = {"subject": ((("commonName", "admin\0.x"),),)}
    source = CertificateSource("common_name")
    for certificate in (without, zero, {"subject": ()}, {}):
        login = Login("c", "admin", b"x", certificate=certificate)
        assert source.at_once(login) == DENIED
    login = Login("c", "admin", b"x", certificate=strange)
    assert CertificateSource("subject").at_once(login) == DENIED
    assert source.at_once(Login("c", "admin", b"x")) is Unsure.UNKNOWN
