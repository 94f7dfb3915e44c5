"""`isthmus run mosquitto.conf`: a real bridge, and the command line of Mosquitto."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from isthmus.app.mosquitto.loading import load
from isthmus.app.settings import Settings
from mosquitto import Listening, command, free_port, listens, program
from raw import Raw, until

EIGHT_LINES = """\
connection emqx1
address {address}
bridge_protocol_version mqttv50
remote_clientid emqx_c
remote_username emqx_u
remote_password public
topic sensor/# out 1
topic control/# in 1
"""
"""As published for a bridge from Mosquitto to EMQX; only the address is ours."""

PATIENCE_S = 15.0
HERE = Path.cwd()


def written(folder: Path, text: str, name: str = "mosquitto.conf") -> Path:
    path = folder / name
    path.write_text(text)
    return path


async def run(*arguments: str | Path) -> tuple[int, str, str]:
    return await command(sys.executable, "-m", "isthmus", "run", *map(str, arguments))


@contextlib.asynccontextmanager
async def running(*arguments: str | Path, cwd: Path | None = None) -> Any:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "isthmus", "run", *arguments,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}, cwd=cwd,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def said(process: asyncio.subprocess.Process, text: str) -> None:
    await line_with(process, text)


async def line_with(process: asyncio.subprocess.Process, text: str) -> str:
    lines = ""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        while line := (await process.stderr.readline()).decode():
            lines += line
            if text in line:
                return line
    raise AssertionError(f"it ended without saying {text!r}:\n{lines}")


async def test_the_published_eight_lines_run_unchanged(mosquitto, tmp_path: Path) -> None:
    await command("mosquitto_passwd", "-c", "-b", str(tmp_path / "pw"), "emqx_u", "public")
    far = await mosquitto("allow_anonymous false", f"password_file {tmp_path / 'pw'}")
    login = ("-u", "emqx_u", "-P", "public")
    path = written(tmp_path, EIGHT_LINES.format(address=f"127.0.0.1:{far.port}"))
    port = free_port()
    async with running(path, "-p", str(port)) as process:
        await said(process, "connected")
        there = await Listening.start(
            "-p", str(far.port), "-q", "1", "-v", "-t", "sensor/#", *login
        )
        here = await Listening.start("-p", str(port), "-q", "1", "-v", "-t", "control/#")
        out = ("-q", "1", "-t", "sensor/1/temperature", "-m", "37.5")
        assert (await command("mosquitto_pub", "-p", str(port), *out))[0] == 0
        assert await there.line() == "sensor/1/temperature 37.5"
        back = ("-q", "1", "-t", "control/t/1", "-m", "I'm EMQX", *login)
        assert (await command("mosquitto_pub", "-p", str(far.port), *back))[0] == 0
        assert await here.line() == "control/t/1 I'm EMQX"
        for listening in (there, here):
            await listening.stop()
        state = "$SYS/broker/connection/emqx_c/state"
        for where, more in ((port, ()), (far.port, login)):
            sub = ("-p", str(where), "-t", state, "-C", "1", "-W", "5", *more)
            assert (await command("mosquitto_sub", *sub))[1] == "1\n"
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == 0


async def test_prefixes_go_both_ways(mosquitto, isthmus, tmp_path: Path) -> None:
    far = await mosquitto()
    path = written(
        tmp_path,
        f"connection cloud\naddress 127.0.0.1:{far.port}\n"
        "topic # both 1 here/ there/\n"
        'topic x/# out 1 "" first/\ntopic x/y out 1 "" second/\n',
    )
    near = await isthmus(load(path, ports=[free_port()]).settings)
    await near.connected()
    here = await near.client("here")
    publisher = await near.client("publisher")
    there = await Raw.client(far.port, "there")
    await here.subscribe("#", qos=1)
    await there.subscribe("#", qos=1)
    for sent, arrives in (
        ("here/a", "there/a"),
        ("here", "there"),  # Mosquitto makes there/here of it
        ("x/y", "first/x/y"),  # 2.1 sends it twice
    ):
        await publisher.published(sent, "p", 1)
        assert (await here.message()).topic == sent
        assert (await there.message()).topic == arrives
    publisher = await Raw.client(far.port, "publisher")
    await publisher.published("there/b", "p", 1)
    assert (await there.message()).topic == "there/b"
    assert (await here.message()).topic == "here/b"
    await here.nothing()
    await there.nothing()


async def test_a_ring_of_lines_both_ways_delivers_once_with_mqtt_5(isthmus, tmp_path: Path) -> None:
    """As the page says how to protect one: the version in each `connection`."""
    ports = [free_port() for _ in range(3)]
    nodes = []
    for number, port in enumerate(ports):
        text = (
            f"connection next\naddress 127.0.0.1:{ports[(number + 1) % 3]}\ntopic # both 1\n"
            f"remote_clientid node-{number}\nbridge_protocol_version mqttv50\n"
            "notifications false\nrestart_timeout 1\n"
        )
        nodes.append(await isthmus(load(written(tmp_path, text), ports=[port]).settings))
    clients = []
    for node in nodes:
        await node.connected("next")
        clients.append(await node.client("here"))
        await clients[-1].subscribe("#", qos=1)
    publishers = [await node.client("publisher") for node in nodes]
    for number, publisher in enumerate(publishers):
        await publisher.published(f"from/{number}", "once", 1)
    await asyncio.sleep(0.5)
    for client in clients:
        found = sorted(one.topic for one in await client.arrived())
        assert found == ["from/0", "from/1", "from/2"]


async def test_its_connack_is_that_of_mosquitto(mosquitto, isthmus, tmp_path: Path) -> None:
    """Defaults of the broker that a client can see: the properties of an MQTT 5 CONNACK."""
    real = await mosquitto()
    near = await isthmus(load(written(tmp_path, ""), ports=[free_port()]).settings)
    found = []
    for port in (near.port, real.port):
        peer = await Raw.open(port)
        peer.send(bytes.fromhex("100d00044d5154540502003c000000"))
        answer = await peer.packet()
        found.append(dict(answer.properties))
        peer.close()
    ours, theirs = found
    assert ours.pop("assigned_id").startswith("auto-")
    assert theirs.pop("assigned_id").startswith("auto-")
    assert ours["receive_maximum"] == theirs["receive_maximum"] == 20
    assert ours["alias_maximum"] == theirs["alias_maximum"] == 10
    # 2.0 has no limit, 2.1 has this one.
    assert ours.pop("maximum_packet") == 2_000_000
    assert set(ours) >= set(theirs)


@pytest.mark.parametrize("queued", ["true", "false"])
async def test_qos_0_over_an_outage_is_as_with_mosquitto(
    mosquitto, isthmus, proxy, tmp_path: Path, queued: str
) -> None:
    """`queue_qos0_messages` is for bridges too."""
    far = await mosquitto()
    network = await proxy(far.port)
    text = (
        f"queue_qos0_messages {queued}\nconnection cloud\naddress 127.0.0.1:{network.port}\n"
        "remote_clientid me\nrestart_timeout 1\ntopic out/# out 1\n"
    )
    there = await Raw.client(far.port, "there")
    await there.subscribe("out/#", qos=1)

    async def state(here: Raw, payload: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (await here.message()).payload != payload:
                pass

    async def arrived(port: int) -> list[bytes]:
        here = await Raw.client(port, "here")
        publisher = await Raw.client(port, "publisher")
        await here.subscribe("$SYS/broker/connection/me/state")
        await state(here, b"1")
        network.refusing = True
        network.reset()
        await state(here, b"0")
        publisher.publish("out/a", "first")
        publisher.publish("out/a", "second")
        publisher.publish("out/a", "last", 1)
        await publisher.arrived()
        network.refusing = False
        await state(here, b"1")
        found: list[bytes] = []
        async with asyncio.timeout(PATIENCE_S):
            while b"last" not in found:
                found.append((await there.message()).payload)
        return found

    real = await mosquitto(*text.splitlines())
    theirs = await arrived(real.port)
    real.kill()
    near = await isthmus(load(written(tmp_path, text), ports=[free_port()]).settings)
    ours = await arrived(near.port)
    assert theirs == ([b"first", b"second", b"last"] if queued == "true" else [b"last"])
    assert ours == theirs


# -- the command line ------------------------------------------------------------------------------


async def test_c_takes_any_name_and_v_logs_everything(tmp_path: Path) -> None:
    port = free_port()
    path = written(tmp_path, f"listener {port} 127.0.0.1\nallow_anonymous true\n", "broker.cfg")
    async with running("-c", path, "-v") as process:
        await said(process, "listening")
        await command("mosquitto_pub", "-p", str(port), "-t", "a", "-n", "-i", "me")
        await said(process, "client 'me'")


async def test_log_and_pid_files_are_written(tmp_path: Path) -> None:
    port = free_port()
    path = written(tmp_path, "log_dest file m.log\npid_file m.pid\n")
    async with running(path, "-p", str(port), cwd=tmp_path) as process:
        await until(lambda: listens(port))
        assert (tmp_path / "m.pid").read_text() == f"{process.pid}\n"
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            out, errors = await process.communicate()
    assert (out, errors) == (b"", b"")
    assert "listening on" in (tmp_path / "m.log").read_text()
    assert not (tmp_path / "m.pid").exists()


async def test_a_configuration_can_be_tried(tmp_path: Path) -> None:
    good = written(tmp_path, "persistence_file x.db\n")
    assert await run("--test-config", good) == (
        0,
        "",
        (
            f"isthmus: {good}:1: persistence_file: no effect: the content of a `mosquitto.db` is "
            "not imported\n"
        ),
    )
    bad = written(tmp_path, "connection a\naddress b\ntopic #\nbridge_psk CANARY\n", "bad.conf")
    status, out, errors = await run(bad, "--test-config")
    assert (status, out) == (2, "")
    assert errors == (
        f"isthmus: {bad}:4: bridge_psk: Isthmus has no pre-shared keys: it runs on Python 3.11 "
        "too, whose TLS has none; use certificates (refused)\n"
    )


async def test_errors_of_settings_name_the_line(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "listener 1884 127.0.0.1\nmax_queued_bytes 30\nallow_anonymous true\n"
        "connection a\naddress x:1\ntopic # out\nremote_password CANARY\n",
    )
    status, _, errors = await run("--test-config", path)
    assert status == 2
    assert "CANARY" not in errors
    first, second = errors.splitlines()
    place = f"isthmus: {path}:2: max_queued_bytes: broker.limits.queued_bytes: "
    assert first.startswith(f"{place}must be at least 1")
    place = f"isthmus: {path}:7: remote_password: connectors.a.password: "
    assert second == f"{place}needs a 'username' in MQTT 3.1.1"
    path = written(tmp_path, "listener 1884 127.0.0.1\npassword_file none\nacl_file none\n")
    status, _, errors = await run("--test-config", path)
    assert status == 2
    none = f"{HERE}/none"
    assert errors.splitlines() == [
        f"isthmus: {path}:{line}: {name}: auth.{name}: there is no file '{none}'"
        for line, name in ((2, "password_file"), (3, "acl_file"))
    ]


async def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    yaml = written(tmp_path, "", "a.yaml")
    for arguments, text in (
        (("-d", path), "stays in the foreground"),
        ((path, "-c", path), "there are two configurations"),
        ((yaml, "-p", "1884"), "write the port into the file"),
    ):
        status, _, errors = await run(*arguments)
        assert status == 2
        assert text in errors


async def test_check_reads_it_and_says_which_lines_have_no_qos(tmp_path: Path) -> None:
    path = written(tmp_path, "connection a\naddress far.example\ntopic x\n")
    status, out, errors = await command(sys.executable, "-m", "isthmus", "check", str(path))
    assert (status, errors) == (0, "")
    assert "Connector a: one connection to far.example port 1883" in out
    assert f"Note: {path}:3: topic: has no QoS, so it is 0" in out


def test_the_default_of_debian_is_valid() -> None:
    """/etc/mosquitto/mosquitto.conf, as Debian 12 installs it."""
    found = load(Path("/etc/mosquitto/mosquitto.conf"))
    assert isinstance(found.settings, Settings)
    assert str(found.settings.broker.data) == "/var/lib/mosquitto"
    assert program("mosquitto")


async def test_lines_about_clients_and_their_times_are_as_the_file_says(tmp_path: Path) -> None:
    port = free_port()
    text = (
        f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_timestamp_format %Y;%H\n"
        "log_dest stderr\n"
    )
    year = time.strftime("%Y;")
    async with running(written(tmp_path, text)) as process:
        await said(process, "listening on")
        client = await Raw.client(port, "me", 5)
        await said(process, "INFO broker.clients: client 'me' connected from 127.0.0.1:")
        client.close()
        assert (await line_with(process, "client 'me' lost")).startswith(year)
    text += "connection_messages false\nlog_timestamp false\nlog_dest topic\n"
    async with running(written(tmp_path, text)) as process:
        await said(process, "listening on")
        reader = await Raw.client(port, "reader", 5)
        await reader.subscribe("$SYS/broker/log/#")
        await Raw.client(port, "me", 5)
        stranger = await Raw.open(port)
        stranger.send(b"GET / HTTP/1.0\r\n\r\n")
        await stranger.closed()
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            rest = (await process.stderr.read()).decode()
        assert "client" not in rest
        assert rest.splitlines()[0] == "INFO app: stopping"
        assert (await reader.message()).payload == b"INFO app: stopping"


@pytest.mark.parametrize("version", [4, 5])
async def test_max_topic_alias_broker_is_kept_to(isthmus, tmp_path: Path, version: int) -> None:
    """For one reader and for several, with all QoS; who announces none gets none."""
    text = "listener {port} 127.0.0.1\nallow_anonymous true\nmax_topic_alias_broker 1\n"
    path = written(tmp_path, text.format(port=free_port()))
    near = await isthmus(load(path, ports=[free_port()]).settings)
    publisher = await near.client("publisher")
    more = {"alias_maximum": 5} if version == 5 else {}
    reader = await near.client("reader", version, **more)
    await reader.subscribe("#", qos=2)
    found = []
    for qos, topic in ((1, "a"), (0, "a"), (2, "a"), (0, "b")):
        await publisher.published(topic, "p", qos)
        message = await reader.message()
        found.append((message.topic, message.properties.get("alias")))
    other = await near.client("other", 5)
    await other.subscribe("#", qos=1)
    await publisher.published("a", "p", 0)
    message = await reader.message()
    found.append((message.topic, message.properties.get("alias")))
    names = [("a", 1), ("", 1), ("", 1), ("b", None), ("", 1)]
    assert found == (names if version == 5 else [(topic or "a", None) for topic, _ in names])
    message = await other.message()
    assert (message.topic, message.properties.get("alias")) == ("a", None)


async def test_a_user_that_there_is_not_is_said_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "allow_anonymous true\nuser no-such-user\nlistener 0 x.sock\n")
    async with running(path, cwd=tmp_path) as process:
        if os.geteuid():
            await said(process, "as only root can become another")
            return
        out, errors = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert errors.decode() == (
        f"isthmus: {path}:2: user: user: there is no user 'no-such-user' on this machine\n"
    )
