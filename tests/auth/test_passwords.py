"""Password files: those that mosquitto_passwd makes, and those that must be refused."""

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from isthmus.auth.passwords import PasswordFile, create_entry
from isthmus.errors import ConfigError

SALT = base64.b64encode(b"0123456789ab").decode()
DIGEST = base64.b64encode(bytes(64)).decode()


def write(folder: Path, *lines: str) -> Path:
    path = folder / "users"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def mosquitto_passwd(path: Path, *arguments: str) -> None:
    program = shutil.which("mosquitto_passwd")
    assert program, "Debian's package mosquitto is missing"
    subprocess.run([program, *arguments, str(path)], check=True, capture_output=True)


@pytest.mark.parametrize("kind", ["sha512", "sha512-pbkdf2"])
def test_file_made_by_mosquitto_passwd(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "users"
    program = shutil.which("mosquitto_passwd")
    assert program, "Debian's package mosquitto is missing"
    for flag, user, password in (
        ("-c", "anna", "geheim"),
        (None, "zoë", "пароль: $7$"),
        (None, "with space", "x"),
    ):
        command = [program, "-H", kind, *([flag] if flag else []), "-b", str(path), user, password]
        subprocess.run(command, check=True, capture_output=True)
    users = PasswordFile.load(path)
    assert len(users) == 3
    assert users.verify("anna", b"geheim")
    assert users.verify("zoë", "пароль: $7$".encode())
    assert users.verify("with space", b"x")
    assert not users.verify("anna", b"geheim ")
    assert not users.verify("zoë", b"geheim")
    assert not users.verify("nobody", b"geheim")


def test_plain_text_file_hashed_by_mosquitto_passwd(tmp_path: Path) -> None:
    path = write(tmp_path, "anna:geheim", "bert:auch geheim")
    mosquitto_passwd(path, "-U")
    users = PasswordFile.load(path)
    assert users.verify("anna", b"geheim")
    assert users.verify("bert", b"auch geheim")


def test_created_entry_round_trip(tmp_path: Path) -> None:
    path = write(tmp_path, create_entry("anna", b"geheim", iterations=3))
    users = PasswordFile.load(path)
    assert users.verify("anna", b"geheim")
    assert not users.verify("anna", b"falsch")
    assert "anna" in users
    assert not users.is_slow("anna")


def test_new_entries_are_strong_and_salted() -> None:
    assert create_entry("anna", b"geheim").startswith("anna:$7$210000$")
    one, two = (create_entry("anna", b"geheim", iterations=1) for _ in range(2))
    assert one != two


def test_argon2id(tmp_path: Path) -> None:
    from argon2 import PasswordHasher

    encoded = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash("geheim")
    users = PasswordFile.load(write(tmp_path, f"anna:{encoded}"))
    assert users.verify("anna", b"geheim")
    assert not users.verify("anna", b"falsch")
    assert users.is_slow("anna")


def test_argon2id_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "argon2", None)
    line = "anna:$argon2id$v=19$m=47104,t=1,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaA"
    with pytest.raises(ConfigError, match=r"users:1: .*pip install 'isthmus\[argon2\]'"):
        PasswordFile.load(write(tmp_path, line))


def test_comments_blanks_and_carriage_returns(tmp_path: Path) -> None:
    entry = create_entry("anna", b"geheim", iterations=1)
    path = write(tmp_path, "# users of the plant: all", "", f"  {entry} \r", "   ")
    assert PasswordFile.load(path).verify("anna", b"geheim")


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([], "users:1: has no users"),
        (["# only a comment"], "users:1: has no users"),
        (["anna"], "users:1: the line is not 'user:hash'"),
        (["anna:"], "users:1: the hash is missing"),
        ([f":$6${SALT}${DIGEST}"], "users:1: the user name is empty"),
        (["anna:geheim"], "users:1: the password is not hashed"),
        (["anna:$5$x$y"], "users:1: the hash is of an unknown kind"),
        (["anna:$6$!!$!!"], "users:1: the hash is no base64"),
        ([f"anna:$6${SALT}$"], "users:1: the salt or hash is empty"),
        ([f"anna:$6${SALT}"], "users:1: the hash is of an unknown kind"),
        ([f"anna:$6${SALT}${SALT}"], "users:1: the hash has 12 bytes instead of 64"),
        ([f"anna:$7$x${SALT}${DIGEST}"], "users:1: the number of iterations is no number"),
        ([f"anna:$7$0${SALT}${DIGEST}"], "users:1: the iterations must be between"),
        ([f"anna:$7$99999999${SALT}${DIGEST}"], "users:1: the iterations must be between"),
        (["anna:$argon2id$v=19$m=1"], "users:1: the argon2id hash is garbled"),
        (
            ["anna:$argon2id$v=19$m=99999999,t=1,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2g"],
            "users:1: the costs of the argon2id hash are out of range",
        ),
        (
            ["", f"anna:$6${SALT}${DIGEST}", f"anna:$6${SALT}${DIGEST}"],
            "users:3: the user is there twice",
        ),
        ([f"an\x1bna:$6${SALT}${DIGEST}"], "users:1: the user name holds a control character"),
    ],
)
def test_what_is_wrong_fails_closed_with_its_line(
    tmp_path: Path, lines: list[str], error: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        PasswordFile.load(write(tmp_path, *lines))
    assert error in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_all_wrong_lines_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        PasswordFile.load(write(tmp_path, "a", f"b:$6${SALT}${DIGEST}", "c:"))
    assert [problem.split(": ")[0][-2:] for problem in caught.value.problems] == [":1", ":3"]


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        PasswordFile.load(tmp_path / "none")
    (tmp_path / "users").write_bytes(b"anna:\xff\xfe")
    with pytest.raises(ConfigError, match="users:1: the line is not UTF-8"):
        PasswordFile.load(tmp_path / "users")


def test_an_empty_password_is_never_right(tmp_path: Path) -> None:
    empty = base64.b64encode(hashlib.sha512(b"0123456789ab").digest()).decode()
    users = PasswordFile.load(write(tmp_path, f"anna:$6${SALT}${empty}"))
    assert not users.verify("anna", b"")


def test_unknown_users_cost_what_known_ones_do(tmp_path: Path) -> None:
    """Counted, not timed: every question makes one check of a kind that the file holds."""
    calls: list[bytes] = []

    class Counting:
        slow = True

        def check(self, password: bytes) -> bool:
            calls.append(password)
            return True

    users = PasswordFile({"anna": Counting()})
    assert users.verify("anna", b"x")
    assert not users.verify("nobody", b"x")
    assert users.is_slow("nobody")
    assert calls == [b"x", b"x"]


def test_an_unknown_user_always_costs_the_same(tmp_path: Path) -> None:
    lines = [create_entry("fast", b"x", iterations=1), create_entry("slow", b"x", iterations=300)]
    users = PasswordFile.load(write(tmp_path, *lines))
    kinds = {name: users.is_slow(name) for name in map(str, range(50))}
    assert set(kinds.values()) == {False, True}
    assert kinds == {name: users.is_slow(name) for name in kinds}


@pytest.mark.parametrize(
    ("username", "password", "iterations"),
    [("", b"x", 1), ("a:b", b"x", 1), ("#a", b"x", 1), (" a", b"x", 1), ("a\n", b"x", 1),
     ("a", b"", 1), ("a", b"x", 0), ("a", b"x", 10**8)],
)  # fmt: skip
def test_entries_that_cannot_be_made(username: str, password: bytes, iterations: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        create_entry(username, password, iterations=iterations)
