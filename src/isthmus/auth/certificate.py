r"""The user name that a client certificate gives.

The subject is written as OpenSSL's XN_FLAG_RFC2253 writes it, which is what Mosquitto's
`use_subject_as_username` makes the user name: the last part first, short names, `,` and `+`
between the parts, and every byte that is not plain ASCII as `\XX`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from isthmus.auth.login import DENIED, Login, Verdict
from isthmus.auth.source import Unsure

_SHORT = {
    "businessCategory": "businessCategory",
    "commonName": "CN",
    "countryName": "C",
    "description": "description",
    "dnQualifier": "dnQualifier",
    "domainComponent": "DC",
    "emailAddress": "emailAddress",
    "generationQualifier": "generationQualifier",
    "givenName": "GN",
    "houseIdentifier": "houseIdentifier",
    "initials": "initials",
    "jurisdictionCountryName": "jurisdictionC",
    "jurisdictionLocalityName": "jurisdictionL",
    "jurisdictionStateOrProvinceName": "jurisdictionST",
    "localityName": "L",
    "name": "name",
    "organizationIdentifier": "organizationIdentifier",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "postalCode": "postalCode",
    "pseudonym": "pseudonym",
    "role": "role",
    "serialNumber": "serialNumber",
    "stateOrProvinceName": "ST",
    "streetAddress": "street",
    "surname": "SN",
    "telephoneNumber": "telephoneNumber",
    "title": "title",
    "uniqueIdentifier": "uid",
    "unstructuredAddress": "unstructuredAddress",
    "unstructuredName": "unstructuredName",
    "userId": "UID",
    "x500UniqueIdentifier": "x500UniqueIdentifier",
}
"""OpenSSL's long names of attributes, as `ssl` gives them, and its short ones."""

_ESCAPED = frozenset(',+"\\<>;')


class CertificateSource:
    """Knows everybody who shows a certificate. The name that the client sends is replaced."""

    name = "identity"

    def __init__(self, identity: Literal["common_name", "subject"]) -> None:
        self._identity = identity

    def is_guess(self, login: Login) -> bool:
        """Never: nobody guesses a certificate."""
        del login
        return False

    def at_once(self, login: Login) -> Verdict | Unsure:
        """Read the name out of the certificate; TLS has verified it."""
        if login.certificate is None:
            return Unsure.UNKNOWN
        read = common_name if self._identity == "common_name" else subject
        try:
            username = read(login.certificate)
        except ValueError:
            return DENIED
        return Verdict(True, username, by=self.name, proof=self._identity)

    async def ask(self, login: Login, gone: Callable[[], bool]) -> Verdict | Unsure:
        """Never needed."""
        del gone
        return self.at_once(login)

    def still_good(self, verdict: Verdict) -> bool:
        """Whether the name is still read from the same place."""
        return verdict.proof == self._identity

    def start(self) -> None:
        """Nothing runs in the background."""

    def close(self) -> None:
        """Nothing to end."""


def common_name(certificate: Mapping[str, Any]) -> str:
    """Return the common name of the subject; the first, if there are several.

    Raises:
        ValueError: there is none, or it is no user name.
    """
    for name, value in _attributes(certificate):
        if name == "commonName":
            return _usable(value)
    raise ValueError("the certificate has no common name")


def subject(certificate: Mapping[str, Any]) -> str:
    """Return the subject in the form of RFC 2253.

    Raises:
        ValueError: it is empty, or has an attribute whose form OpenSSL would have to be asked for.
    """
    parts = []
    for group in reversed(certificate.get("subject", ())):
        pairs = []
        for name, value in reversed(group):
            if name not in _SHORT:
                raise ValueError(f"the certificate's subject has the unknown attribute {name}")
            pairs.append(f"{_SHORT[name]}={_escape(value)}")
        parts.append("+".join(pairs))
    return _usable(",".join(parts))


def _attributes(certificate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for group in certificate.get("subject", ()):
        yield from group


def _usable(name: str) -> str:
    # A NUL would end the name for every program that is written in C.
    if not name or "\0" in name:
        raise ValueError("the name in the certificate is empty or holds a NUL")
    return name


def _escape(value: str) -> str:
    last = len(value) - 1
    text = ""
    for index, char in enumerate(value):
        code = ord(char)
        if char in _ESCAPED or (char == "#" and not index) or (char == " " and index in (0, last)):
            text += f"\\{char}"
        elif code < 0x20 or code >= 0x7F:
            text += "".join(f"\\{byte:02X}" for byte in char.encode(errors="surrogatepass"))
        else:
            text += char
    return text
