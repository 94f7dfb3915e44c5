"""`isthmus test` against real and scripted far sides."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from commands import isthmus_command

from isthmus.cli.main import main
from mosquitto import command, free_port
from raw import within

CLOUD = "connectors: {cloud: {url: '127.0.0.1:%d', %s}}"


async def test_an_available_connector(mosquitto, tmp_path: Path) -> None:
    far = await mosquitto()
    (tmp_path / "isthmus.yaml").write_text(
        CLOUD % (far.port, "client_id_prefix: site, pool: 3, session_expiry: 7d")
        + "\nbroker: {data: data}\n"
    )
    (tmp_path / "other.yaml").write_text(CLOUD % (far.port, "client_id: edge-7, version: 3.1.1"))
    default, named, by_url = await asyncio.gather(
        isthmus_command("test", "cloud", cwd=tmp_path),
        isthmus_command("test", "cloud", "--config", tmp_path / "other.yaml"),
        isthmus_command("test", f"mqtt://127.0.0.1:{far.port}", "-i", "me"),
    )
    for ended in (default, named, by_url):
        assert ended.status == 0, ended.errors
        assert ended.text.splitlines()[0] == "connector available"
        assert ended.errors == ""
    log = far.log.read_text()
    # Own ids, one connection, clean; nothing was subscribed or published; nothing stays.
    assert "as site:cloud" in log
    assert ":0 (p5, c1, k60)" in log
    assert "as edge-7-test (p2, c1, k60)" in log
    assert "as me (p5, c1, k60)" in log
    assert log.count("Sending CONNACK") == 3
    assert "SUBSCRIBE" not in log
    assert "PUBLISH" not in log
    assert not (tmp_path / "data").exists()


async def test_a_session_at_the_far_side_is_not_touched(far, start, tmp_path: Path) -> None:
    path = tmp_path / "isthmus.yaml"
    path.write_text(CLOUD % (far.port, "client_id: edge-7, session_expiry: 7d"))
    running = await start("test", "cloud", path)
    _, hello = await far.client()
    assert (hello.client_id, hello.clean) == ("edge-7-test", True)
    assert "session_expiry" not in hello.properties
    assert (await running.end()).status == 0


async def test_each_step_that_can_fail(mosquitto, certificates, far, tmp_path: Path) -> None:
    await command("mosquitto_passwd", "-c", "-b", str(tmp_path / "users"), "ann", "secret")
    users = f"password_file {tmp_path / 'users'}"
    plain = await mosquitto(users, "allow_anonymous false")
    pem = certificates
    secure = await mosquitto(f"certfile {pem.elsewhere}", f"keyfile {pem.elsewhere}")

    async def closes() -> None:
        for _ in range(3):  # MQTT 5, 3.1.1 with and without bridge bit
            (await far.accept()).close()

    (tmp_path / "isthmus.yaml").write_text(
        f"""
connectors:
  refused: {{url: "127.0.0.1:{plain.port}", username: ann, password: CANARY-41, client_id: me}}
  closes: {{url: "127.0.0.1:{far.port}"}}
"""
    )
    closing = asyncio.ensure_future(closes())
    name, tcp, no_tls, misnamed, refused, closed = await asyncio.gather(
        isthmus_command("test", "nowhere.invalid:1883"),
        isthmus_command("test", f"127.0.0.1:{free_port()}"),
        isthmus_command("test", f"mqtts://127.0.0.1:{plain.port}"),
        isthmus_command("test", f"mqtts://127.0.0.1:{secure.port}", "--cafile", pem.ca),
        isthmus_command("test", "refused", cwd=tmp_path),
        isthmus_command("test", "closes", cwd=tmp_path),
    )
    await within(closing)
    expected = {
        name: ("name look-up", "nowhere.invalid: ", "does DNS work here"),
        tcp: ("TCP", "Connection refused", "is the service running"),
        no_tls: ("TLS", "", "is it the port"),
        misnamed: ("TLS", "certificate is for another", "--server-name"),
        refused: ("CONNACK", "not authorized", "'username' and 'password'"),
        closed: ("CONNACK", "closed before CONNACK", "is it a port for MQTT without TLS"),
    }
    for ended, (step, why, what) in expected.items():
        assert (ended.status, ended.out) == (1, b"")
        lines = ended.errors.splitlines()
        assert lines[0].endswith(" failed")
        assert lines[1] == f"  step:  {step}"
        assert lines[2].startswith("  cause: ")
        assert why in lines[2]
        assert lines[3].startswith("  try:   ")
        assert what in lines[3]
        assert len(lines) == 4
        assert "CANARY" not in ended.errors
    assert "may let only 'me' in" in refused.errors


async def test_a_silent_far_side(far, start, tmp_path: Path) -> None:
    path = tmp_path / "isthmus.yaml"
    path.write_text(CLOUD % (far.port, "connect_timeout: 300ms"))
    ended = await (await start("test", "cloud", path)).end()
    assert ended.status == 1
    assert "  step:  time-out\n  cause: no CONNACK within 0.3 s\n" in ended.errors


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("test",), "name a connector or a URL"),
        (("test", "cloud"), "there is no isthmus.yaml here"),
        (("test", "clowd", "here.yaml"), "has no connector 'clowd', there are cloud; did you mean"),
        (("test", "here.yaml", "cloud"), "comes before the file"),
        (("test", "cloud", "here.yaml", "-u", "me"), "go with a URL"),
        (("test", "mqtt://x", "here.yaml"), "no meaning together with a URL"),
        (("test", "cloud", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
    ],
)
def test_wrong_usage(
    arguments: tuple[str, ...], text: str, capsys, monkeypatch, tmp_path: Path
) -> None:
    (tmp_path / "here.yaml").write_text(CLOUD % (1, "pool: 1"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["isthmus", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert text in capsys.readouterr().err


async def test_each_static_client_id_is_tried_with_its_own_login(mosquitto, tmp_path: Path) -> None:
    users = tmp_path / "users"
    await command("mosquitto_passwd", "-c", "-b", str(users), "ann", "secret")
    await command("mosquitto_passwd", "-b", str(users), "bob", "other")
    far = await mosquitto(f"password_file {users}", "allow_anonymous false")
    text = """
node: one
connectors:
  cloud:
    url: "127.0.0.1:%d"
    static_client_ids:
      one:
        - {client_id: a, username: ann, password: secret}
        - {client_id: b, username: bob, password: %s}
      two: [c]
"""
    for name, password in (("good", "other"), ("bad", "CANARY-52")):
        (tmp_path / f"{name}.yaml").write_text(text % (far.port, password))
    none = text % (far.port, "other")
    (tmp_path / "none.yaml").write_text(none.replace("node: one", "node: three"))
    good, bad, nobody = await asyncio.gather(
        isthmus_command("test", "cloud", tmp_path / "good.yaml"),
        isthmus_command("test", "cloud", tmp_path / "bad.yaml"),
        isthmus_command("test", "cloud", tmp_path / "none.yaml"),
    )
    assert (good.status, good.errors) == (0, "")
    assert good.text.splitlines()[0] == "connector available"
    assert "client id a-test" in good.text
    assert "client id b-test" in good.text
    assert bad.status == 1
    assert bad.text.splitlines()[0] == "connector available in 1 of 2 tries"
    assert "isthmus: cloud with the login of b failed\n  step:  CONNACK" in bad.errors
    assert "CANARY" not in bad.errors
    assert (nobody.status, nobody.out) == (1, b"")
    assert "has no client id for node 'three'" in nobody.errors
    log = far.log.read_text()
    assert "as a-test (p5, c1, k60, u'ann')" in log
    assert "as b-test (p5, c1, k60, u'bob')" in log
