"""Enhanced authentication: SCRAM-SHA-256 over AUTH, by RFC 5802 and 7677, written here anew."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from pathlib import Path

import pytest

from raw import AUTH, CONNACK, DISCONNECT, Packet, Raw, connect_packet, packet, properties

METHOD = "SCRAM-SHA-256"
ROUNDS, SALT = 4096, b"salt of sixteen!"


def keys(password: str) -> tuple[bytes, bytes, bytes]:
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), SALT, ROUNDS)
    client = hmac.digest(salted, b"Client Key", "sha256")
    return client, hashlib.sha256(client).digest(), hmac.digest(salted, b"Server Key", "sha256")


@pytest.fixture
async def near(isthmus, tmp_path: Path):
    """A broker that knows anna by SCRAM."""
    _, stored, server = keys("right")
    salt, *both = (base64.b64encode(data).decode() for data in (SALT, stored, server))
    users = tmp_path / "scram"
    secret = base64.b64encode(secrets.token_bytes(32)).decode()
    users.write_text(f":{secret}\nanna:{METHOD}${ROUNDS}:{salt}${both[0]}:{both[1]}\n")
    users.chmod(0o600)
    return await isthmus({"auth": {"scram": str(users)}})


class Client:
    """The client's side of one exchange."""

    def __init__(self, password: str = "right", user: str = "anna") -> None:
        self.password = password
        self.bare = f"n={user},r={secrets.token_hex(12)}"

    @property
    def first(self) -> bytes:
        return f"n,,{self.bare}".encode()

    def final(self, server_first: bytes) -> bytes:
        fields = dict(part.split("=", 1) for part in server_first.decode().split(","))
        assert fields["r"].startswith(self.bare.partition("r=")[2])
        salt, rounds = base64.b64decode(fields["s"]), int(fields["i"])
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), salt, rounds)
        client = hmac.digest(salted, b"Client Key", "sha256")
        without = f"c=biws,r={fields['r']}"
        whole = f"{self.bare},{server_first.decode()},{without}".encode()
        signature = hmac.digest(hashlib.sha256(client).digest(), whole, "sha256")
        proof = bytes(a ^ b for a, b in zip(client, signature, strict=True))
        server = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), whole, "sha256")
        self.expected = b"v=" + base64.b64encode(server)
        return f"{without},p={base64.b64encode(proof).decode()}".encode()


def auth(code: int, data: bytes, method: str = METHOD) -> bytes:
    return packet(0xF0, bytes([code]) + properties(auth_method=method, auth_data=data))


async def login(raw: Raw, client: Client) -> Packet:
    """CONNECT to the server's last word."""
    raw.send(connect_packet("x", auth_method=METHOD, auth_data=client.first))
    asked = await raw.expect(AUTH)
    # MQTT-4.12.0-2, -3, -5
    assert asked.code == 0x18
    assert asked.properties["auth_method"] == METHOD
    raw.send(auth(0x18, client.final(asked.properties["auth_data"])))
    return await raw.packet()


async def test_mqtt_4_12_0_2_and_5_a_login(near):
    raw = await Raw.open(near.port)
    client = Client()
    answer = await login(raw, client)
    assert (answer.kind, answer.code) == (CONNACK, 0)
    assert answer.properties["auth_method"] == METHOD
    assert answer.properties["auth_data"] == client.expected
    await raw.nothing()


@pytest.mark.parametrize(
    "client", [Client("wrong"), Client(user="nobody")], ids=["password", "user"]
)
async def test_mqtt_4_12_0_4_a_wrong_proof_is_refused_and_closed(near, client):
    raw = await Raw.open(near.port)
    answer = await login(raw, client)
    assert answer.kind == CONNACK
    assert answer.code in (0x86, 0x87)
    assert await raw.closed() == b""


async def test_mqtt_4_12_0_1_another_method_is_refused(near):
    raw = await Raw.open(near.port)
    raw.send(connect_packet("x", auth_method="PLAIN", auth_data=b"\0anna\0right"))
    assert (await raw.expect(CONNACK)).code == 0x8C
    assert await raw.closed() == b""


async def test_mqtt_4_12_0_5_another_method_in_auth(near):
    raw = await Raw.open(near.port)
    client = Client()
    raw.send(connect_packet("x", auth_method=METHOD, auth_data=client.first))
    asked = await raw.expect(AUTH)
    raw.send(auth(0x18, client.final(asked.properties["auth_data"]), "OTHER"))
    answer = await raw.packet()
    assert answer.code in (0x82, 0x8C)
    assert await raw.closed() == b""


async def test_mqtt_3_1_2_30_nothing_but_auth_before_connack(near):
    raw = await Raw.open(near.port)
    raw.send(connect_packet("x", auth_method=METHOD, auth_data=Client().first))
    await raw.expect(AUTH)
    raw.send(packet(0xC0))
    answer = await raw.closed()
    assert answer[:1] in (b"", b"\x20")
    assert b"\xd0\0" not in answer


async def test_mqtt_4_12_1_1_authenticating_again(near):
    raw = await Raw.open(near.port)
    assert (await login(raw, Client())).code == 0
    await raw.subscribe("t")
    again = Client()
    raw.send(auth(0x19, again.first))
    asked = await raw.expect(AUTH)
    assert asked.code == 0x18
    raw.publish("t", "meanwhile")  # the connection goes on being used
    assert (await raw.message()).payload == b"meanwhile"
    raw.send(auth(0x18, again.final(asked.properties["auth_data"])))
    done = await raw.expect(AUTH)
    assert done.code == 0x00
    assert done.properties["auth_method"] == METHOD
    await raw.nothing()


async def test_mqtt_4_12_1_2_a_failure_to_authenticate_again_closes(near):
    raw = await Raw.open(near.port)
    assert (await login(raw, Client())).code == 0
    again = Client("wrong")
    raw.send(auth(0x19, again.first))
    asked = await raw.expect(AUTH)
    raw.send(auth(0x18, again.final(asked.properties["auth_data"])))
    goodbye = await raw.expect(DISCONNECT)
    assert goodbye.code in (0x86, 0x87, 0x80)
    assert await raw.closed() == b""


async def test_mqtt_3_15_2_2_and_3_auth_is_no_larger_than_the_client_takes(near):
    """What explains is left out; what does not fit at all is not sent."""
    raw = await Raw.open(near.port)
    raw.send(connect_packet("x", auth_method=METHOD, auth_data=Client().first, maximum_packet=150))
    asked = await raw.expect(AUTH)
    assert len(asked.body) + 2 <= 150
