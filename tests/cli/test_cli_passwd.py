"""`isthmus passwd`: the file it leaves, read by whoever has to read it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from isthmus.auth.passwords import PasswordFile
from isthmus.auth.scram_file import ScramFile, derive
from mosquitto import command


def passwd(*arguments: object, stdin: str = "secret\n") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "isthmus", "passwd", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def done(*arguments: object, stdin: str = "secret\n") -> None:
    found = passwd(*arguments, stdin=stdin)
    assert found.returncode == 0, found.stderr
    assert "secret" not in found.stdout + found.stderr


def test_users_are_added_changed_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "users.txt"
    done(path, "anna")
    text = path.read_text()
    assert text.startswith("anna:$argon2id$v=19$m=47104,t=1,p=1$")
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(f"# people\n{text}")
    path.chmod(0o644)
    done("-H", "sha512-pbkdf2", "-I", "1000", path, "bert", stdin="two\r\n")
    done(path, "anna", stdin="new\n")
    lines = path.read_text().splitlines()
    assert lines[0] == "# people"
    assert [line.partition(":")[0] for line in lines[1:]] == ["anna", "bert"]
    assert lines[2].startswith("bert:$7$1000$")
    assert path.stat().st_mode & 0o777 == 0o600
    users = PasswordFile.load(path)
    assert users.verify("anna", b"new")
    assert not users.verify("anna", b"secret")
    assert users.verify("bert", b"two")
    done("-D", path, "anna", stdin="")
    assert "anna" not in PasswordFile.load(path)
    assert [found.name for found in tmp_path.iterdir()] == ["users.txt"]


def test_without_the_argon2_library_the_hash_is_pbkdf2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing"
    missing.mkdir()
    (missing / "argon2.py").write_text("raise ImportError\n")
    monkeypatch.setenv("PYTHONPATH", str(missing), prepend=os.pathsep)
    path = tmp_path / "users.txt"
    found = passwd(path, "anna")
    assert found.returncode == 0, found.stderr
    assert found.stderr.splitlines() == [
        f"{path}: anna was added",
        "hashed with sha512-pbkdf2; for argon2id: pip install 'isthmus[argon2]'",
    ]
    assert PasswordFile.load(path).verify("anna", b"secret")
    found = passwd("-H", "argon2id", path, "bert")
    assert found.returncode == 2
    assert "use -H sha512-pbkdf2" in found.stderr


async def test_mosquitto_reads_the_file(mosquitto: Any, tmp_path: Path) -> None:
    path = tmp_path / "users.txt"
    done("-H", "sha512-pbkdf2", path, "anna")
    broker = await mosquitto(f"password_file {path}", "allow_anonymous false")
    there = ["-p", str(broker.port), "-u", "anna", "-t", "t", "-m", "x"]
    assert (await command("mosquitto_pub", *there, "-P", "secret"))[0] == 0
    assert (await command("mosquitto_pub", *there, "-P", "other"))[0] != 0


def test_scram_credentials(tmp_path: Path) -> None:
    path = tmp_path / "scram.txt"
    done("--scram", "-I", "4096", path, "anna")
    first = path.read_text().splitlines()[0]
    assert first.startswith(":")
    done("--scram", "-I", "4096", path, "bert")
    done("--scram", "-I", "4096", path, "anna", stdin="new\n")
    lines = path.read_text().splitlines()
    assert lines[0] == first  # unknown users keep their salts
    assert len(lines) == 3
    users = ScramFile.load(path)
    entry = users.entry("anna")
    assert entry is not None
    assert derive("new", entry.salt, 4096) == entry
    assert path.stat().st_mode & 0o777 == 0o600
    done("--scram", "-D", path, "bert")
    assert ScramFile.load(path).entry("bert") is None


@pytest.mark.parametrize(
    ("arguments", "stdin", "problem"),
    [
        (["u", "a:b"], "x\n", "must not hold ':'"),
        (["u", "#a"], "x\n", "begin with '#'"),
        (["u", ""], "x\n", "empty"),
        (["u", "anna"], "", "no password"),
        (["u", "anna"], "\n", "no password"),
        (["-H", "md5", "u", "anna"], "x\n", "use argon2id or sha512-pbkdf2"),
        (["--scram", "-I", "100", "u", "anna"], "x\n", "iterations must be between 4096"),
        (["--scram", "u", "anna"], "\u0007\n", "SASLprep"),
        (["-D", "u", "anna"], "", "has no user 'anna'"),
        (["none/u", "anna"], "x\n", "cannot be written"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], stdin: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found = passwd(*arguments, stdin=stdin)
    assert found.returncode == 2
    assert problem in found.stderr
    assert "Traceback" not in found.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["anna\n", "anna:plain-secret\n", "a:$7$x$y$z\n"])
def test_a_garbled_file_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "users.txt"
    path.write_text(text)
    found = passwd(path, "bert")
    assert found.returncode == 2
    assert "users.txt:1" in found.stderr
    assert "plain-secret" not in found.stderr
    assert path.read_text() == text


def test_the_last_user_stays(tmp_path: Path) -> None:
    path = tmp_path / "users.txt"
    done("-H", "sha512-pbkdf2", "-I", "1", path, "anna")
    found = passwd("-D", path, "anna")
    assert found.returncode == 2
    assert "remove the file" in found.stderr
    assert len(PasswordFile.load(path)) == 1


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "users.txt").symlink_to("real/users.txt")
    done("-H", "sha512-pbkdf2", "-I", "1", tmp_path / "users.txt", "anna")
    assert (tmp_path / "users.txt").is_symlink()
    assert len(PasswordFile.load(tmp_path / "real" / "users.txt")) == 1


def test_at_a_terminal_the_password_is_asked_for_twice(tmp_path: Path) -> None:
    path = tmp_path / "users.txt"
    child, terminal = pty.fork()
    if not child:
        os.execv(
            sys.executable,
            [sys.executable, "-m", "isthmus", "passwd", "-H", "sha512-pbkdf2", str(path), "anna"],
        )
    shown = b""
    for wanted in (b"Password: ", b"confirmation: "):
        while wanted not in shown:
            assert select.select([terminal], [], [], 20)[0], shown
            shown += os.read(terminal, 1000)
        shown = b""
        os.write(terminal, b"typed\n")
    while True:
        try:
            more = os.read(terminal, 1000)
        except OSError:
            break
        if not more:
            break
        shown += more
    assert os.waitpid(child, 0)[1] == 0
    os.close(terminal)
    assert b"typed" not in shown
    assert PasswordFile.load(path).verify("anna", b"typed")
