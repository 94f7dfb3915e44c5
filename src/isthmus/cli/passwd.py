"""`isthmus passwd`: the users of a password file, or of a SCRAM credentials file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

KINDS = ("argon2id", "sha512-pbkdf2")


def passwd(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File of users; made if needed.")],
    username: Annotated[str, typer.Argument(metavar="USER", help="Whose password it is.")],
    delete: Annotated[
        bool, typer.Option("-D", "--delete", help="Remove the user instead.")
    ] = False,
    kind: Annotated[
        str | None,
        typer.Option(
            "-H",
            "--hash",
            metavar="KIND",
            help="argon2id, or sha512-pbkdf2 for Mosquitto 2.0 and older programs."
            "  [default: argon2id if its library is installed]",
            show_default=False,
        ),
    ] = None,
    scram: Annotated[
        bool,
        typer.Option(
            "--scram", help="FILE is a credentials file for SCRAM-SHA-256 (`auth.scram`)."
        ),
    ] = False,
    iterations: Annotated[
        int | None,
        typer.Option(
            "-I",
            "--iterations",
            min=1,
            metavar="N",
            help="Rounds of sha512-pbkdf2 or SCRAM.  [default: 210000, SCRAM 600000]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Create or change a user of FILE, or delete one.

    The password is asked for twice, or read from a line of standard input. FILE is replaced as a
    whole and is readable for its owner only.

    \b
      isthmus passwd users.txt sensor1
      echo "$PASSWORD" | isthmus passwd users.txt sensor1
      isthmus passwd --scram scram.txt sensor1
      isthmus passwd -D users.txt sensor1

    \b
    Exit status: 0 done; 2 wrong usage, or the file cannot be used.
    """  # noqa: D301
    from isthmus.auth.passwords import (
        DEFAULT_ITERATIONS,
        PasswordFile,
        check_new_username,
        create_entry,
        has_argon2,
    )
    from isthmus.auth.scram_file import DEFAULT_ITERATIONS as SCRAM_ITERATIONS
    from isthmus.auth.scram_file import ScramFile, create_scram_entry, create_secret
    from isthmus.auth.user_lines import check_with, remove_line, set_line

    if kind is not None and kind not in KINDS:
        raise typer.BadParameter(f"use {' or '.join(KINDS)}", param_hint="-H")
    try:
        check_new_username(username)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="USER") from None
    check_with(file, ScramFile.load if scram else PasswordFile.load)
    if delete:
        remove_line(file, username)
        typer.echo(f"{file}: {username} was removed", err=True)
        return
    password = _password()
    note = ""
    if kind is None and not scram:
        kind = "argon2id" if has_argon2() else "sha512-pbkdf2"
        if kind != "argon2id":
            note = "hashed with sha512-pbkdf2; for argon2id: pip install 'isthmus[argon2]'"
    try:
        if scram:
            rounds = SCRAM_ITERATIONS if iterations is None else iterations
            line = create_scram_entry(username, password, iterations=rounds)
        elif kind == "argon2id":
            line = create_entry(username, password.encode(), kind="argon2id")
        else:
            rounds = DEFAULT_ITERATIONS if iterations is None else iterations
            line = create_entry(username, password.encode(), iterations=rounds)
    except ValueError as error:
        hint = "; or use -H sha512-pbkdf2" if "library is missing" in str(error) else ""
        raise typer.BadParameter(f"{error}{hint}") from None
    new = set_line(file, username, line, first=create_secret() if scram else None)
    typer.echo(f"{file}: {username} was {'added' if new else 'changed'}", err=True)
    if note:
        typer.echo(note, err=True)


def _password() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    try:
        line = sys.stdin.buffer.readline().decode()
    except UnicodeDecodeError:
        raise typer.BadParameter("the password is not UTF-8 text") from None
    password = line.removesuffix("\n").removesuffix("\r")
    if not password:
        raise typer.BadParameter("there is no password on standard input")
    return password
