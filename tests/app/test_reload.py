"""`isthmus reload` and SIGHUP: what each part of a configuration becomes in a running process."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from reloadable import Reloadable

from isthmus.app.asking import clear, find, own_entry
from isthmus.app.configuration import read_configuration
from isthmus.app.files import load_files
from isthmus.app.reload import Reload
from isthmus.app.rereading import Rereading
from isthmus.app.settings import Settings
from isthmus.auth.passwords import create_entry
from isthmus.errors import ConfigError
from mosquitto import Mosquitto, free_port, listens
from raw import (
    CONNACK,
    DISCONNECT,
    OPEN,
    PUBACK,
    PUBLISH,
    UNSUBSCRIBE,
    Raw,
    ack_packet,
    connect_packet,
    grant,
    until,
)


@pytest_asyncio.fixture
async def process(tmp_path: Path) -> AsyncIterator[Reloadable]:
    found = Reloadable(tmp_path)
    yield found
    for raw in OPEN:
        raw.writer.transport.abort()
    OPEN.clear()
    await asyncio.sleep(0)
    found.end()


def listening(*ports: int, **more: Any) -> dict[str, Any]:
    listeners = [{"bind": f"127.0.0.1:{port}"} for port in ports]
    return {"listeners": listeners, **more}


def text_of(*ports: int, tls: dict[str, Any] | None = None) -> str:
    """Listeners as people write them: every key on a line of its own."""
    lines = ["listeners:", *(f'- bind: "127.0.0.1:{port}"' for port in ports)]
    if tls:
        lines += ["  tls:", *(f"    {key}: {value}" for key, value in tls.items())]
    return "\n".join([*lines, "http: null"]) + "\n"


def out(far: Any, *topics: str, **cloud: Any) -> dict[str, Any]:
    return {
        "connectors": {"cloud": {"url": f"127.0.0.1:{far.port}", **cloud}},
        "routes": {"out": {"from": "local", "topics": list(topics), "to": "cloud"}},
    }


# -- asking ---------------------------------------------------------------------------------------


async def test_the_command_says_what_was_changed(process: Reloadable, mosquitto: Any) -> None:
    far, port = await mosquitto(), free_port()
    await process.start(listening(port))
    assert process.alive
    process.write(listening(port, broker={"max_inflight": 30}, **out(far, "a/#")))
    status, text, errors = await process.command(process.file)
    assert (status, errors) == (0, "")
    pid = process.process.pid if process.process else 0
    assert text.splitlines() == [
        f"process {pid}, which runs {process.file}:",
        "broker: changed (max_inflight)", "route out: added", "connector cloud: added",
    ]  # fmt: skip
    assert (await process.command("--pid", pid))[0] == 0
    for question in ((), ("--pid", pid)):
        named, words = (await process.command(*question))[1].splitlines()
        assert named == f"process {pid}, which runs {process.file}:"
        assert words.startswith("nothing has changed")
    status, _, errors = await process.command("--pid", 1)
    assert (status, "no process" in errors) == (1, True)


async def test_a_process_without_a_file_is_named_too(process: Reloadable) -> None:
    await process.start({}, "-p", str(free_port()), file=False)
    assert process.process is not None
    process.file.unlink()  # else that of the file is meant
    status, text, errors = await process.command()
    assert (status, errors) == (0, "")
    assert text.startswith(f"process {process.process.pid}, which runs without a file:\n")


async def test_the_socket_is_for_its_owner_and_goes_with_the_process(
    process: Reloadable, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    await process.start(listening(free_port(), broker={"data": str(data)}))
    control = data / "control"
    assert stat.S_IMODE(control.stat().st_mode) == 0o600
    assert stat.S_IMODE((process.runtime / "isthmus").stat().st_mode) == 0o700
    (process.runtime / "isthmus").rename(process.runtime / "elsewhere")
    assert (await process.command(process.file))[0] == 0  # by the data folder that the file names
    (process.runtime / "elsewhere").rename(process.runtime / "isthmus")
    assert process.process is not None
    process.process.terminate()
    await until(lambda: not process.alive)
    assert not control.exists()
    assert process.socket is None
    status, _, errors = await process.command(process.file)
    assert (status, "is it running" in errors) == (1, True)
    assert "Other processes" not in errors


async def test_what_is_no_request_is_answered_and_harms_nothing(process: Reloadable) -> None:
    await process.start(listening(free_port()))
    lines = (b"reload\n", b"[]\n", b'{"request": "rm"}\n', b"\xff\n", b"x" * 100_000 + b"\n")
    for line in (*lines, b"[" * 30_000 + b"\n"):
        reader, writer = await asyncio.open_unix_connection(str(process.socket))
        writer.write(line)
        answer = b""
        with suppress(ConnectionResetError):  # by what is left of a line that is too long
            answer = await asyncio.wait_for(reader.read(), 5)
        assert not answer or json.loads(answer)["errors"]
        writer.close()
    assert (await process.reload())["status"] == 0
    assert "Traceback" not in process.log


async def test_a_second_process_of_a_killed_one_is_found(process: Reloadable) -> None:
    port = free_port()
    await process.start(listening(port))
    assert process.process is not None
    process.process.kill()
    process.process.wait()
    left = process.socket
    assert left is not None
    await process.start(listening(port))
    await until(lambda: not left.exists())
    assert (await process.command(process.file))[0] == 0


@pytest.mark.alone
async def test_an_entry_is_removed_only_when_its_process_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = own_entry(None).parent
    gone = subprocess.Popen([sys.executable, "-c", ""])  # noqa: ASYNC220 - it ends at once
    gone.wait()
    left, starting = folder / f"{gone.pid}-0", folder / f"{os.getppid()}-1"
    elsewhere, ours = folder / f"{gone.pid}-2", folder / f"{os.getpid()}-3"
    notes = folder / "notes"
    notes.write_text("")
    sockets = []
    for path in (left, starting, elsewhere, ours):
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[-1].bind(str(path))  # and no `listen`: a probe is refused
    sockets[2].listen(0)  # of a process that has another number here
    clear(folder)
    assert set(folder.iterdir()) == {starting, elsewhere, notes}
    assert find() == [elsewhere]
    began = asyncio.get_running_loop().time()
    for _ in range(3):  # nobody accepts, and nobody waits for that
        clear(folder)
        assert find() == [elsewhere]
    assert asyncio.get_running_loop().time() - began < 0.5
    for one in sockets:
        one.close()


# -- what cannot be used ---------------------------------------------------------------------------


async def test_a_bad_file_changes_nothing(process: Reloadable, certificates: Any) -> None:
    port, other = free_port(), free_port()
    good = listening(port)
    await process.start(good)
    raw = await Raw.client(port, "here")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bound = taken.getsockname()[1]
        for text, status, problem in (
            (f'listeners:\n- bind: "127.0.0.1:{other}"\nconnectors:\n  a: {{ur: 1}}\n',
             2, "isthmus.yaml:4: connectors.a"),
            ("listeners: [\n", 2, "isthmus.yaml:"),
            (text_of(port, other, bound),
             1, f"isthmus.yaml:4: listeners[2].bind: 127.0.0.1:{bound}: Address already in use"),
            (text_of(other, tls={"certificate": certificates.ca, "key": certificates.server}),
             2, "isthmus.yaml:5: listeners[0].tls.key: "),
            (f"auth:\n  password_file: {process.file}\n", 2, "isthmus.yaml:1: "),
        ):  # fmt: skip
            process.write(text)
            found = await process.command(process.file)
            assert found[0] == status, found
            assert found[1] == ""
            assert process.process is not None
            assert found[2].startswith(
                f"isthmus: process {process.process.pid}, which runs {process.file}:\n"
            )
            assert problem in found[2], found
            assert problem in process.log
            assert not listens(other)
    await raw.published("t", "x", 1)
    process.write("listeners: [\n")
    process.hang_up()
    await process.said("reload: nothing has changed")
    await raw.published("t", "x", 1)
    process.write(good)
    assert (await process.command(process.file))[0] == 0
    assert "Traceback" not in process.log


async def test_an_empty_file_and_a_stream_are_not_taken_while_it_runs(process: Reloadable) -> None:
    await process.start(listening(free_port()))
    answer = await process.reload("")
    assert (answer["status"], "is empty" in answer["errors"][0]) == (2, True)
    process.file.unlink()
    os.mkfifo(process.file)
    answer = await process.reload()
    assert (answer["status"], "no regular file" in answer["errors"][0]) == (2, True)
    process.file.unlink()
    answer = await process.reload()
    assert (answer["status"], "No such file" in answer["errors"][0]) == (2, True)
    assert process.alive


async def test_a_sighup_while_it_starts_is_kept_until_it_is_up(process: Reloadable) -> None:
    """It reads its file, from a pipe, when the signal comes; what is in the file then counts."""
    before, after = ({"http": None, **listening(free_port())} for _ in range(2))
    os.mkfifo(process.file)
    starting = asyncio.create_task(process.start(None))
    pipe = await asyncio.wait_for(asyncio.to_thread(os.open, process.file, os.O_WRONLY), 15)
    process.hang_up()
    process.file.unlink()
    process.write(after)
    os.write(pipe, json.dumps(before).encode())
    os.close(pipe)
    await starting
    await process.said("reload: SIGHUP")
    await process.said("reload: listener")
    assert await asyncio.to_thread(listens, int(after["listeners"][0]["bind"].split(":")[1]))


async def test_a_change_of_the_log_alone_is_said(process: Reloadable) -> None:
    configuration = listening(free_port())
    await process.start(configuration)
    assert await process.changed({**configuration, "log": {"level": "debug"}}) == [
        "log: set up anew"
    ]


@pytest.mark.parametrize("failure", [RuntimeError("boom"), asyncio.CancelledError()])
async def test_a_failure_before_anything_changed_restores_everything(
    isthmus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    port, other = free_port(), free_port()
    users = tmp_path / "users"
    users.write_text(create_entry("ann", b"ann", iterations=2) + "\n")
    near = await isthmus(listening(port))
    app, settings = near.app, near.app.settings
    here = await Raw.client(port, "here")
    own = {"bind": f"127.0.0.1:{other}", "auth": {"password_file": str(users)}}
    wide = {"bind": f"0.0.0.0:{port}"}
    auth = {"allow_anonymous": True, "insecure_public_anonymous": True}
    third = {"bind": f"127.0.0.1:{free_port()}"}
    wanted = {"auth": auth, "listeners": [own, wide, third], "http": None}
    open_listener, opened = app.open_listener, []

    def fail_at_last(index: int, entrance: Any) -> Any:
        if index == 2:
            raise failure
        opened.append(open_listener(index, entrance))
        return opened[-1]

    with monkeypatch.context() as patched:
        patched.setattr(app, "open_listener", fail_at_last)
        with pytest.raises(type(failure)):
            await app.reload(Settings.model_validate(wanted))
    assert len(opened) == 2
    assert app.settings is settings
    assert not listens(other)
    await here.published("t", "x", 1)
    await Raw.client(port, "new")  # it listens where it did
    await app.reload(Settings.model_validate(wanted))
    assert listens(other)


async def test_a_failure_is_told_and_says_whether_anything_changed(
    isthmus: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    near = await isthmus(listening(free_port()))
    file = tmp_path / "isthmus.yaml"
    wanted = listening(near.port, broker={"max_qos": 1}, log={"to": ["stdout"]})
    file.write_text(json.dumps(wanted))
    set_up: list[Any] = []
    monkeypatch.setattr("isthmus.app.rereading._set_up_log", set_up.append)
    rereading = Rereading(near.app, lambda: read_configuration(file), file)
    before = near.app.settings.log

    def fail(*_: object) -> None:
        raise RuntimeError("boom")

    for name, text, logs in (
        ("_prepare", "nothing has changed", 2), ("_switch", "half-way", 1)
    ):  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setattr(Reload, name, fail)
            answer = await rereading.run()
        assert answer["status"] == 1
        assert "boom" in answer["errors"][0]
        assert text in caplog.text
        assert len(set_up) == logs
        assert name != "_prepare" or set_up[-1] == before
        set_up.clear()


async def test_what_waits_for_the_next_start_is_named(process: Reloadable, tmp_path: Path) -> None:
    port = free_port()
    await process.start(listening(port))
    changed = listening(port, node="other", broker={"data": str(tmp_path / "d")})
    assert await process.changed(changed) == [
        "nothing has changed; the files of users, rights and certificates were read again",
        "node, broker.data: takes effect at the next start",
    ]
    await process.said("reload: node, broker.data: takes effect at the next start")
    assert not (tmp_path / "d").exists()


# -- clients ---------------------------------------------------------------------------------------


async def test_removed_users_are_dropped_and_rights_are_new_at_once(
    process: Reloadable, tmp_path: Path
) -> None:
    port = free_port()
    users, rights, more = tmp_path / "users", tmp_path / "acl", tmp_path / "acl-2"
    lines = {
        name: create_entry(name, name.encode(), iterations=2) + "\n" for name in ("ann", "bob")
    }
    users.write_text("".join(lines.values()))
    rights.write_text("user ann\ntopic readwrite a/#\nuser bob\ntopic readwrite a/#\n")
    more.write_text("user ann\ntopic read a/#\ntopic write b/#\n")
    auth = {"password_file": str(users), "acl_file": str(rights)}
    await process.start(listening(port, auth=auth))
    ann = await Raw.client(port, "ann", username="ann", password="ann")
    bob = await Raw.client(port, "bob", username="bob", password="bob")
    await ann.subscribe("a/#", qos=1)
    await bob.published("a/x", "1", 1)
    assert (await ann.message()).payload == b"1"
    users.write_text(lines["ann"])
    changes = await process.changed(listening(port, auth={**auth, "acl_file": str(more)}))
    assert changes == ["auth: changed (acl_file)", "1 client(s) disconnected: no longer let in"]
    gone = await bob.expect(DISCONNECT)
    assert gone.code == 0x87
    ann.publish("a/x", "2", 1)
    assert (await ann.expect(PUBACK)).code == 0x87
    await ann.published("b/x", "3", 1)
    late = await Raw.open(port)
    late.send(connect_packet("bob", username="bob", password="bob"))
    assert (await late.expect(CONNACK)).code in (0x86, 0x87)


async def test_limits_of_the_broker_count_for_new_connections(process: Reloadable) -> None:
    port = free_port()
    await process.start(listening(port))
    before = await Raw.client(port, "before")
    await process.changed(listening(port, broker={"receive_maximum": 7, "max_qos": 1}))
    after = await Raw.client(port, "after")
    assert after.hello.properties["receive_maximum"] == 7
    assert after.hello.properties["maximum_qos"] == 1
    await before.published("t", "x", 1)


# -- listeners -------------------------------------------------------------------------------------


async def test_listeners_come_and_go(process: Reloadable) -> None:
    stays, goes, comes = free_port(), free_port(), free_port()
    await process.start(listening(goes, stays))
    here = await Raw.client(stays, "here")
    there, old = await Raw.client(goes, "there"), await Raw.client(goes, "old", 4)
    changes = await process.changed(listening(stays, comes))
    assert changes == [f"listener 127.0.0.1:{comes}: added", f"listener 127.0.0.1:{goes}: removed"]
    assert (await there.expect(DISCONNECT)).code == 0x98
    await old.closed()
    await until(lambda: not listens(goes))
    await Raw.client(comes, "new")
    await here.published("t", "x", 1)


async def test_a_wider_address_replaces_a_narrower_one(process: Reloadable) -> None:
    port = free_port()
    await process.start(listening(port))
    auth = {"allow_anonymous": True, "insecure_public_anonymous": True}
    wide = {"listeners": [{"bind": f"0.0.0.0:{port}"}], "auth": auth, "http": None}
    assert f"listener 0.0.0.0:{port}: added" in await process.changed(wide)
    await Raw.client(port, "wide")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bad = listening(port, taken.getsockname()[1], auth=auth)
        assert (await process.reload(bad))["status"] == 1
    await Raw.client(port, "still")  # the wide one listens again


async def test_a_listener_on_one_interface_replaces_one_on_all(process: Reloadable) -> None:
    port = free_port()
    await process.start(listening(port))
    here = await Raw.client(port, "here")
    narrow = {"listeners": [{"bind": f"127.0.0.1:{port}", "interface": "lo"}]}
    assert await process.changed(narrow) == [
        f"listener 127.0.0.1:{port} on lo: added",
        f"listener 127.0.0.1:{port}: removed",
    ]
    assert (await here.expect(DISCONNECT)).code == 0x98
    there = await Raw.client(port, "there")
    assert (await process.changed(narrow))[0].startswith("nothing has changed")
    await there.published("t", "x", 1)
    narrow["listeners"][0]["interface"] = "nowhere0"
    answer = await process.reload(narrow)
    assert answer["status"] == 1
    assert "no such interface" in json.dumps(answer)
    await there.published("t", "x", 1)


async def test_a_listener_gets_other_options_without_a_gap(
    process: Reloadable, certificates: Any
) -> None:
    port = free_port()
    await process.start(listening(port))
    here = await Raw.client(port, "here")
    tls = {"certificate": str(certificates.server), "key": str(certificates.server)}
    secure = {"listeners": [{"bind": f"127.0.0.1:{port}", "tls": tls}], "http": None}
    assert await process.changed(secure) == [f"listener 127.0.0.1:{port}: changed (tls)"]
    context = ssl.create_default_context(cafile=str(certificates.ca))
    there = await Raw.client(port, "there", tls=context)
    await here.subscribe("t")
    there.publish("t", "x")
    assert (await here.message()).payload == b"x"
    await process.changed(listening(port))
    await Raw.client(port, "plain")
    await there.published("t", "y", 1)


async def test_a_listener_with_other_users_sends_its_clients_away(
    process: Reloadable, tmp_path: Path
) -> None:
    port, other = free_port(), free_port()
    users = tmp_path / "users"
    users.write_text(create_entry("ann", b"ann", iterations=2) + "\n")
    own = {"bind": f"127.0.0.1:{other}", "auth": {"password_file": str(users)}}
    await process.start({"listeners": [{"bind": f"127.0.0.1:{port}"}, own], "http": None})
    here = await Raw.client(port, "here")
    ann = await Raw.client(other, "ann", username="ann", password="ann", session_expiry=60)
    await ann.subscribe("t", qos=1)
    # Another place in the list: the same listener, the same users.
    await process.changed({"listeners": [own, {"bind": f"127.0.0.1:{port}"}], "http": None})
    await here.published("t", "1", 1)
    assert (await ann.message()).payload == b"1"
    await process.changed(listening(port, other))
    assert (await ann.expect(DISCONNECT)).code == 0x98
    await here.published("t", "2", 1)


# -- routes and connectors -------------------------------------------------------------------------


async def test_subscriptions_of_live_connections_follow_the_routes(
    process: Reloadable, mosquitto: Any
) -> None:
    far, port = await mosquitto(), free_port()

    def with_routes(*topics: str) -> dict[str, Any]:
        routes = {"in": {"from": "cloud", "topics": list(topics), "to": "local"}}
        return listening(port, connectors={"cloud": {"url": f"127.0.0.1:{far.port}"}},
                         routes=routes)  # fmt: skip

    await process.start(with_routes("a/#", "b/#"))
    here, there = await Raw.client(port, "here"), await Raw.client(far.port, "there")
    await here.subscribe("#", qos=1)
    await until(lambda: "SUBSCRIBE" in far.log.read_text())
    await process.changed(with_routes("b/#", "c/#"))
    await until(lambda: "UNSUBSCRIBE" in far.log.read_text())
    await until(lambda: far.log.read_text().count("Sending SUBACK to cloud") == 2)
    for topic in ("a/1", "b/1", "c/1"):
        await there.published(topic, topic, 1)
    assert {(await here.message()).topic for _ in range(2)} == {"b/1", "c/1"}
    assert far.log.read_text().count("as cloud") == 1  # one connection, all the time


async def test_a_route_counts_on_when_it_changes(process: Reloadable, mosquitto: Any) -> None:
    far, port = await mosquitto(), free_port()
    await process.start(listening(port, **out(far, "a/#")))
    await process.said("connected")
    here = await Raw.client(port, "here")

    async def counts() -> tuple[int, dict[str, int]]:
        for topic in ("a/1", "b/1"):
            await here.published(topic, "x", 1)
        _, answer, _ = await process.command("--json", name="status")
        (route,) = json.loads(answer)["routes"]
        return route["messages"], route["dropped"]

    assert await counts() == (1, {})
    wider = out(far, "a/#", "b/#")
    wider["routes"]["out"]["topic"] = "c/${topic[1]}/${topic[9]}"  # which no topic has
    await process.changed(listening(port, **wider))
    assert await counts() == (1, {"bad_topic": 2})
    await process.changed(listening(port, **out(far, "a/#", "b/#")))
    assert await counts() == (3, {"bad_topic": 2})


async def test_retained_messages_follow_a_new_route(process: Reloadable, mosquitto: Any) -> None:
    far, port = await mosquitto(), free_port()
    await process.start(listening(port, **out(far, "a/#")))
    here = await Raw.client(port, "here")
    await here.published("b/state", "on", 1, retain=True)
    await process.said("connected")
    await process.changed(listening(port, **out(far, "a/#", "b/#")))
    there = await Raw.client(far.port, "there")
    await there.subscribe("b/#", qos=1)
    assert (await there.message()).payload == b"on"


async def test_a_removed_connector_drains_and_refuses_what_it_cannot_deliver(
    process: Reloadable, far: Any, mosquitto: Any
) -> None:
    port = free_port()
    await process.start(listening(port, **out(far, "a/#")))
    peer, _ = await far.client()
    here, idle = await Raw.client(port, "here"), await Raw.client(port, "idle", 4)
    here.publish("a/1", "1", 1)
    got = await peer.expect(PUBLISH)
    here.publish("a/2", "2", 1)
    await peer.expect(PUBLISH)
    change = asyncio.create_task(process.changed(listening(port)))
    await asyncio.sleep(0.3)
    peer.send(b"\x40\x02" + got.packet_id.to_bytes(2, "big"))
    assert (await here.expect(PUBACK)).packet_id == 1  # delivered while it drained
    changes = await change
    assert changes[-1] == (
        "connector cloud: removed; 1 message(s) were not acknowledged in 8 s and are dropped"
    )
    refused = await here.expect(PUBACK)
    assert (refused.packet_id, refused.code) == (2, 0x83)
    goodbye = await peer.expect(DISCONNECT)
    assert goodbye.properties["session_expiry"] == 0
    await process.said("connector_removed")
    await idle.published("a/3", "3", 1)


async def test_a_connector_that_is_down_is_removed_at_once_and_says_why(
    process: Reloadable,
) -> None:
    port, nobody = free_port(), free_port()
    wrong = {
        "connectors": {"cloud": {"url": f"127.0.0.1:{nobody}"}},
        "routes": {"out": {"from": "local", "topics": ["a/#"], "to": "cloud"}},
    }
    await process.start(listening(port, **wrong))
    here, old = await Raw.client(port, "here"), await Raw.client(port, "old", 4)
    here.publish("a/1", "1", 1)
    old.publish("a/1", "2", 1)
    await here.nothing()
    async with asyncio.timeout(4):
        changes = await process.changed(listening(port))
    assert changes[-1] == (
        "connector cloud: removed; 2 message(s) had no connection to leave by and are dropped"
    )
    assert (await here.expect(PUBACK)).code == 0x83
    await old.nothing()  # MQTT 3 has no code for it: its publisher keeps the message


async def test_what_had_no_room_on_disk_is_refused_when_its_connector_is_removed(
    process: Reloadable, tmp_path: Path
) -> None:
    port, nobody = free_port(), free_port()
    data = {"broker": {"data": str(tmp_path / "data")}}
    full = {
        "connectors": {"cloud": {"url": f"127.0.0.1:{nobody}"}},
        "routes": {
            "out": {
                "from": "local", "topics": ["a/#"], "to": "cloud", "queue": {"max_messages": 3}
            }
        },
    }  # fmt: skip
    await process.start(listening(port, **data, **full))
    here = await Raw.client(port, "here")
    for number in range(3):
        await here.published("a/1", str(number), 1)
    last = here.publish("a/1", "3", 1)
    await here.nothing()
    await process.changed(listening(port, **data))
    refused = await here.expect(PUBACK)
    assert (refused.packet_id, refused.code) == (last, 0x83)


async def test_what_waits_for_a_far_side_that_is_down_arrives_at_the_new_address(
    process: Reloadable, mosquitto: Any
) -> None:
    far, port, nobody = await mosquitto(), free_port(), free_port()
    there = await Raw.client(far.port, "there")
    await there.subscribe("a/#", qos=1)
    wrong = out(far, "a/#")
    wrong["connectors"]["cloud"]["url"] = f"127.0.0.1:{nobody}"
    await process.start(listening(port, **wrong))
    here = await Raw.client(port, "here")
    for number in range(20):
        here.publish("a/1", str(number), 1)
    await here.nothing()
    assert await process.changed(listening(port, **out(far, "a/#"))) == [
        "connector cloud: changed (url)"
    ]
    got = [int((await there.message()).payload) for _ in range(20)]
    assert got == list(range(20))
    for _ in range(20):
        await here.expect(PUBACK)


async def test_a_new_token_is_used_without_a_restart_and_nothing_is_lost(
    process: Reloadable, far: Any, tmp_path: Path
) -> None:
    """A password that is good for a short time stands in a file of its own."""
    token, port = tmp_path / "token", free_port()
    token.write_text("first\n")
    how = {"client_id": "me", "username": "me", "password": f"${{file:{token}}}"}
    configuration = listening(port, **out(far, "a/#", **how))
    process.write(configuration)
    starting = asyncio.create_task(process.start(configuration))
    there, hello = await far.client()
    await starting
    assert hello.password == b"first"
    here = await Raw.client(port, "here")
    here.publish("a/1", "before", 1)
    assert (await there.expect(PUBLISH)).payload == b"before"
    token.write_text("second\n")
    process.hang_up()
    there, hello = await far.client(session_present=True)
    assert hello.password == b"second"
    found = await there.expect(PUBLISH)
    assert (found.payload, found.dup) == (b"before", True)
    there.send(ack_packet(PUBACK, found.packet_id))
    assert (await here.expect(PUBACK)).packet_id == 1
    assert "second" not in process.log


async def test_filters_are_joined_or_not_on_a_connection_that_stays(
    process: Reloadable, far: Any
) -> None:
    port = free_port()

    def configuration(**how: Any) -> dict[str, Any]:
        routes = {"in": {"from": "cloud", "topics": ["a/#", "a/b"], "to": "local"}}
        return listening(port, **{**out(far, **how), "routes": routes})

    starting = asyncio.create_task(process.start(configuration()))
    there, _ = await far.client()
    assert [name for name, _ in await grant(there)] == ["a/#"]
    await starting
    await process.changed(configuration(join_filters=False))
    assert [name for name, _ in await grant(there)] == ["a/b"]
    await process.changed(configuration())
    gone = await there.expect(UNSUBSCRIBE)
    assert gone.body[2:] == b"\0\0\3a/b"


# -- Mosquitto's file ------------------------------------------------------------------------------


async def test_sighup_reads_a_mosquitto_conf_again(tmp_path: Path, mosquitto: Any) -> None:
    far: Mosquitto = await mosquitto()
    process = Reloadable(tmp_path, "mosquitto.conf")
    OPEN.clear()
    port, other = free_port(), free_port()
    base = f"listener {port} 127.0.0.1\nallow_anonymous true\n"
    bridge = f"connection far\naddress 127.0.0.1:{far.port}\ntopic a/# out 1\n"
    try:
        await process.start(base + bridge)
        here, there = await Raw.client(port, "here", 4), await Raw.client(far.port, "there")
        await there.subscribe("#", qos=1)
        await process.said("connected")
        process.write(f"{base}listener {other} 127.0.0.1\n{bridge}topic b/# out 1\n")
        process.hang_up()
        await process.said("reload: route")
        await Raw.client(other, "new")
        await here.published("b/1", "x", 1)
        assert (await there.message()).topic == "b/1"
        process.write(base + "no_such_option 1\n")
        process.hang_up()
        await process.said("mosquitto.conf:3: ")
        await here.published("a/1", "x", 1)
        assert far.log.read_text().count("connected from") == 2  # there, and the bridge once
    finally:
        for raw in OPEN:
            raw.writer.transport.abort()
        OPEN.clear()
        await asyncio.sleep(0)
        process.end()


# -- the start ------------------------------------------------------------------------------------


def run(*arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "isthmus", *map(str, arguments)],
        capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr.decode()


async def test_what_is_found_late_is_shown_with_its_line(tmp_path: Path, certificates: Any) -> None:
    file = tmp_path / "isthmus.yaml"
    port = free_port()
    (tmp_path / "file").write_text("")
    (tmp_path / "broken.pem").write_text("no certificate\n")
    key = tmp_path / "key.pem"
    key.write_bytes(certificates.server.read_bytes())
    key.chmod(0o600)  # else that is said too
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bound = taken.getsockname()[1]
        for text, status, problem in (
            (f'node: a\nlisteners:\n- bind: "127.0.0.1:{bound}"\n', 1,
             f"isthmus: {file}:3: listeners[0].bind: 127.0.0.1:{bound}: Address already in use"),
            (text_of(port, tls={"certificate": "broken.pem", "key": key}),
             2, f"isthmus: {file}:4: listeners[0].tls.certificate: "),
            ("broker:\n  max_qos: 1\n  data: file/data\n", 2, f"isthmus: {file}:3: broker.data: "),
        ):  # fmt: skip
            file.write_text(text)
            found = await asyncio.to_thread(run, "run", file)
            assert found[0] == status, found
            assert found[1].startswith(problem), found
            assert found[1].count("\n") == 1
            if status == 2:
                checked = await asyncio.to_thread(run, "check", file)
                assert checked == found
    conf = tmp_path / "mosquitto.conf"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bound = taken.getsockname()[1]
        conf.write_text(f"allow_anonymous true\nlistener {bound} 127.0.0.1\n")
        status, errors = await asyncio.to_thread(run, "run", conf)
    assert status == 1
    assert errors.startswith(f"isthmus: {conf}:2: listener: listeners[0].bind: 127.0.0.1:{bound}: ")


def test_check_reports_a_data_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "isthmus.yaml"
    for data, near in (("data", "written to"), ("new/data", f"made: '{tmp_path}' cannot be")):
        (tmp_path / "data").mkdir(exist_ok=True)
        file.write_text(f"node: a\nbroker: {{data: {data}}}\n")
        loaded = read_configuration(file)
        load_files(loaded.settings)
        # Nothing that a mode says stops root, which tests may run as.
        with monkeypatch.context() as patched:
            patched.setattr(os, "access", lambda *_: False)
            with pytest.raises(ConfigError) as error:
                load_files(loaded.settings)
        (text,) = loaded.placed(error.value).problems
        assert text.startswith(f"{file}:2: broker.data: '{tmp_path / data}' cannot be {near}")
    assert not (tmp_path / "new").exists()
