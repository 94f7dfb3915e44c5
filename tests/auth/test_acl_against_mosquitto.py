"""Does a real Mosquitto decide as we do? It is asked by clients of its own making.

One broker per access list, on a free loopback port; every client publishes to every
topic at QoS 1 (MQTT 5 puts the refusal into PUBACK) and subscribes to everything while a user with
all rights publishes to every topic.
"""

import random
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from isthmus.auth.acl import AccessList
from isthmus.auth.passwords import create_entry
from isthmus.auth.principal import Principal

TOPICS = [
    b"a", b"b", b"a/b", b"a/b/c", b"a/c1", b"a/c1/x", b"anna/b", b"b/anna/c1", b"a/+x", b"/a",
    b"a/", b"%c", b"a/%u", b"c1", b"$x/a", b"$x/c1", b"$SYS/broker/connection/c1/state", b"$SYS/a",
    b"a b",
]  # fmt: skip
WRITABLE = [topic for topic in TOPICS if b"+" not in topic]
CLIENTS = [
    Principal(None, "c1"), Principal(None, "c2"), Principal("anna", "c1"), Principal("anna", "c3"),
    Principal("bert", "b"), Principal("be+rt", "c4"), Principal("anna", "#"),
]  # fmt: skip
ROOT = Principal("root", "root")
ROOT_LINES = ["user root", "topic #", "topic $x/#", "topic $SYS/#"]

WRITTEN = """\
topic read a/#
topic write b
pattern deny a/%c/x
pattern readwrite a/%c/#
pattern %u/+
pattern write b/%u/%c
pattern read $x/%c
user anna
topic a/b
topic deny a/b/c
topic read +/+/+
user bert
topic read #
topic deny b
topic  readwrite  a b
topic write $SYS/#
user be+rt
topic write a/b
"""


class Client:
    """A few packets of MQTT 5 over a blocking socket; knows nothing of the code under test."""

    def __init__(self, port: int, who: Principal) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 5)
        self.socket.settimeout(5)
        self.buffer = b""
        flags = 0x02 if who.username is None else 0xC2
        body = b"\0\4MQTT\5" + bytes([flags]) + b"\0\x3c\0" + text(who.client_id)
        if who.username is not None:
            body += text(who.username) + text("pw")
        self.send(0x10, body)
        assert self.receive()[1][1] == 0, f"{who} was refused"

    def send(self, first: int, body: bytes) -> None:
        assert len(body) < 128
        self.socket.sendall(bytes([first, len(body)]) + body)

    def receive(self) -> tuple[int, bytes]:
        while len(self.buffer) < 2 or len(self.buffer) < 2 + self.buffer[1]:
            data = self.socket.recv(65536)
            assert data, "the broker closed the connection"
            self.buffer += data
        end = 2 + self.buffer[1]
        packet, self.buffer = self.buffer[:end], self.buffer[end:]
        return packet[0], packet[2:]

    def may_write(self, topics: list[bytes]) -> dict[bytes, bool]:
        for number, topic in enumerate(topics, 1):
            self.send(0x32, text(topic.decode()) + struct.pack(">H", number) + b"\0x")
        answers = {}
        while len(answers) < len(topics):
            kind, body = self.receive()
            if kind == 0x40:
                code = body[2] if len(body) > 2 else 0
                assert code in (0x00, 0x10, 0x87)
                answers[topics[struct.unpack(">H", body[:2])[0] - 1]] = code != 0x87
        return answers

    def subscribe(self, *filters: str) -> None:
        body = b"\0\1\0" + b"".join(text(wanted) + b"\0" for wanted in filters)
        self.send(0x82, body)
        while self.receive()[0] != 0x90:
            pass

    def publish_all(self, topics: list[bytes]) -> None:
        for topic in topics:
            self.send(0x30, text(topic.decode()) + b"\0x")
        self.ping()

    def ping(self) -> list[bytes]:
        """Return the topics of what came before the answer."""
        self.send(0xC0, b"")
        topics = []
        while True:
            kind, body = self.receive()
            if kind == 0xD0:
                return topics
            topics.append(body[2 : 2 + struct.unpack(">H", body[:2])[0]])


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">H", len(data)) + data


@contextmanager
def mosquitto(folder: Path, acl: str) -> Iterator[int]:
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    names = {who.username for who in [*CLIENTS, ROOT]} - {None}
    users = "".join(f"{create_entry(str(name), b'pw', iterations=300)}\n" for name in names)
    (folder / "users").write_text(users)
    (folder / "acl").write_text(acl)
    (folder / "conf").write_text(
        f"listener {port} 127.0.0.1\nuser root\nallow_anonymous true\nsys_interval 0\n"
        f"password_file {folder / 'users'}\nacl_file {folder / 'acl'}\nlog_dest none\n"
    )
    process = subprocess.Popen([program, "-c", str(folder / "conf")])
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, "mosquitto did not start"
                time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()


def written_at_random(seed: int) -> str:
    """Lines over few topics and words, so that many of them meet."""
    rng = random.Random(seed)
    levels = ["a", "b", "c1", "+", "%c", "%u", "anna", "x"]
    lines = []
    for _ in range(14):
        word = rng.choice(["topic", "topic", "pattern", "pattern", "user"])
        if word == "user":
            lines.append("user " + rng.choice(["anna", "bert", "be+rt", "nobody"]))
            continue
        names = [rng.choice(levels) for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.3:
            names[-1] = "#"
        if rng.random() < 0.15:
            names.insert(0, "$x")
        access = rng.choice(["", "read ", "write ", "readwrite ", "deny "])
        lines.append(f"{word} {access}{'/'.join(names)}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("seed", ["written", 1, 2, 3, 4])
def test_same_decisions_as_mosquitto(tmp_path: Path, seed: int | str) -> None:
    lines = WRITTEN if isinstance(seed, str) else written_at_random(seed)
    acl = lines + "\n".join(ROOT_LINES) + "\n"
    rights = AccessList.parse(acl.encode())
    ours: dict[tuple[Principal, str, bytes], bool] = {}
    theirs: dict[tuple[Principal, str, bytes], bool] = {}
    with mosquitto(tmp_path, acl) as port:
        root = Client(port, ROOT)
        for who in CLIENTS:
            client = Client(port, who)
            for topic, allowed in client.may_write(WRITABLE).items():
                theirs[who, "write", topic] = allowed
                ours[who, "write", topic] = rights.may_write(who, topic)
            client.subscribe("#", "$x/#")
            root.publish_all(WRITABLE)
            arrived = client.ping()
            for topic in WRITABLE:
                if not topic.startswith(b"$SYS"):  # only the broker itself writes there
                    theirs[who, "read", topic] = topic in arrived
                    ours[who, "read", topic] = rights.may_read(who, topic)
            client.socket.close()
        root.socket.close()
    different = {key: (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]}
    assert not different, f"(ours, theirs) for\n{acl}"
    assert len(set(theirs.values())) == 2
