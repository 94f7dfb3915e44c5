"""`isthmus run` as a process: ready, footprint, signals, and configurations that never start."""

from __future__ import annotations

import asyncio
import compileall
import shlex
import signal
import time
from pathlib import Path

import pytest
from commands import Command, isthmus_command

import isthmus
from isthmus.app.demo import TEXT
from mosquitto import command, free_port, listens
from raw import DISCONNECT, PUBACK, PUBLISH, Raw, ack_packet, grant, until

BRIDGE = """
listeners: [{bind: "127.0.0.1:%d"}]
connectors: {cloud: {url: "127.0.0.1:%d"}}
routes:
  out: {from: local, topics: ["sensor/#"], to: cloud}
  in: {from: cloud, topics: ["control/#"], to: local}
http: null
"""

MAX_RSS_KIB = 48 * 1024
READY_S = 1.0


def rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.alone
async def test_a_bridge_is_ready_in_a_second_and_small(mosquitto, start, tmp_path: Path) -> None:
    far = await mosquitto()
    # As pip leaves it: a process that compiles its modules at the start takes 2 MiB more.
    compileall.compile_dir(Path(isthmus.__file__).parent, quiet=1)
    took = []
    for _ in range(3):  # the best of three: other work on this machine is not ours
        path = tmp_path / "isthmus.yaml"
        path.write_text(BRIDGE % (free_port(), far.port))
        began = time.monotonic()
        process = await start("run", path)
        await process.said("connector cloud, connection 1")
        took.append(time.monotonic() - began)
        assert rss_kib(process.process.pid) <= MAX_RSS_KIB
        if took[-1] <= READY_S:
            break
        await process.end(signal.SIGTERM)
    assert min(took) <= READY_S


async def test_run_imports_nothing_heavy(start, tmp_path: Path) -> None:
    path = tmp_path / "isthmus.yaml"
    path.write_text(BRIDGE % (free_port(), free_port()))
    process = await start("run", path, python=("-X", "importtime"))
    await process.said("connector cloud")
    imported = {
        line.rpartition("|")[2].strip()
        for line in process.errors.splitlines()
        if line.startswith("import time:")
    }
    packages = {name.partition(".")[0] for name in imported}
    assert "isthmus" in packages
    assert not packages & {"rich", "argon2", "trustme", "cryptography", "requests", "aiohttp"}
    assert not any(name.startswith("_sysconfigdata") for name in imported)
    # Nor what this configuration has no use for.
    assert not imported & {
        "encodings.idna", "sqlite3", "tomllib", "uvicorn", "websockets", "isthmus.auth.acl",
        "isthmus.auth.passwords", "isthmus.auth.token_keys", "isthmus.broker.share_group",
        "isthmus.net.contexts", "isthmus.net.tls", "isthmus.net.websocket", "isthmus.store.store",
    }  # fmt: skip


async def test_sigterm_drains_and_exits_0(far, start, tmp_path: Path) -> None:
    port = free_port()
    path = tmp_path / "isthmus.yaml"
    path.write_text(BRIDGE % (port, far.port))
    process = await start("run", path)
    peer, _ = await far.client()
    await grant(peer)
    await process.said("connected")
    publisher = await Raw.client(port)
    packet_id = publisher.publish("sensor/1", "x", 1)
    message = await peer.expect(PUBLISH)
    process.signal(signal.SIGTERM)
    await process.said("stopping")
    assert process.process.returncode is None
    peer.send(ack_packet(PUBACK, message.packet_id))
    # The acknowledgement arrived while it was stopping, and was passed on.
    assert (await publisher.expect(PUBACK)).packet_id == packet_id
    ended = await process.end()
    assert (ended.status, ended.out) == (0, b"")
    assert ended.errors.splitlines()[-1].endswith("INFO app: stopped")
    assert not listens(port)


@pytest.mark.parametrize("name", ["run", "demo"])
async def test_a_sigterm_while_it_starts_is_kept_until_it_is_up(
    start, tmp_path: Path, name: str
) -> None:
    """It comes when the first lines of this program have run, long before the rest is imported."""
    path = tmp_path / "isthmus.yaml"
    path.write_text(f"listeners: [{{bind: '127.0.0.1:{free_port()}'}}]\nhttp: null\n")
    process = await start(name, *([path] if name == "run" else []), python=("-X", "importtime"))
    await process.said(" isthmus.cli\n")
    ended = await process.end(signal.SIGTERM)
    assert ended.status == 0, ended.errors[-2000:]
    assert ended.errors.splitlines()[-1].endswith("INFO app: stopped")


async def test_sigterm_names_another_server(start, tmp_path: Path) -> None:
    port = free_port()
    path = tmp_path / "isthmus.yaml"
    path.write_text(
        f"listeners: [{{bind: '127.0.0.1:{port}'}}]\n"
        "broker: {server_reference: 'broker-b.example.com:1883'}\nhttp: null\n"
    )
    process = await start("run", path)
    await until(lambda: listens(port))
    new, old = await Raw.client(port, "new"), await Raw.client(port, "old", 4)
    ended = await process.end(signal.SIGTERM)
    assert ended.status == 0
    goodbye = await new.expect(DISCONNECT)
    assert goodbye.code == 0x9C
    assert goodbye.properties == {"server_reference": "broker-b.example.com:1883"}
    assert await new.closed() == await old.closed() == b""


async def test_a_second_signal_does_not_wait(far, start, tmp_path: Path) -> None:
    port = free_port()
    path = tmp_path / "isthmus.yaml"
    path.write_text(BRIDGE % (port, far.port))
    process = await start("run", path)
    peer, _ = await far.client()
    await grant(peer)
    publisher = await Raw.client(port)
    publisher.publish("sensor/1", "x", 1)
    await peer.expect(PUBLISH)
    process.signal(signal.SIGINT)
    await process.said("stopping")
    began = time.monotonic()
    ended = await process.end(signal.SIGINT)
    assert ended.status == 0
    assert "Traceback" not in ended.errors
    assert time.monotonic() - began < 3


async def test_a_port_in_use_is_one_line(isthmus, tmp_path: Path) -> None:
    near = await isthmus()
    other = free_port()
    path = tmp_path / "isthmus.yaml"
    path.write_text(
        f"listeners: [{{bind: '127.0.0.1:{other}'}}, {{bind: '127.0.0.1:{near.port}'}}]\n"
    )
    ended = await isthmus_command("run", path)
    assert (ended.status, ended.out) == (1, b"")
    assert ended.errors == (
        f"isthmus: {path}:1: listeners[1].bind: 127.0.0.1:{near.port}: Address already in use; "
        "is another broker running there?\n"
    )


async def test_a_bad_configuration_starts_nothing(far, certificates, tmp_path: Path) -> None:
    port = free_port()
    path = tmp_path / "isthmus.yaml"
    path.write_text(
        f"""\
listeners: [{{bind: '127.0.0.1:{port}'}}]
broker: {{data: ./data}}
connectors:
  cloud:
    url: 127.0.0.1:{far.port}
    usrname: me
routes:
  out: {{from: local, topics: ["a/#/b"], to: clowd}}
"""
    )
    pem = certificates
    mixed = tmp_path / "mixed.yaml"
    mixed.write_text(
        f"""\
listeners: [{{bind: '127.0.0.1:{port}'}}]
broker: {{data: ./data}}
auth: {{password_file: users, acl_file: acl}}
connectors:
  cloud: {{url: mqtts://127.0.0.1, tls: {{certificate: {pem.client}, key: {pem.server}}}}}
"""
    )
    (tmp_path / "users").write_text("ann:CANARY-53\n")
    (tmp_path / "acl").write_text("topc readwrite a\n")
    bad, files, checked = await asyncio.gather(
        isthmus_command("run", path), isthmus_command("run", mixed), isthmus_command("check", mixed)
    )
    assert (bad.status, bad.out) == (2, b"")
    lines = bad.errors.splitlines()
    assert lines[0].startswith(f"isthmus: {path}:6: connectors.cloud.usrname: unknown key")
    assert "did you mean 'username'?" in lines[0]
    assert any(line.startswith(f"isthmus: {path}:8: routes.out.to: ") for line in lines)
    assert any(line.startswith(f"isthmus: {path}:8: routes.out.topics[0]: ") for line in lines)
    assert len(lines) == 3
    assert (files.status, checked.status) == (2, 2)
    # A start also warns of files that all may read.
    complaints = [line for line in files.errors.splitlines() if line.startswith("isthmus: ")]
    assert complaints == checked.errors.splitlines()
    problem = f"isthmus: {mixed}:5: connectors.cloud.tls.key: {pem.server} does not belong"
    assert problem in files.errors
    assert f"{tmp_path / 'users'}:1: " in files.errors
    assert f"{tmp_path / 'acl'}:1: " in files.errors
    assert "CANARY" not in files.errors
    assert not (tmp_path / "data").exists()
    assert far._accepted.empty()


async def test_secrets_are_never_printed(far, mosquitto, start, tmp_path: Path) -> None:
    canary = "CANARY-67"
    await command("mosquitto_passwd", "-c", "-b", str(tmp_path / "users"), "ann", canary)
    (tmp_path / "secret").write_text(canary)
    strict = await mosquitto("allow_anonymous false", f"password_file {tmp_path / 'users'}")
    path = tmp_path / "isthmus.yaml"
    path.write_text(
        f"""\
listeners: [{{bind: '127.0.0.1:0'}}]
auth: {{password_file: users}}
connectors:
  plain: {{url: "127.0.0.1:{strict.port}", username: bob, password: {canary}}}
  variable: {{url: "127.0.0.1:{strict.port}", username: bob, password: "${{env:SECRET}}"}}
  file: {{url: "127.0.0.1:{strict.port}", username: ann, password: "${{file:secret}}"}}
log: {{level: debug}}
http: null
"""
    )
    env = {"SECRET": canary, "ISTHMUS_PASSWORD": canary}
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        f"""\
auth: {{password_file: {canary}, allow_anonymous: {canary}}}
connectors:
  far: {{url: "mqtt://u:{canary}@x", password: [{canary}], keepalive: {canary}, {canary}: 1}}
  env: {{url: "${{env:SECRET}}@x", version: "${{env:SECRET}}"}}
routes: {{r: {{from: "${{env:SECRET}}", to: local, topics: ["${{env:SECRET}}/#/x"]}}}}
"""
    )
    process: Command = await start("run", path, env=env)
    ended = await asyncio.gather(
        isthmus_command("check", path, env=env),
        isthmus_command("check", broken, env=env),
        isthmus_command("test", "plain", path, env=env),
        isthmus_command("test", "file", path, env=env),
        isthmus_command("pub", "-p", str(strict.port), "-u", "bob", "a", "b", "-d", env=env),
        isthmus_command("schema", env=env),
    )
    assert [one.status for one in ended] == [0, 2, 1, 0, 1, 0]
    await process.said("refused")
    ended.append(await process.end(signal.SIGTERM))
    for one in ended:
        assert "Traceback" not in one.errors
        # A key is no secret: somebody typed it where everybody reads it.
        assert canary not in one.text + one.errors.replace(f".{canary}: unknown key", "")


async def test_the_commands_of_the_demonstration_work(start) -> None:
    """The text that `isthmus demo` prints, on other ports."""
    from isthmus.app.demo import demonstration
    from isthmus.app.process import App

    near, far, http = (f"127.0.0.1:{free_port()}" for _ in range(3))
    lines = [
        shlex.split(line, comments=True)
        for line in TEXT.format(near=near, far=far, http=http).splitlines()
        if line.startswith("  isthmus ")
    ]
    apps = [App(settings) for settings in demonstration(near, far, http)]
    for app in apps:
        await app.start()
    try:
        for listen, publish in ((lines[0], lines[1]), (lines[2], lines[3])):
            sub = await start(*listen[1:], "-d")
            await sub.said("subscribed to")
            done = await isthmus_command(*publish[1:])
            assert done.status == 0, done.errors
            topic, payload = publish[-2:]
            assert (await sub.line()).decode().split() in (
                [topic, payload],
                [f"site-7/{topic}", payload],
            )
    finally:
        for app in reversed(apps):
            await app.close()


async def test_the_status_of_the_demonstration(start, tmp_path: Path) -> None:
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}
    process: Command = await start("demo", env=env)
    assert process.process.stdout is not None
    async with asyncio.timeout(15):
        while b"Ctrl-C" not in await process.process.stdout.readline():
            pass
    ended = await isthmus_command("status", env=env)
    assert "node site-7" in ended.text, ended.errors
    ended = await isthmus_command("reload", env=env)
    assert "knows no such request" in ended.errors
