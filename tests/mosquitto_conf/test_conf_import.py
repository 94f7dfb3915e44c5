"""`isthmus import mosquitto`: commented YAML that is the same configuration."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from isthmus.app.mosquitto.translation import translate
from isthmus.app.mosquitto.yaml_text import yaml_text
from isthmus.config.loader import load
from isthmus.config.secrets import expand
from mosquitto import command

FILE = """\
listener 1884 127.0.0.1
listener 8884 ::1
certfile server.pem
keyfile server.key
max_connections 7
password_file users
log_dest file /var/log/m.log
connection cloud
address cloud.example:8883 backup.example:8883
bridge_cafile /etc/ca.pem
remote_username edge 7 # is part of it
remote_password ${env:CANARY} "x" 'y' \u00e9 \\
topic # both 1 a/ b/
topic 1: out
topic "with space" out 1 null true
notification_topic - x
"""


def plain(value: object) -> object:
    """Data as a loader gives it: text without the mark of a secret, references expanded."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return str.__str__(value) if isinstance(value, str) else value


def expanded(value: object) -> object:
    if isinstance(value, dict):
        return {key: expanded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [expanded(inner) for inner in value]
    return str.__str__(expand(value, Path())) if isinstance(value, str) else value


@pytest.mark.parametrize("text", [FILE, "", "listener 1884\nprotocol http_api\n"])
def test_the_yaml_says_the_same(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mosquitto.conf"
    file.write_text(text)
    draft = translate(file)
    written = tmp_path / "isthmus.yaml"
    written.write_text(yaml_text(draft, str(file)))
    assert expanded(load(written).data) == plain(draft.data)


def test_each_line_says_where_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "mosquitto.conf"
    file.write_text(FILE)
    lines = yaml_text(translate(file), "mosquitto.conf").splitlines()
    assert f'  - bind: "127.0.0.1:1884"  # {file}:1: listener 1884 127.0.0.1' in lines
    assert f"    max_connections: 7  # {file}:5: max_connections 7" in lines
    assert "  max_inflight: 20  # Mosquitto's default" in lines
    assert "    wildcard_shapes: 1000  # Mosquitto's default, or as near as is safe" in lines
    at = next(line for line in lines if "password: " in line)
    assert at.endswith(f"# {file}:12: remote_password ...")
    assert "CANARY" not in at.partition("#")[2].partition("#")[2]


def test_what_was_refused_stands_at_the_top(tmp_path: Path) -> None:
    file = tmp_path / "mosquitto.conf"
    file.write_text("plugin dynsec.so\nautosave_interval 5\n")
    lines = yaml_text(translate(file), "mosquitto.conf").splitlines()
    assert lines[2].startswith(f"# REFUSED {file}:1: plugin: ")
    assert lines[3].startswith(f"# {file}:2: autosave_interval: no effect: ")


async def imported(*arguments: str) -> tuple[int, str, str]:
    return await command(sys.executable, "-m", "isthmus", "import", "mosquitto", *arguments)


async def test_the_command_writes_it(tmp_path: Path) -> None:
    file, there = tmp_path / "mosquitto.conf", tmp_path / "isthmus.yaml"
    file.write_text("sys_interval 5\n")
    status, out, errors = await imported(str(file))
    assert (status, errors) == (0, "")
    assert "sys_interval: 5s" in out
    status, printed, errors = await imported(str(file), "-o", str(there))
    assert (status, printed, errors) == (0, "", "")
    assert there.read_text() == out
    assert stat.S_IMODE(there.stat().st_mode) == 0o600


async def test_a_result_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    file, there = tmp_path / "mosquitto.conf", tmp_path / "none" / "isthmus.yaml"
    file.write_text("sys_interval 5\n")
    status, printed, errors = await imported(str(file), "-o", str(there))
    assert (status, printed) == (2, "")
    assert errors == f"isthmus: {there}: cannot be written: No such file or directory\n"


async def test_the_command_says_what_was_refused(tmp_path: Path) -> None:
    file = tmp_path / "mosquitto.conf"
    file.write_text("psk_file x\n")
    status, out, errors = await imported(str(file))
    assert status == 1
    assert f"# REFUSED {file}:1: psk_file: " in out
    assert errors.startswith(f"isthmus: {file}:1: psk_file: ")


async def test_a_file_that_is_wrong_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mosquitto.conf"
    file.write_text("bogus x\n")
    status, out, errors = await imported(str(file))
    assert (status, out) == (2, "")
    assert errors == f"isthmus: {file}:1: there is no option 'bogus'\n"


async def test_what_is_wrong_is_said_in_the_order_of_the_lines(tmp_path: Path) -> None:
    file = tmp_path / "mosquitto.conf"
    file.write_text("connection far\nmax_keepalive x\nbogus x\n" + "\n" * 6 + "listener x\n")
    status, out, errors = await imported(str(file))
    assert (status, out) == (2, "")
    lines = [int(line.split(":")[2]) for line in errors.splitlines()]
    assert len(lines) > 2
    assert lines == sorted(lines)
