"""Lines, words and values of mosquitto.conf, with Debian's Mosquitto as the judge of the table."""

from __future__ import annotations

from pathlib import Path

import pytest
from mosquitto_process import accepts

from isthmus.app.mosquitto.grammar import included_files
from isthmus.app.mosquitto.loading import load
from isthmus.app.mosquitto.translation import translate
from isthmus.errors import ConfigError
from mosquitto import free_port

BRIDGE = "connection a\naddress 127.0.0.1:1\ntopic #\n"

FINE = {
    "comment in the first column": "# x\n",
    "blanks in front": "   persistence false\n",
    "blank line": "   \n\n",
    "carriage returns": "persistence false\r\n\r\nsys_interval 5\r\n",
    "comment behind true": "persistence false # c\n",
    "comment behind a number": "sys_interval 5 # c\n",
    "one and zero": "persistence 0\nqueue_qos0_messages 1\n",
    "several blanks": "sys_interval     5\n",
    "numbers twice, the last counts": "sys_interval 5\nsys_interval 6\n",
    "a bridge": BRIDGE,
    "comment behind the address": BRIDGE.replace(":1\n", ":1 # far\n"),
    "two addresses": BRIDGE.replace(":1\n", ":1 127.0.0.1:2\n"),
    "direction in capitals": BRIDGE.replace("#\n", "# OUT 1\n"),
    "comment behind a topic": BRIDGE.replace("#\n", "a/# out 1 # c\n"),
    "empty prefixes": BRIDGE.replace("#\n", '# both 2 "" ""\n'),
    "prefixes without a slash": BRIDGE.replace("#\n", "ic/+ in 1 local4/top remote/\n"),
    "empty pattern": BRIDGE.replace("#\n", '"" out 0 here there\n'),
    "no last line break": "sys_interval 5",
    "connections first": "connection_messages false\n",
    "log types": "log_type error\nlog_type notice\nlog_dest stderr\n",
    "session expiry": "persistent_client_expiration 14d\n",
    "keep alive too low": BRIDGE + "keepalive_interval 3\n",
    "short restart": BRIDGE + "restart_timeout 0\n",
    "base and cap": BRIDGE + "restart_timeout 2 9\n",
    "no user files": "allow_anonymous true\nallow_zero_length_clientid false\n",
    "clean session": BRIDGE + "cleansession true\nlocal_cleansession false\n",
}
"""Accepted by both."""

WRONG = {
    "comment further right": " # x\n",
    "a tab in front": "\tpersistence true\n",
    "a tab between": "persistence\ttrue\n",
    "unknown": "persistance true\n",
    "capital True": "persistence True\n",
    "yes": "persistence yes\n",
    "nothing behind": "sys_interval\n",
    "text twice": "acl_file /dev/null\nacl_file /dev/null\n",
    "file twice": "log_dest file a\nlog_dest file b\n",
    "no such log": "log_dest paper\n",
    "no such type": "log_type loud\n",
    "interval too long": "sys_interval 65536\n",
    "packet size": "max_packet_size 19\n",
    "socket without a path": "listener 0\n",
    "no such port": "listener 65536\n",
    "no address": "connection a\ntopic #\n",
    "no topic": "connection a\naddress 127.0.0.1:1\n",
    "two addresses in two lines": BRIDGE + "address 127.0.0.1:2\n",
    "the same name": BRIDGE + BRIDGE,
    "bridge option without a bridge": "topic #\n",
    "no port": BRIDGE.replace(":1\n", ":0\n"),
    "direction": BRIDGE.replace("#\n", "# up\n"),
    "QoS 3": BRIDGE.replace("#\n", "# out 3\n"),
    "wildcard in a prefix": BRIDGE.replace("#\n", "# out 0 a/+/\n"),
    "empty pattern alone": BRIDGE.replace("#\n", '""\n'),
    "manual": BRIDGE + "start_type manual\n",
    "version": BRIDGE + "bridge_protocol_version mqttv6\n",
    "no unit": "persistent_client_expiration 14\n",
    "mount point": "mount_point a/#\n",
    "same local id": BRIDGE
    + "local_clientid x\n"
    + BRIDGE.replace("connection a", "connection b")
    + "local_clientid x\n",
}
"""Refused by both."""

SAFER = {
    "prefix too long": f"auto_id_prefix {'x' * 51}\n",
    "number sign in the middle": BRIDGE.replace("#\n", "a/#/b\n"),
    "certificate without a key": "certfile /dev/null\n",
    "letters behind a number": "sys_interval 10abc\n",
    "commas between addresses": BRIDGE.replace(":1\n", ":1,127.0.0.1:2\n"),
    "IPv6 without a port": BRIDGE.replace("127.0.0.1:1", "::1"),
}
"""Refused here and by Mosquitto 2.1, or a bridge that never works: 2.0 starts with it."""


def problems(folder: Path, text: str) -> list[str]:
    file = folder / "mosquitto.conf"
    file.write_bytes(text.encode(errors="surrogateescape"))
    return translate(file).problems


@pytest.mark.parametrize("name", FINE)
def test_what_mosquitto_accepts_is_accepted(tmp_path: Path, name: str) -> None:
    port = free_port()
    text = f"user root\nlistener {port} 127.0.0.1\n{FINE[name]}"
    assert accepts(tmp_path, text, port)
    assert problems(tmp_path, text) == []


@pytest.mark.parametrize("name", WRONG)
def test_what_mosquitto_refuses_is_refused_with_the_line(tmp_path: Path, name: str) -> None:
    port = free_port()
    text = f"user root\nlistener {port} 127.0.0.1\n{WRONG[name]}"
    assert not accepts(tmp_path, text, port)
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(f"{tmp_path}/mosquitto.conf:")


@pytest.mark.parametrize("name", SAFER)
def test_what_only_2_0_lets_pass_is_refused(tmp_path: Path, name: str) -> None:
    port = free_port()
    text = f"user root\nlistener {port} 127.0.0.1\n{SAFER[name]}"
    assert accepts(tmp_path, text, port)
    assert len(problems(tmp_path, text)) == 1


def test_every_problem_is_said_at_once_with_its_line(tmp_path: Path) -> None:
    text = "listner 1883\npersistence maybe\n\tkeyfile x\n # c\nsys_interval 10abc\n"
    assert [line.removeprefix(f"{tmp_path}/") for line in problems(tmp_path, text)] == [
        "mosquitto.conf:1: there is no option 'listner'; did you mean 'listener'?",
        "mosquitto.conf:2: persistence: must be true or false, in small letters, or 1 or 0",
        (
            "mosquitto.conf:3: has a tab, and only spaces separate; Mosquitto reads the tab as "
            "part of the option's name and refuses it as well"
        ),
        (
            "mosquitto.conf:4: a comment must begin in the first column; as it stands, '#' is "
            "read as an option"
        ),
        "mosquitto.conf:5: sys_interval: must be a whole number",
    ]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ("certfile /nope\nkeyfile /nope\n", [":3: certfile", ":4: keyfile"]),
        ("connection a\naddress far.example:99999\ntopic # both 1\n", [":4: address"]),
    ],
)
def test_a_line_with_a_problem_is_told_once(tmp_path: Path, more: str, named: list[str]) -> None:
    """What it would have set is missing then, which is no second problem; other problems are."""
    file = tmp_path / "mosquitto.conf"
    file.write_text(f"listener 1883 127.0.0.1\nallow_anonymous maybe\n{more}")
    with pytest.raises(ConfigError) as error:
        load(file)
    lines = [line.removeprefix(str(file)) for line in str(error.value).splitlines()]
    assert [":".join(line.split(":")[:3]) for line in lines] == [":2: allow_anonymous", *named]


def test_a_text_is_the_rest_of_the_line(tmp_path: Path) -> None:
    file = tmp_path / "mosquitto.conf"
    file.write_text(f"{BRIDGE}remote_username u  v\nremote_password   p # c \n")
    found = translate(file).data["connectors"]["a"]
    assert (found["username"], found["password"]) == ("u  v", "p # c")


@pytest.mark.parametrize(("written", "meant"), [("16", 16), ("0x10", 16), ("010", 8), ("0", 0)])
def test_numbers_are_those_of_c(tmp_path: Path, written: str, meant: int) -> None:
    file = tmp_path / "mosquitto.conf"
    file.write_text(f"sys_interval {written}\n")
    assert translate(file).data["broker"]["sys_interval"] == f"{meant}s"


def test_text_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, "clientid_prefixes \udcff\n") == [
        f"{tmp_path}/mosquitto.conf:1: clientid_prefixes: is not UTF-8 text"
    ]


def test_passwords_are_never_in_errors(tmp_path: Path) -> None:
    text = f"{BRIDGE}remote_password CANARY\nremote_password CANARY\n"
    found = "".join(problems(tmp_path, text))
    assert "remote_password: is there twice" in found
    assert "CANARY" not in found


# -- included files --------------------------------------------------------------------------------


def test_included_files_come_in_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.conf", "A.conf", "a.conf", "C.conf", "x.txt", ".conf", "d.conf~"):
        (tmp_path / name).write_text("")
    names = [file.name for file in included_files(tmp_path)]
    assert names == ["A.conf", "a.conf", "b.conf", "C.conf"]


def test_included_files_stand_where_they_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "conf.d"
    folder.mkdir()
    (folder / "1.conf").write_text("sys_interval 7\nmax_queued_messages 5\n")
    file = tmp_path / "mosquitto.conf"
    file.write_text(f"sys_interval 6\ninclude_dir {folder}\nmax_queued_messages 4\n")
    broker = translate(file).data["broker"]
    assert broker["sys_interval"] == "7s"
    assert broker["limits"]["queued_messages"] == 4


def test_a_block_ends_with_its_file(tmp_path: Path) -> None:
    """Neither a listener nor a connection carries over; that of the main file goes on behind."""
    port = free_port()
    folder = tmp_path / "conf.d"
    folder.mkdir()
    (folder / "1.conf").write_text(BRIDGE + "topic b in 1\n")
    main = f"user root\nlistener {port} 127.0.0.1\ninclude_dir {folder}\nmount_point m/\n"
    assert accepts(tmp_path, main, port)
    file = tmp_path / "mosquitto.conf"
    file.write_text(main)
    draft = translate(file)
    assert draft.problems == []
    assert draft.data["listeners"][0]["mount_point"] == "m/"
    (folder / "1.conf").write_text(BRIDGE)
    text = f"user root\nlistener {port} 127.0.0.1\ninclude_dir {folder}\ntopic b\n"
    assert not accepts(tmp_path, text, port)
    assert problems(tmp_path, text) == [
        f"{tmp_path}/mosquitto.conf:4: topic: needs a 'connection' above it in the same file"
    ]


def test_only_the_main_file_includes(tmp_path: Path) -> None:
    folder = tmp_path / "conf.d"
    folder.mkdir()
    (folder / "1.conf").write_text(f"include_dir {folder}\n")
    text = f"include_dir {folder}\n"
    assert problems(tmp_path, text) == [f"{folder}/1.conf:1: include_dir: only in the main file"]
    assert "cannot be read" in problems(tmp_path, f"include_dir {tmp_path}/none\n")[0]
