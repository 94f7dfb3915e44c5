"""SCRAM-SHA-256: the exchange of RFC 7677, the file, and what an attacker can learn."""

from __future__ import annotations

import base64
from itertools import count
from pathlib import Path

import pytest
from scram_client import final

from isthmus.auth.login import Login
from isthmus.auth.saslprep import saslprep
from isthmus.auth.scram import ScramMethod
from isthmus.auth.scram_file import (
    ScramEntry,
    ScramFile,
    create_scram_entry,
    create_secret,
    derive,
)
from isthmus.errors import ConfigError

LOGIN = Login("c", None, None)

# RFC 7677, section 3.
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
FIRST = f"n,,n=user,r={CLIENT_NONCE}"
CHALLENGE = f"r={CLIENT_NONCE}{SERVER_NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
FINAL = f"c=biws,r={CLIENT_NONCE}{SERVER_NONCE},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SIGNATURE = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def users(**more: ScramEntry) -> ScramFile:
    return ScramFile({"user": derive("pencil", SALT, 4096), **more}, b"k" * 32)


def method(**more: ScramEntry) -> ScramMethod:
    return ScramMethod(users(**more), nonce=lambda: SERVER_NONCE)


async def test_the_exchange_of_rfc_7677() -> None:
    exchange = method().begin(LOGIN)
    assert (await exchange.step(FIRST.encode())) == (CHALLENGE.encode(), None)
    step = await exchange.step(FINAL.encode())
    assert step.data == SIGNATURE.encode()
    assert step.verdict is not None
    assert (step.verdict.allowed, step.verdict.username) == (True, "user")


async def test_a_client_that_begins_without_data_is_asked_to_begin() -> None:
    exchange = method().begin(LOGIN)
    assert (await exchange.step(None)) == (b"", None)
    assert (await exchange.step(FIRST.encode())).data == CHALLENGE.encode()


@pytest.mark.parametrize(
    "message",
    [
        "", "n", "n,,", "n,,n=user", "x,,n=user,r=a", "p=tls-unique,,n=user,r=a", "n,,n=,r=a",
        "n,,n=user,r=", "n,,n=us=er,r=a", "n,a=admin,n=user,r=a", "n,,m=ext,n=user,r=a",
        "n,,n=user,r=" + "a" * 2000, "n,,r=a,n=user", "n,,n=u\x00ser,r=a",
    ],
)  # fmt: skip
async def test_a_bad_first_message_is_refused(message: str) -> None:
    step = await method().begin(LOGIN).step(message.encode())
    assert step.data is None
    assert step.verdict is not None
    assert not step.verdict.allowed


@pytest.mark.parametrize(
    "message",
    [
        "", "c=biws", FINAL.replace("p=d", "p=e"), FINAL.replace("c=biws", "c=eSws"),
        FINAL.replace("NlF$k", "NlF$j"), FINAL.replace(SERVER_NONCE, ""), FINAL[:-4], FINAL + "x",
        "c=biws,r=x,p=", "\udcff",
    ],
)  # fmt: skip
async def test_a_bad_final_message_is_refused(message: str) -> None:
    exchange = method().begin(LOGIN)
    await exchange.step(FIRST.encode())
    step = await exchange.step(message.encode(errors="surrogateescape"))
    assert message != FINAL
    assert step.verdict is not None
    assert not step.verdict.allowed
    assert step.data is None


async def test_an_unknown_user_looks_like_a_known_one() -> None:
    known = (await method().begin(LOGIN).step(b"n,,n=user,r=x")).data or b""
    unknown = (await method().begin(LOGIN).step(b"n,,n=nobody,r=x")).data or b""
    assert [part[:2] for part in known.split(b",")] == [part[:2] for part in unknown.split(b",")]
    assert len(known) == len(unknown)
    assert known.split(b",")[2] == unknown.split(b",")[2]
    again = (await method().begin(LOGIN).step(b"n,,n=nobody,r=x")).data
    assert again == unknown  # a salt that changed would tell
    other = (await method().begin(LOGIN).step(b"n,,n=nobody2,r=x")).data
    assert other != unknown


async def test_nobody_gets_in_as_an_unknown_user() -> None:
    """Also not with the password of the user whose entry the stand-in looks like."""
    exchange = method().begin(LOGIN)
    challenge = (await exchange.step(b"n,,n=nobody,r=x")).data or b""
    step = await exchange.step(final("n,,n=nobody,r=x", challenge.decode(), "pencil").encode())
    assert step.verdict is not None
    assert not step.verdict.allowed


async def test_names_with_commas_and_equals_signs() -> None:
    strange = method(**{"a,b=c": derive("pw", SALT, 4096)})
    exchange = strange.begin(LOGIN)
    first = "n,,n=a=2Cb=3Dc,r=x"
    challenge = (await exchange.step(first.encode())).data or b""
    step = await exchange.step(final(first, challenge.decode(), "pw").encode())
    assert step.verdict is not None
    assert (step.verdict.allowed, step.verdict.username) == (True, "a,b=c")


def test_saslprep_as_rfc_4013_shows_it() -> None:
    assert saslprep("I\u00adX") == "IX"
    assert saslprep("user") == "user"
    assert saslprep("USER") == "USER"
    assert saslprep("\u00aa") == "a"
    assert saslprep("\u2168") == "IX"
    for forbidden in ("\u0007", "\u06271"):
        with pytest.raises(ValueError, match="RFC"):
            saslprep(forbidden)


# -- the file ------------------------------------------------------------------------------------


def test_a_file_that_isthmus_wrote(tmp_path: Path) -> None:
    path = tmp_path / "scram.txt"
    line = create_scram_entry("anna", "pw", iterations=4096)
    path.write_text(f"# people\n{create_secret()}\n{line}\n")
    found = ScramFile.load(path)
    entry = found.entry("anna")
    assert entry is not None
    assert derive("pw", entry.salt, 4096) == entry
    assert found.entry("bert") is None
    assert (
        found.entry_or_stand_in("bert").salt == ScramFile.load(path).entry_or_stand_in("bert").salt
    )


GOOD = create_scram_entry("anna", "pw", iterations=4096)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: has no users"),
        ("# only a comment\n", "1: has no users"),
        (f"{create_secret()}\n", "1: has no users"),
        ("anna\n", "1: the line is not"),
        ("anna:secret\n", "1: is no SCRAM-SHA-256 entry"),
        (f"{GOOD}\n{GOOD}\n", "2: the user is there twice"),
        (GOOD.replace("$4096:", "$100:"), "1: the iterations must be between 4096"),
        (GOOD.replace("$4096:", "$x:"), "1: the number of iterations"),
        (GOOD[:-10], "1: a"),
        (GOOD.replace("SCRAM-SHA-256", "SCRAM-SHA-1"), "1: is no SCRAM-SHA-256 entry"),
    ],
    ids=count(),  # the entries are random
)
def test_a_garbled_file_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "scram.txt"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        ScramFile.load(path)
    assert f"{path}:{problem}" in str(caught.value)
    assert "secret" not in str(caught.value)
