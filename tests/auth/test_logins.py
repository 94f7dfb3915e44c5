"""Logins of real clients, over the network."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import paho.mqtt.client as paho
import pytest
from scram_client import final

from isthmus.app.configuration import read_configuration
from isthmus.app.settings import Settings
from isthmus.auth.login import Verdict
from isthmus.auth.method import Step
from isthmus.auth.passwords import create_entry
from isthmus.auth.scram_file import create_scram_entry, create_secret
from isthmus.auth.settings import AuthSettings
from isthmus.errors import ConfigError
from mosquitto import command, free_port
from raw import (
    AUTH,
    CONNACK,
    DISCONNECT,
    PUBLISH,
    Raw,
    auth_packet,
    connect_packet,
    packet,
    publish_packet,
    until,
    within,
)

SECRET = "x" * 32


def users(folder: Path, name: str = "users.txt", **passwords: str) -> str:
    path = folder / name
    lines = (create_entry(user, word.encode(), iterations=2) for user, word in passwords.items())
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def rights(folder: Path, text: str, name: str = "acl.txt") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def scram_users(folder: Path, **passwords: str) -> str:
    path = folder / "scram.txt"
    lines = [create_secret()]
    lines += [create_scram_entry(user, pw, iterations=4096) for user, pw in passwords.items()]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def token(sub: str = "anna", **more: Any) -> str:
    claims = {"sub": sub, "exp": int(time.time()) + 60, **more}
    return jwt.encode(claims, SECRET, algorithm="HS256")


# -- SCRAM ---------------------------------------------------------------------------------------

METHOD = "SCRAM-SHA-256"


async def begin(port: int, user: str = "anna", **how: Any) -> tuple[Raw, str, str]:
    """Send CONNECT; the connection, what was sent, and the challenge."""
    raw = await Raw.open(port)
    first = f"n,,n={user},r=abcdef"
    values = {"auth_method": METHOD, "auth_data": first, **how}
    raw.send(connect_packet("s", **{name: v for name, v in values.items() if v is not None}))
    challenge = await raw.expect(AUTH)
    assert (challenge.code, challenge.properties["auth_method"]) == (0x18, METHOD)
    return raw, first, challenge.properties["auth_data"].decode()


async def scram(port: int, user: str = "anna", password: str = "pw") -> Raw:
    raw, first, challenge = await begin(port, user)
    raw.send(auth_packet(0x18, METHOD, final(first, challenge, password).encode()))
    raw.hello = await raw.expect(CONNACK)
    return raw


async def again(raw: Raw, user: str, password: str) -> Any:
    first = f"n,,n={user},r=ghijkl"
    raw.send(auth_packet(0x19, METHOD, first.encode()))
    challenge = (await raw.expect(AUTH)).properties["auth_data"].decode()
    raw.send(auth_packet(0x18, METHOD, final(first, challenge, password).encode()))
    return await raw.packet()


@pytest.fixture
async def near(isthmus: Any, tmp_path: Path) -> Any:
    return await isthmus(
        {
            "auth": {
                "scram": scram_users(tmp_path, anna="pw", bert="pw2"),
                "acl_file": rights(tmp_path, "user anna\ntopic a/#\n"),
            },
            "broker": {"limits": {"connect_timeout": "700ms"}},
        }
    )


async def test_mqtt_4_12_0_scram(near: Any) -> None:
    raw = await scram(near.port)
    assert raw.hello.code == 0
    assert raw.hello.properties["auth_method"] == METHOD  # MQTT-4.12.0-5
    assert raw.hello.properties["auth_data"].startswith(b"v=")
    assert await raw.published("a/x") in (0, 0x10)
    assert await raw.published("b") == 0x87
    assert near.app.broker.sessions["s"].principal.username == "anna"


async def test_mqtt_4_12_0_4_failures_all_look_the_same(near: Any) -> None:
    """A wrong password, and a user that is not there."""
    shapes = []
    for user, password in (("anna", "no"), ("nobody", "pw"), ("nobody", "")):
        raw, first, challenge = await begin(near.port, user)
        raw.send(auth_packet(0x18, METHOD, final(first, challenge, password).encode()))
        answer = await raw.expect(CONNACK)
        shapes.append((answer.code, len(challenge), answer.properties))
        await raw.closed()
    assert shapes[0] == shapes[1] == shapes[2]
    assert shapes[0][0] == 0x87


async def test_mqtt_4_12_0_1_an_unknown_method(near: Any) -> None:
    raw = await Raw.open(near.port)
    raw.send(connect_packet("s", auth_method="KERBEROS", auth_data="x"))
    assert (await raw.expect(CONNACK)).code == 0x8C
    await raw.closed()


async def test_user_name_and_password_alone_are_not_enough(near: Any) -> None:
    for how in ({}, {"username": "anna", "password": "pw"}):
        raw = await Raw.open(near.port)
        raw.send(connect_packet("s", **how))
        assert (await raw.expect(CONNACK)).code in (0x86, 0x87)


async def test_mqtt_4_12_0_7_auth_without_a_method(isthmus: Any) -> None:
    near = await isthmus()
    raw = await near.client("c")
    raw.send(auth_packet(0x19, METHOD))
    assert (await raw.expect(DISCONNECT)).code == 0x82


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (publish_packet("a/x"), 0x82),  # MQTT-3.1.2-30
        (packet(0xC0), 0x82),
        (auth_packet(0x18, "OTHER", b"x"), 0x8C),  # MQTT-4.12.0-5
        (auth_packet(0x18, None, None), 0x82),
        (auth_packet(0x19, METHOD, b"n,,n=anna,r=x"), 0x82),
        (auth_packet(0x00, METHOD, b"x"), 0x82),
        (auth_packet(0x77, METHOD, b"x"), 0x82),
        (auth_packet(0x18, METHOD, b"x"), 0x87),
        (auth_packet(0x18, METHOD), 0x87),
        (auth_packet(0x18, METHOD, b"x" * 20_000), 0x87),
        (auth_packet(0x18, METHOD, b"x") * 2, 0x82),
        (packet(0xF0), 0x82),
    ],
)
async def test_what_may_not_come_in_an_exchange(near: Any, sent: bytes, code: int) -> None:
    raw, _, _ = await begin(near.port)
    raw.send(sent)
    answer = await raw.expect(CONNACK)
    assert answer.code == code
    await raw.closed()
    assert not near.app.broker.sessions
    assert not near.app.broker.unnamed


async def test_a_client_may_let_the_server_begin(near: Any) -> None:
    raw = await Raw.open(near.port)
    raw.send(connect_packet("s", auth_method=METHOD))
    assert (await raw.expect(AUTH)).properties["auth_data"] == b""
    first = "n,,n=anna,r=abc"
    raw.send(auth_packet(0x18, METHOD, first.encode()))
    challenge = (await raw.expect(AUTH)).properties["auth_data"].decode()
    raw.send(auth_packet(0x18, METHOD, final(first, challenge, "pw").encode()))
    assert (await raw.expect(CONNACK)).code == 0


async def test_who_gives_up_or_falls_silent_is_gone(near: Any) -> None:
    leaves, _, _ = await begin(near.port)
    leaves.send(packet(0xE0))
    await leaves.closed()
    silent, _, _ = await begin(near.port)
    await silent.closed()
    assert not near.app.broker.unnamed
    assert near.app.broker.refusals[0x8D] == 1


async def test_mqtt_4_12_1_authenticating_again(near: Any) -> None:
    raw = await scram(near.port)
    await raw.subscribe("a/#")
    raw.send(auth_packet(0x19, METHOD, b"n,,n=anna,r=ghijkl"))
    challenge = (await raw.expect(AUTH)).properties["auth_data"].decode()
    raw.publish("a/x", "meanwhile")  # everything else goes on
    assert (await raw.expect(PUBLISH)).payload == b"meanwhile"
    answer = final("n,,n=anna,r=ghijkl", challenge, "pw")
    raw.send(auth_packet(0x18, METHOD, answer.encode()))
    done = await raw.expect(AUTH)
    assert done.code == 0
    assert done.properties["auth_method"] == METHOD
    assert done.properties["auth_data"].startswith(b"v=")
    assert (await again(raw, "anna", "pw")).kind == AUTH
    await raw.nothing()


@pytest.mark.parametrize(("user", "password"), [("anna", "no"), ("bert", "pw2"), ("nobody", "")])
async def test_mqtt_4_12_1_2_failing_again_closes(near: Any, user: str, password: str) -> None:
    """Also with good credentials of somebody else: the session belongs to its user."""
    raw = await scram(near.port)
    answer = await again(raw, user, password)
    assert (answer.kind, answer.code) == (DISCONNECT, 0x87)
    await raw.closed()


async def test_authenticating_again_has_an_end(near: Any) -> None:
    raw = await scram(near.port)
    raw.send(auth_packet(0x19, METHOD, b"n,,n=anna,r=ghijkl"))
    await raw.expect(AUTH)
    assert (await raw.expect(DISCONNECT)).code == 0x87


async def test_auth_that_is_not_due_later(near: Any) -> None:
    for sent in (auth_packet(0x18, METHOD, b"x"), auth_packet(0, METHOD), packet(0xF0)):
        raw = await scram(near.port)
        raw.send(sent)
        assert (await raw.expect(DISCONNECT)).code == 0x82
    raw = await scram(near.port)
    raw.send(auth_packet(0x19, "OTHER", b"x"))
    assert (await raw.expect(DISCONNECT)).code == 0x8C


class Knock:
    """A method of somebody else."""

    name = "EXAMPLE-KNOCK"

    def begin(self, login: Any) -> Knock:
        self.client_id = login.client_id
        return Knock()

    async def step(self, data: bytes | None) -> Step:
        await asyncio.sleep(0)
        if data == b"boom":
            raise RuntimeError("boom")
        if data == b"more":
            return Step(b"and?")
        return Step(b"come in", Verdict(data == b"it is me", "friend"))


async def test_a_method_of_ones_own(isthmus: Any, tmp_path: Path) -> None:
    near = await isthmus(
        {
            "auth": {
                "methods": ["test_logins:Knock"],
                "acl_file": rights(tmp_path, "user friend\ntopic a"),
            }
        }
    )
    raw = await Raw.open(near.port)
    raw.send(connect_packet("k", auth_method="EXAMPLE-KNOCK", auth_data="more"))
    assert (await raw.expect(AUTH)).properties["auth_data"] == b"and?"
    raw.send(auth_packet(0x18, "EXAMPLE-KNOCK", b"it is me"))
    hello = await raw.expect(CONNACK)
    assert (hello.code, hello.properties["auth_data"]) == (0, b"come in")
    assert await raw.published("a") in (0, 0x10)
    for data in ("boom", "no"):
        other = await Raw.open(near.port)
        other.send(connect_packet("l", auth_method="EXAMPLE-KNOCK", auth_data=data))
        assert (await other.expect(CONNACK)).code == 0x87
    endless = await Raw.open(near.port)
    endless.send(connect_packet("m", auth_method="EXAMPLE-KNOCK", auth_data="more"))
    steps = 0
    while (answer := await endless.packet()).kind == AUTH:
        steps += 1
        endless.send(auth_packet(0x18, "EXAMPLE-KNOCK", b"more"))
    assert (answer.code, steps) == (0x87, 16)


# -- certificates --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "user"), [("common_name", "edge-7"), ("subject", "CN=edge-7")]
)
async def test_a_certificate_gives_the_user_name(
    isthmus: Any, certificates: SimpleNamespace, tmp_path: Path, identity: str, user: str
) -> None:
    tls = {
        "certificate": str(certificates.server),
        "key": str(certificates.server),
        "client_ca": str(certificates.ca),
    }
    near = await isthmus(
        {
            "listeners": [{"bind": "127.0.0.1:0", "tls": tls}],
            "auth": {
                "identity": identity,
                "password_file": users(tmp_path, bert="pw"),
                "acl_file": rights(tmp_path, "pattern write in/%u\nuser bert\ntopic write bert"),
            },
        }
    )
    there = ["-p", str(near.port), "-h", "127.0.0.1", "--cafile", str(certificates.ca), "-q", "1"]
    own = ["--cert", str(certificates.client), "--key", str(certificates.client)]
    # What the client says about its name does not matter.
    for name in ([], ["-u", "bert", "-P", "wrong"], ["-u", "edge-7"]):
        code, _, errors = await command(
            "mosquitto_pub", *there, *own, *name, "-i", "c", "-t", "x", "-m", "x"
        )
        assert code == 0, errors
    context = ssl.create_default_context(cafile=certificates.ca)
    context.load_cert_chain(certificates.client)
    raw = await Raw.client(near.port, "c2", tls=context, username="bert", password="x")
    found = near.app.broker.sessions["c2"].principal.username
    assert found.startswith(user)
    assert await raw.published("bert") == 0x87
    if identity == "common_name":
        assert await raw.published("in/edge-7") in (0, 0x10)
    # Without a certificate the other ways are open.
    assert (await command("mosquitto_pub", *there, "-t", "bert", "-m", "x"))[0] != 0
    good = ["-u", "bert", "-P", "pw", "-V", "5"]
    code, _, errors = await command("mosquitto_pub", *there, *good, "-t", "bert", "-m", "x")
    assert code == 0, errors


# -- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
async def test_a_token_as_the_password(isthmus: Any, version: str) -> None:
    near = await isthmus({"auth": {"jwt": {"secret": SECRET}}})
    there = ["-p", str(near.port), "-V", version, "-q", "1", "-t", "a", "-m", "x"]
    code, _, errors = await command("mosquitto_pub", *there, "-u", "x", "-P", token())
    assert code == 0, errors
    for bad in (token() + "A", token(exp=1), "secret", ""):
        assert (await command("mosquitto_pub", *there, "-u", "anna", "-P", bad))[0] != 0
    assert (await command("mosquitto_pub", *there))[0] != 0


async def test_the_rights_of_a_token(isthmus: Any, tmp_path: Path) -> None:
    acl = rights(tmp_path, "user anna\ntopic everything/#\n")
    near = await isthmus({"auth": {"jwt": {"secret": SECRET}, "acl_file": acl}})
    listening = await near.client("l", username="x", password=token("bert", acl={"sub": ["#"]}))
    assert await listening.subscribe("#") == [0]
    limited = token(acl={"pub": ["up/${clientid}"], "sub": ["down/${clientid}/#"]})
    raw = await near.client("c", username="x", password=limited)
    assert await raw.published("up/c") == 0
    assert (await listening.message()).topic == "up/c"
    for topic in ("up/d", "everything/x", "down/c"):
        assert await raw.published(topic) == 0x87
    assert await raw.subscribe("down/c/#", "down/#", "everything/#") == [0, 0, 0x87]
    # Without the claim it is the access list that decides.
    plain = await near.client("p", username="x", password=token())
    assert await plain.published("everything/x") == 0
    assert await plain.published("up/p") == 0x87


async def test_other_rights_at_the_next_login(isthmus: Any) -> None:
    near = await isthmus({"auth": {"jwt": {"secret": SECRET}}})
    writer = await near.client("w", username="x", password=token("w", acl={"pub": ["#"]}))
    how = {"clean": False, "session_expiry": 100, "username": "x"}
    raw = await near.client("c", password=token(acl={"sub": ["a", "b"]}), **how)
    await raw.subscribe("a", "b")
    await writer.published("a", "1")
    assert (await raw.message()).payload == b"1"
    raw.close()
    raw = await near.client("c", password=token(acl={"sub": ["b"]}), **how)
    assert raw.hello.session_present
    await writer.published("a", "2")
    await writer.published("b", "3")
    assert (await raw.message()).payload == b"3"


async def test_a_connection_ends_with_its_token(isthmus: Any) -> None:
    jwt_ = {"secret": SECRET, "leeway": "0s"}
    near = await isthmus({"auth": {"jwt": jwt_}})
    short = token(exp=time.time() + 1)
    raw = await near.client("c", username="x", password=short)
    assert (await within(raw.expect(DISCONNECT), 3)).code == 0xA0
    other = await isthmus({"auth": {"jwt": {**jwt_, "end_at_expiry": False}}})
    raw = await other.client("c", username="x", password=token(exp=time.time() + 1))
    await asyncio.sleep(1.3)
    await raw.nothing()


async def test_a_token_is_renewed_by_auth(isthmus: Any) -> None:
    near = await isthmus({"auth": {"jwt": {"secret": SECRET, "read_from": "auth", "leeway": "0s"}}})
    raw = await Raw.open(near.port)
    short = token(exp=time.time() + 1, acl={"pub": ["a"]})
    raw.send(connect_packet("c", auth_method="OAUTH2-JWT", auth_data=short))
    assert (await raw.expect(CONNACK)).code == 0
    assert await raw.published("b") == 0x87
    raw.send(auth_packet(0x19, "OAUTH2-JWT", token(acl={"pub": ["b"]}).encode()))
    assert (await raw.expect(AUTH)).code == 0
    await asyncio.sleep(1.3)
    assert await raw.published("b") in (0, 0x10)
    assert await raw.published("a") == 0x87
    raw.send(auth_packet(0x19, "OAUTH2-JWT", token("bert").encode()))
    assert (await raw.expect(DISCONNECT)).code == 0x87
    raw = await Raw.open(near.port)
    raw.send(connect_packet("c", username="x", password=token()))
    assert (await raw.expect(CONNACK)).code == 0x86


async def test_paho_with_a_token(isthmus: Any) -> None:
    near = await isthmus({"auth": {"jwt": {"secret": SECRET}}})
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.username_pw_set("whoever", token())
    codes: list[int] = []
    client.on_connect = lambda *found: codes.append(found[3].value)
    client.connect_async("127.0.0.1", near.port)
    client.loop_start()
    try:
        await until(lambda: codes)
        assert codes == [0]
    finally:
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)


# -- several sources, several listeners ----------------------------------------------------------


async def test_the_first_source_that_knows_the_user_decides(isthmus: Any, tmp_path: Path) -> None:
    near = await isthmus(
        {
            "auth": {
                "jwt": {"secret": SECRET},
                "password_file": users(tmp_path, bert="pw"),
                "scram": scram_users(tmp_path, carl="pw"),
                "allow_anonymous": True,
            }
        }
    )
    for how, name in (
        ({"username": "bert", "password": token()}, "anna"),
        ({"username": "bert", "password": "pw"}, "bert"),
        ({}, None),
    ):
        await near.client("c", **how)
        assert near.app.broker.sessions["c"].principal.username == name
        near.app.broker.sessions["c"].client.leave("next")
    for how in (
        {"username": "bert", "password": token(exp=1)},  # a token, and a bad one
        {"username": "carl", "password": "pw"},
        {"username": "bert", "password": "no"},
        {"username": "dora"},
        {"password": "pw"},
    ):
        raw = await Raw.open(near.port)
        raw.send(connect_packet("d", **how))
        assert (await raw.expect(CONNACK)).code >= 0x86


async def test_cve_2018_20145_two_listeners_two_access_lists(isthmus: Any, tmp_path: Path) -> None:
    second = {
        "password_file": users(tmp_path, "u2", anna="two"),
        "acl_file": rights(tmp_path, "user anna\ntopic b\n", "a2"),
    }
    near = await isthmus(
        {
            "listeners": [{"bind": "127.0.0.1:0"}, {"bind": "127.0.0.1:0", "auth": second}],
            "auth": {
                "password_file": users(tmp_path, "u1", anna="one"),
                "acl_file": rights(tmp_path, "user anna\ntopic a\n", "a1"),
            },
        }
    )
    first, other = near.ports
    one = await Raw.client(first, "c1", username="anna", password="one")
    two = await Raw.client(other, "c2", username="anna", password="two")
    assert await one.published("a") in (0, 0x10)
    assert await one.published("b") == 0x87
    assert await two.published("a") == 0x87
    assert await two.published("b") in (0, 0x10)
    assert await two.subscribe("a", "b", "#") == [0x87, 0, 0]
    await one.published("a", "for one")
    await two.nothing()
    for port, password in ((first, "two"), (other, "one")):
        raw = await Raw.open(port)
        raw.send(connect_packet("x", username="anna", password=password))
        assert (await raw.expect(CONNACK)).code == 0x86
    # A user of the same name over there is somebody else, and gets no session of this one.
    raw = await Raw.open(other)
    raw.send(connect_packet("c1", username="anna", password="two"))
    assert (await raw.expect(CONNACK)).code == 0x87
    await one.nothing()


# -- files that change ---------------------------------------------------------------------------


async def test_cve_2021_34434_rights_change_under_live_clients(
    isthmus: Any, tmp_path: Path
) -> None:
    passwords = users(tmp_path, anna="pw", bert="pw")
    acl = rights(tmp_path, "user anna\ntopic a\ntopic b\nuser bert\ntopic a\ntopic b\n")
    near = await isthmus({"auth": {"password_file": passwords, "acl_file": acl}})
    anna = await near.client("a", username="anna", password="pw")
    bert = await near.client("b", username="bert", password="pw")
    await bert.subscribe("a", "b")
    for topic in "ab":
        await anna.published(topic, "1", retain=True)
        assert (await bert.message()).payload == b"1"
    rights(tmp_path, "user anna\ntopic a\ntopic write b\nuser bert\ntopic b\ntopic write a\n")
    await near.app.reload(near.app.settings)
    assert await anna.published("a", "2") in (0, 0x10)
    assert await anna.published("b", "2") == 0
    assert (await bert.message()).topic == "b"
    await bert.nothing()
    assert await bert.subscribe("a") == [0x87]
    rights(tmp_path, "user anna\ntopic read a\nuser bert\ntopic a\n")
    await near.app.reload(near.app.settings)
    assert await anna.published("a", "3") == 0x87
    bert.publish("a", "3")
    assert (await bert.message()).payload == b"3"  # the old subscription is readable again


async def test_revoked_users_are_disconnected(isthmus: Any, tmp_path: Path) -> None:
    near = await isthmus({"auth": {"password_file": users(tmp_path, anna="pw", bert="pw", c="pw")}})
    anna, bert, carl = [
        await near.client(name, username=name, password="pw") for name in ("anna", "bert", "c")
    ]
    lines = (tmp_path / "users.txt").read_text().splitlines()
    changed = create_entry("c", b"other", iterations=2)
    (tmp_path / "users.txt").write_text(f"{lines[0]}\n{changed}\n")
    await near.app.reload(near.app.settings)
    for gone in (bert, carl):
        assert (await gone.expect(DISCONNECT)).code == 0x87
    await anna.nothing()
    await near.client("c", username="c", password="other")


async def test_a_session_that_comes_back_by_another_door_has_its_rights(
    isthmus: Any, tmp_path: Path
) -> None:
    """A listener's `auth` goes and comes back with less: the kept session must not have more."""
    passwords = users(tmp_path, anna="pw")

    def doors(acl: str, *, own: bool) -> Settings:
        auth = {"password_file": passwords, "acl_file": rights(tmp_path, acl)}
        ports = near.app.settings.listeners[0].bind, f"127.0.0.1:{inner}"
        listeners: list[dict[str, Any]] = [{"bind": ports[0]}]
        if own:
            listeners.append({"bind": ports[1], "auth": auth})
        return Settings.model_validate({"listeners": listeners})

    inner, outer = free_port(), free_port()
    near = await isthmus({"listeners": [{"bind": f"127.0.0.1:{outer}"}]})
    how: dict[str, Any] = {"username": "anna", "password": "pw", "session_expiry": 1000}
    await near.reload(doors("user anna\ntopic #\n", own=True))
    anna = await Raw.client(inner, "anna", **how)
    await anna.subscribe("secret", qos=1)
    await near.reload(doors("user anna\ntopic open\n", own=False))
    await near.reload(doors("user anna\ntopic open\n", own=True))
    anna = await Raw.client(inner, "anna", clean=False, **how)
    assert anna.hello.session_present
    assert await anna.published("secret", "x", 1) == 0x87
    other = await Raw.client(outer, "other")
    await other.published("secret", "x", 1)
    await anna.nothing()


async def test_a_broken_file_changes_nothing(isthmus: Any, tmp_path: Path) -> None:
    near = await isthmus({"auth": {"password_file": users(tmp_path, anna="pw")}})
    anna = await near.client("anna", username="anna", password="pw")
    (tmp_path / "users.txt").write_text("anna\n")
    with pytest.raises(Exception, match=r"users\.txt:1"):
        await near.app.reload(near.app.settings)
    await anna.nothing()
    await near.client("again", username="anna", password="pw")


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"jwt": {}}, "needs secret, keys"),
        ({"jwt": {"secret": SECRET, "algorithms": ["none"]}}, "is no algorithm"),
        ({"http": {"url": "http://example.com/"}}, "is not encrypted"),
        ({"http": {"url": "https://x/", "headers": {"A:": "x"}}}, "is no name of a header"),
        ({"http": {"url": "https://x/", "headers": {"A": "x\r\nB: y"}}}, "no text for a header"),
        ({"http": {"url": "https://x/", "timeout": 0}}, "more than 0"),
        ({"methods": ["os.path"]}, "package.module:name"),
        ({"identity": "issuer"}, "common_name"),
    ],
)
def test_settings_that_are_refused(data: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=r"(?s).*") as caught:
        AuthSettings.model_validate(data)
    assert problem in str(caught.value)
    assert SECRET not in str(caught.value)


async def test_identity_needs_certificates(isthmus: Any) -> None:
    with pytest.raises(ValueError, match=r"identity.*client_ca"):
        await isthmus({"auth": {"identity": "common_name"}})


async def test_methods_that_cannot_be_loaded(isthmus: Any) -> None:
    for path in ("no_such_module:x", "os:nothing", "os:path"):
        with pytest.raises(Exception, match=f"methods: {path}"):
            await isthmus({"auth": {"methods": [path]}})


async def test_what_is_wrong_in_the_auth_of_a_listener_says_where(
    isthmus: Any, tmp_path: Path
) -> None:
    (tmp_path / "empty.pem").write_text("")
    own = {
        "jwt": {"keys": [str(tmp_path / "empty.pem")]},
        "methods": ["os:nothing", "no_such_module:x"],
    }
    good = {"bind": "127.0.0.1:0"}
    with pytest.raises(ConfigError) as caught:
        await isthmus({"listeners": [good, {**good, "auth": own}]})
    assert len(caught.value.problems) == 3
    assert all(text.startswith("listeners[1].auth.") for text in caught.value.problems)
    with pytest.raises(ValueError, match=r"listeners\[1\]\.auth\.allow_anonymous: true") as open_:
        await isthmus(
            {"listeners": [good, {"bind": "0.0.0.0:0", "auth": {"allow_anonymous": True}}]}
        )
    assert "'auth." not in str(open_.value)


async def test_what_fails_later_in_the_auth_of_a_listener_says_where(
    isthmus: Any, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = "http://127.0.0.1:1/"
    for own, key in (
        ({"http": {"url": nowhere}}, "http"),
        ({"jwt": {"jwks_url": nowhere}}, "jwt.jwks_url"),
    ):
        caplog.clear()
        near = await isthmus({"listeners": [{"bind": "127.0.0.1:0", "auth": own}]})
        raw = await Raw.open(near.port)
        raw.send(connect_packet("x", username="anna", password="x"))
        assert (await raw.expect(CONNACK)).code >= 0x80
        await until(lambda key=key: f"listeners[0].auth.{key}: " in caplog.text)


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        (
            "a.yaml",
            'listeners:\n- bind: "127.0.0.1:0"\n  auth: {password_file: "%s"}\n',
            "a.yaml:3: listeners[0].auth.password_file",
        ),
        ("a.conf", "# a\nlistener 1883 127.0.0.1\npassword_file %s\n", "a.conf:3: password_file"),
    ],
)
def test_user_files_that_all_may_read_are_named_as_the_file_names_them(
    tmp_path: Path, name: str, text: str, place: str
) -> None:
    own = users(tmp_path, anna="pw")
    file = tmp_path / name
    file.write_text(text % own)
    os.chmod(own, 0o644)  # noqa: PTH101 - of a path that is text
    (note,) = [note for note in read_configuration(file).notes if "every user" in note.text]
    what = "may be read by every user of this machine: chmod o-rwx"
    assert (str(note), note.loud) == (f"{tmp_path}/{place}: {what} {own}", True)
    os.chmod(own, 0o640)  # noqa: PTH101
    assert not any("every user" in note.text for note in read_configuration(file).notes)
