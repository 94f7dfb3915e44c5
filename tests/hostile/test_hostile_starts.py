"""Configurations that must not start, or must deny: files that are empty, broken, open to all."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner
from victim import GoodClient, Victim

from isthmus.app.settings import Settings
from isthmus.auth.passwords import create_entry
from isthmus.broker.settings import BrokerSettings
from isthmus.cli.main import main, make_app
from raw import CONNACK, PUBACK, PUBLISH, Raw, connect_packet, packet

ENTRY = create_entry("anna", b"right", iterations=101)


class Ended(NamedTuple):
    status: object
    out: str
    errors: str


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Callable[..., Ended]:
    """What a command says to a configuration; `check` reads all that `run` reads before it starts.

    In this process, as a hundred of them would take a minute to start.
    """

    def run_command(text: str, command: str = "check") -> Ended:
        path = tmp_path / "hostile.yaml"
        path.write_text(text)
        monkeypatch.setattr(sys, "argv", ["isthmus", command, str(path)])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as end:
            main()
        return Ended(end.value.code, *capfd.readouterr())

    return run_command


def refused(found: Ended, needle: str, status: int = 2) -> None:
    assert (found.status, found.out) == (status, "")
    assert needle in found.errors
    assert all(line.startswith("isthmus: ") for line in found.errors.splitlines())


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    """Start victims; they are stopped when the test is over."""
    running: list[Victim] = []

    def start(configuration: dict[str, Any], **how: Any) -> Victim:
        running.append(Victim(tmp_path, configuration, **how))
        return running[-1]

    yield start
    for victim in running:
        assert victim.stop() == 0


# -- open to everybody --------------------------------------------------------------------------

PUBLIC = ["0.0.0.0:0", "'*:0'", "'[::]:0'", "192.0.2.1:0", "broker.example.com:0"]


@pytest.mark.parametrize("bind", PUBLIC)
@pytest.mark.parametrize(
    ("auth", "needle"),
    [
        ("", "auth.password_file: is required, as a listener is open to others"),
        ("auth: {allow_anonymous: false}", "auth.password_file: is required"),
        ("auth: {allow_anonymous: true}", "lets everybody in"),
    ],
)
def test_a_public_address_with_anonymous_clients_is_no_configuration(ended, bind, auth, needle):
    """Section 4, listen: not by accident, and not by `allow_anonymous` alone."""
    refused(ended(f"listeners: [{{bind: {bind}}}]\n{auth}\n"), needle)


def test_the_command_itself_does_not_start_in_public(tmp_path):
    """Section 4, listen: as a process, with its exit status."""
    path = tmp_path / "public.yaml"
    path.write_text("listeners: [{bind: 0.0.0.0:0}]\nauth: {allow_anonymous: true}\n")
    found = subprocess.run(
        [sys.executable, "-m", "isthmus", "run", path],
        capture_output=True, text=True, timeout=15, check=False,
    )  # fmt: skip
    refused(Ended(found.returncode, found.stdout, found.stderr), "lets everybody in")


def test_only_a_word_with_insecure_in_it_opens_the_broker_to_all(run):
    """Section 4, listen: whoever wants it writes `insecure_public_anonymous`."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    auth = {"allow_anonymous": True, "insecure_public_anonymous": True}
    GoodClient(run({"listeners": [{"bind": f"0.0.0.0:{port}"}], "auth": auth}).port).served()
    words = {name for name in _names(Settings) if "insecure" in name}
    assert words == {"insecure_public_anonymous", "insecure_public"}


def _names(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _names(part)


def test_nothing_said_means_loopback():
    """Section 4, listen."""
    settings = Settings()
    assert [listener.bind for listener in settings.listeners] == ["127.0.0.1:1883"]
    assert all(listener.loopback for listener in settings.listeners)
    assert settings.http is not None
    assert settings.http.on_this_machine


# -- files that are not what they should be -----------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n \n",
        b"# nobody\n",
        b"anna\n",
        b"anna:\n",
        b"anna:right\n",
        b"anna:$7$101$AAAA\n",
        b"anna:$7$0$AAAA$AAAA\n",
        b":" + ENTRY.partition(":")[2].encode() + b"\n",
        ENTRY.encode() + b"\nbert\n",
        ENTRY.encode() + b"\n" + ENTRY.encode() + b"\n",
        b"\xff\xfe\0\0",
        b"\0" * 64,
    ],
)
def test_cve_2018_12551_a_broken_password_file(ended, tmp_path, content):
    """CVE-2018-12551: no line of it becomes a user, and nothing starts."""
    (tmp_path / "users").write_bytes(content)
    text = "listeners: [{bind: '127.0.0.1:0'}]\nauth: {password_file: users}\n"
    found = ended(text)
    refused(found, f"isthmus: {tmp_path / 'users'}:")
    assert "right" not in found.errors


@pytest.mark.parametrize("kind", ["file", "folder", "unreadable"])
def test_cve_2018_12550_files_that_are_not_there(ended, tmp_path, kind):
    """CVE-2018-12550, CVE-2018-12551: a file that cannot be read is no empty one."""
    if kind == "folder":
        (tmp_path / "x").mkdir()
    elif kind == "unreadable":
        (tmp_path / "x").symlink_to("x")
    text = "listeners: [{bind: '127.0.0.1:0'}]\nauth: {password_file: x, acl_file: x}\n"
    refused(ended(text), "auth.acl_file: ")
    refused(ended(text), "auth.password_file: ")


@pytest.mark.parametrize(
    "content", [b"topic\n", b"tpic read #\n", b"topic read a/#/b\n", b"user\n", b"\xff\n", b"\0"]
)
def test_cve_2018_12550_a_broken_acl_file(ended, tmp_path, content):
    """CVE-2018-12550: nothing starts."""
    (tmp_path / "acl").write_bytes(b"topic read good/#\n" + content)
    text = "listeners: [{bind: '127.0.0.1:0'}]\nauth: {acl_file: acl}\n"
    refused(ended(text), f"isthmus: {tmp_path / 'acl'}:2: ")


@pytest.mark.parametrize("content", ["", "\n# topic readwrite #\n\n", "user anna\n"])
async def test_cve_2018_12550_an_empty_acl_file_denies(run, tmp_path, content):
    """CVE-2018-12550: no rights for anybody, retained messages and wills included."""
    (tmp_path / "acl").write_text(content)
    victim = run({"auth": {"acl_file": str(tmp_path / "acl")}})
    for version in (5, 4):
        raw = await Raw.client(victim.port, "x", version)
        assert await raw.published("a", "x", 1, retain=True) == (0x87 if version == 5 else 0)
        codes = await raw.subscribe("a", "#", "+", "$SYS/#")
        assert codes == [0x87 if version == 5 else 0x80] * 4
        await raw.nothing()
        will = await Raw.open(victim.port, version)
        will.send(connect_packet("w", version, will=("a", "x", 0, False)))
        assert (await will.expect(CONNACK)).code == (0x87 if version == 5 else 5)
        await will.closed()
        raw.send(packet(0xE0))
        await raw.closed()


# -- the rest -----------------------------------------------------------------------------------


def test_hbmqtt_191_yaml_that_calls_functions(ended, tmp_path):
    """hbmqtt #191: a tag is an error, whatever it names."""
    text = f"node: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n"
    refused(ended(text), "has a tag")
    assert not (tmp_path / "made").exists()


def test_rmqtt_337_a_port_that_is_taken(ended):
    """rmqtt#337: one line, and an exit status that says so."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = f"listeners: [{{bind: '127.0.0.1:{taken.getsockname()[1]}'}}]\n"
        found = ended(text, "run")
    refused(found, "Address already in use; is another broker running there?", 1)
    assert found.errors.count("\n") == 1


def test_cve_2017_9868_what_is_stored_is_for_its_owner_only(run, tmp_path):
    """CVE-2017-9868: whatever the umask; others cannot even look into the folder."""
    data = tmp_path / "data"
    before = os.umask(0)
    try:
        victim = run(
            {
                "broker": {"data": str(data)},
                "connectors": {"far": {"url": "127.0.0.1:1"}},
                "routes": {"r": {"from": "local", "topics": ["a"], "to": "far"}},
            }
        )
    finally:
        os.umask(before)
    victim.wait_for(lambda: list(data.iterdir()), "nothing was stored")
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in data.iterdir()} == {0o600}


def test_cve_2017_9868_secrets_that_all_may_read_are_named(run, tmp_path, certificates):
    """CVE-2017-9868: a password file or a private key, by its key and path; once, at the start."""
    users, key = tmp_path / "users", tmp_path / "server.pem"
    users.write_text(ENTRY + "\n")
    key.write_bytes(certificates.server.read_bytes())
    configuration = {
        "listeners": [{"bind": "127.0.0.1:0", "tls": {"certificate": str(key)}}],
        "auth": {"password_file": str(users)},
    }
    for file in (users, key):
        file.chmod(0o644)
    log = run(configuration).log
    for loc, file in (("auth.password_file", users), ("listeners[0].tls.certificate", key)):
        text = (
            f"victim.json:1: {loc}: may be read by every user of this machine: chmod o-rwx {file}"
        )
        assert log.count(text) == 1
    for file in (users, key):
        file.chmod(0o640)
    assert "may be read" not in run(configuration).log


def _extremes() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number of the broker's settings at the ends of its range, alone."""
    limits = BrokerSettings.model_fields["limits"].annotation
    for model, inside in ((BrokerSettings, False), (limits, True)):
        for name, field in model.model_fields.items():
            bounds = {type(one).__name__: one for one in field.metadata}
            values = [bounds[kind].ge for kind in ("Ge",) if kind in bounds]
            values += [bounds[kind].le for kind in ("Le",) if kind in bounds]
            for value in values or ([0.001] if "Gt" in bounds else []):
                yield f"{name}={value}", {"limits": {name: value}} if inside else {name: value}


@pytest.mark.parametrize(("what", "broker"), list(_extremes()), ids=[one[0] for one in _extremes()])
async def test_flashmq_175_numbers_at_the_ends_of_their_range(isthmus, what, broker):
    """FlashMQ#175: no division by zero, no endless loop: each client gets an answer or the end."""
    near = await isthmus({"broker": broker})
    for version in (5, 4):
        raw = await Raw.open(near.port, version)
        raw.send(connect_packet("x", version, will=("w", "x", 1, True)))
        answer = await raw.reader.read(2)
        assert answer[:1] in (b"\x20", b"")
        raw.send(packet(0x82, b"\0\1" + b"\0" * (version == 5) + b"\0\5a/+/#\1"))
        for number in range(1, 6):
            body = b"\0\3a/b" + bytes([0, number]) + b"\0" * (version == 5) + b"x" * 100
            raw.send(packet(0x33, body))
        raw.send(packet(0xC0), packet(0xE0))
        await raw.closed()
    near.app.sys_topics._publish()
    assert near.app.broker.connected == 0


async def test_cve_2019_11779_where_65535_levels_are_allowed(isthmus):
    """CVE-2019-11779: with the limit off, depth costs time and memory, and no stack."""
    near = await isthmus({"broker": {"limits": {"topic_levels": 65_535}}})
    raw = await near.client("deep")
    deep = "/" * 65_534
    assert await raw.subscribe(deep, "+/" * 32_766 + "#", "#") == [0, 0, 0]
    raw.publish(deep, "x", 1, retain=True)
    assert {(one.kind, one.topic) for one in await raw.arrived()} == {(PUBLISH, deep), (PUBACK, "")}
    again = await near.client("again")
    await again.subscribe("+/" * 32_766 + "#")
    assert [one.topic == deep for one in await again.arrived()] == [True]
    assert await raw.unsubscribe(deep, "+/" * 32_766 + "#") == [0, 0]


def test_mosquitto_passwd_b_no_command_takes_a_password_by_its_place(tmp_path):
    """mosquitto_passwd -b: a forgotten argument must not make a password of the next one."""
    users = tmp_path / "users"
    for arguments in (["anna", "c4n4ry"], ["-b", "anna", "c4n4ry"], ["-p", "c4n4ry", "anna"], []):
        found = CliRunner().invoke(make_app(), ["passwd", str(users), *arguments], input="")
        assert found.exit_code == 2
        assert not users.exists()
    commands = typer.main.get_command(make_app()).commands
    parameters = [(name, one) for name, command in commands.items() for one in command.params]
    secret = [(name, one) for name, one in parameters if "pass" in one.name]
    assert {name for name, _ in secret} >= {"pub", "sub"}
    assert all(one.param_type_name == "option" for _, one in secret)
    assert all("list of processes" in one.help for _, one in secret if one.name == "password")
