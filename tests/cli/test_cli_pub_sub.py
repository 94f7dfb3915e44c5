"""`isthmus pub` and `isthmus sub` against Mosquitto and against Isthmus."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import isthmus_command

from isthmus.auth.scram_file import create_scram_entry, create_secret
from isthmus.cli import listener
from isthmus.cli.main import main
from mosquitto import command, free_port
from raw import (
    CONNECT,
    DISCONNECT,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBSCRIBE,
    Raw,
    ack_packet,
    grant,
    packet,
    publish_packet,
    until,
)

ACL = "user ann\ntopic readwrite open/#\n"


async def test_a_message_goes_through_a_broker_and_back(isthmus, listening) -> None:
    near = await isthmus()
    sub = await listening(near.port, "-v", "sensor/#", "-C", "2")
    url = f"127.0.0.1:{near.port}"
    done = await isthmus_command("pub", "--url", url, "sensor/1/temperature", "37.5")
    assert (done.status, done.out, done.errors) == (0, b"", "")
    assert await sub.line() == b"sensor/1/temperature 37.5\n"
    done = await isthmus_command("pub", "-p", str(near.port), "-t", "sensor/2", "-m", "-5", "-q1")
    assert done.status == 0
    ended = await sub.end()
    assert (ended.status, ended.out) == (0, b"sensor/2 -5\n")


@pytest.mark.parametrize(
    ("version", "spoken", "qos"), [("5", "p5", "2"), ("mqttv311", "p2", "1"), ("3.1", "p1", "0")]
)
async def test_versions_and_qos_with_mosquitto(
    mosquitto, listening, version: str, spoken: str, qos: str
) -> None:
    far = await mosquitto()
    how = ("-V", version, "-q", qos, "-t", "a/b")
    sub = await listening(far.port, *how, "-C", "1")
    done = await isthmus_command("pub", "-p", str(far.port), *how, "text")
    assert (done.status, done.errors) == (0, "")
    assert (await sub.end())[:2] == (0, b"text\n")
    assert f"{spoken}, c1" in far.log.read_text()
    assert "Sending PUBLISH to isthmus-sub" in far.log.read_text()
    assert f"q{qos}, r0" in far.log.read_text()


async def test_bytes_are_not_touched(mosquitto, listening, tmp_path: Path) -> None:
    far = await mosquitto()
    everything = bytes(range(256)) * 8192  # 2 MiB: more than a socket buffer and many reads
    (tmp_path / "blob").write_bytes(everything)
    sub = await listening(far.port, "-N", "-C", "2", "raw")
    raw = b"\xff\xfe not UTF-8"
    for arguments in ((b"raw", raw), (b"-t", b"raw", b"-f", bytes(tmp_path / "blob"))):
        done = await isthmus_command("pub", "-p", str(far.port), *arguments)
        assert done.status == 0, done.errors
    assert (await sub.end()).out == raw + everything


async def test_a_retained_message_is_found_and_cleared(mosquitto) -> None:
    far = await mosquitto()
    port = str(far.port)
    assert (await isthmus_command("pub", "-p", port, "state", "on", "-r", "-q", "1")).status == 0
    found = await isthmus_command("sub", "-p", port, "-v", "-t", "state", "-C", "1")
    assert (found.status, found.out) == (0, b"state on\n")
    assert (await isthmus_command("pub", "-p", port, "-t", "state", "-n", "-r")).status == 0
    found = await isthmus_command("sub", "-p", port, "state", "-C", "1", "-W", "0.5")
    assert (found.status, found.out) == (27, b"")  # as mosquitto_sub
    assert found.errors == "isthmus: 0 message(s) within 0.5 s\n"


async def test_lines_of_stdin_are_messages_in_order(mosquitto, listening) -> None:
    far = await mosquitto()
    lines = [b"line %d" % number for number in range(3000)]
    sub = await listening(far.port, "-q", "1", "log", "-C", "3000")
    printed = asyncio.ensure_future(sub.end())
    stdin = b"\n\n".join(lines)
    done = await isthmus_command("pub", "-p", str(far.port), "-t", "log", "-l", "-q1", stdin=stdin)
    assert (done.status, done.errors) == (0, "")
    assert (await printed).out.split(b"\n") == [*lines, b""]


async def test_each_line_is_published_and_printed_at_once(mosquitto, start, listening) -> None:
    far = await mosquitto()
    sub = await listening(far.port, "log")
    pub = await start("pub", "-p", str(far.port), "log", "-l")
    for line in (b"first\n", b"second\n"):
        pub.send(line)
        assert await sub.line() == line
    interrupted = await pub.end(signal.SIGINT)
    assert (interrupted.status, interrupted.errors) == (130, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_listening_command_is_stopped_quietly(mosquitto, start, number) -> None:
    far = await mosquitto()
    sub = await start("sub", "-p", str(far.port), "a", "-q", "1")
    await until(lambda: "Sending SUBACK" in far.log.read_text())
    ended = await sub.end(number)
    assert (ended.status, ended.out, ended.errors) == (0, b"", "")
    await until(lambda: "disconnected" in far.log.read_text())


async def test_a_reader_that_goes_away_ends_it(isthmus, listening) -> None:
    near = await isthmus()
    sub = await listening(near.port, "a")
    sub.process.stdout._transport.close()
    publisher = await Raw.client(near.port)
    # More than once: a process that is being forked may hold the reading end for a moment.
    while sub.process.returncode is None:
        publisher.publish("a", "x")
        await asyncio.sleep(0.02)
    assert sub.process.returncode == 1
    assert "Traceback" not in (await sub.process.stderr.read()).decode()


async def test_without_a_server_it_says_so(tmp_path: Path) -> None:
    port = str(free_port())
    pub, sub = await asyncio.gather(
        isthmus_command("pub", "-p", port, "a", "b"), isthmus_command("sub", "-p", port, "a")
    )
    for ended in (pub, sub):
        assert (ended.status, ended.out) == (1, b"")
        assert "cannot connect: TCP: " in ended.errors
        assert "Connection refused" in ended.errors
        assert "is the service running" in ended.errors


async def test_refusals_are_errors(mosquitto, tmp_path: Path) -> None:
    (tmp_path / "acl").write_text(ACL)
    (tmp_path / "users").write_text("")
    await command("mosquitto_passwd", "-b", str(tmp_path / "users"), "ann", "secret")
    far = await mosquitto(
        f"acl_file {tmp_path / 'acl'}",
        f"password_file {tmp_path / 'users'}",
        "allow_anonymous false",
    )
    (tmp_path / "pw").write_text("secret\n")
    ann = ["-p", str(far.port), "-u", "ann", "--password-file", tmp_path / "pw"]
    wrong = ["-p", str(far.port), "-u", "ann", "-P", "CANARY-29"]
    good, by_variable, bad, bad_3, denied = await asyncio.gather(
        isthmus_command("pub", *ann, "open/1", "x", "-q", "1"),
        isthmus_command("pub", *ann[:-2], "open/1", "x", env={"ISTHMUS_PASSWORD": "secret"}),
        isthmus_command("pub", *wrong, "open/1", "x"),
        isthmus_command("sub", *wrong, "-V", "311", "open/1"),
        isthmus_command("pub", *ann, "closed/1", "x", "-q", "1"),
    )
    assert (good.status, good.errors) == (0, "")
    assert by_variable.status == 0
    for ended, text in ((bad, "0x87 not authorized"), (bad_3, "5 not authorized")):
        assert ended.status == 1
        assert f"cannot connect: CONNACK: {text}\n  try: check -u and -P" in ended.errors
        assert "CANARY" not in ended.errors
    assert denied.status == 1
    assert "not delivered: refused by the broker: 0x87 not authorized" in denied.errors


async def test_a_broker_that_asks_for_auth(far) -> None:
    login = ("-D", "connect", "authentication-method", "TEST")
    ending = asyncio.ensure_future(isthmus_command("pub", "-p", str(far.port), *login, "a", "b"))
    peer = await far.accept()
    await peer.expect(CONNECT)
    peer.send(b"\xf0\x09\x18\x07\x15\x00\x04TEST")
    ended = await ending
    assert ended.status == 1
    assert "CONNACK: the broker asks for AUTH, which this command cannot do\n" in ended.errors
    assert "try: log in with -u and -P or with a client certificate" in ended.errors
    assert "TLS" not in ended.errors


async def test_who_takes_only_scram_is_not_served(isthmus, tmp_path: Path) -> None:
    lines = create_secret(), create_scram_entry("ann", "secret", iterations=4096)
    (tmp_path / "scram").write_text("\n".join(lines) + "\n")
    near = await isthmus({"auth": {"scram": str(tmp_path / "scram")}})
    ended = await isthmus_command(
        "pub", "-p", str(near.port), "-u", "ann", "-P", "secret", "a", "b"
    )
    assert ended.status == 1
    assert "only logins by AUTH, such as SCRAM, cannot be used from here" in ended.errors


async def test_refused_subscriptions_are_shown_and_end_it(far, start) -> None:
    sub = await start("sub", "-p", str(far.port), "a/#", "b", "-C", "1")
    peer, _ = await far.client()
    assert await grant(peer, 0x87, 0x8F) == [("a/#", 0), ("b", 0)]
    ended = await sub.end()
    assert ended.status == 1
    assert "refused to subscribe a/#: 0x87 not authorized" in ended.errors
    assert "refused to subscribe b: 0x8F " in ended.errors


async def test_what_was_granted_is_still_printed(far, start) -> None:
    sub = await start("sub", "-p", str(far.port), "a/#", "b", "-C", "1")
    peer, _ = await far.client()
    await grant(peer, 0x87, 0)
    await sub.said("refused to subscribe a/#")
    peer.send(publish_packet("b", "here"))
    assert (await sub.end())[:2] == (0, b"here\n")


@pytest.mark.parametrize("qos", [1, 2])
async def test_pub_ends_only_after_the_acknowledgement(far, start, qos: int) -> None:
    pub = await start("pub", "-p", str(far.port), "a", "b", "-q", str(qos), "-i", "me", "-k", "7")
    peer, hello = await far.client()
    assert (hello.client_id, hello.clean, hello.keep_alive) == ("me", True, 7)
    assert "session_expiry" not in hello.properties
    message = await peer.expect(PUBLISH)
    assert (message.qos, message.topic, message.payload) == (qos, "a", b"b")
    await asyncio.sleep(0.3)
    assert pub.process.returncode is None
    if qos == 1:
        peer.send(ack_packet(PUBACK, message.packet_id))
    else:
        peer.send(ack_packet(PUBREC, message.packet_id))
        await peer.expect(PUBREL)
        peer.send(ack_packet(PUBCOMP, message.packet_id))
    await peer.expect(DISCONNECT)
    assert (await pub.end())[::2] == (0, "")


async def test_pub_fails_without_the_acknowledgement(far, start) -> None:
    arguments = ("pub", "-p", str(far.port), "a", "b", "-q", "1")
    silent = await start(*arguments, "-W", "0.3")
    peer, _ = await far.client()
    await peer.expect(PUBLISH)
    ended = await silent.end()
    assert ended.status == 27
    assert ended.errors == ("isthmus: no progress for 0.3 s; 1 message(s) were not acknowledged\n")
    cut = await start(*arguments)
    peer, _ = await far.client()
    await peer.expect(PUBLISH)
    peer.close()
    ended = await cut.end()
    assert ended.status == 1
    assert "the connection was lost: closed by the peer; 1 message(s)" in ended.errors


@pytest.mark.parametrize(("qos", "answer"), [("1", PUBACK), ("2", PUBREC)])
async def test_a_quota_is_said_to_be_that_of_the_broker(far, start, qos: str, answer: int) -> None:
    pub = await start("pub", "-p", str(far.port), "a", "x", "-q", qos)
    peer, _ = await far.client()
    message = await peer.expect(PUBLISH)
    peer.send(ack_packet(answer, message.packet_id, 0x97))
    ended = await pub.end()
    assert (ended.status, ended.errors) == (
        1,
        "isthmus: the message was not delivered: refused by the broker: 0x97 a quota is used up\n",
    )


async def test_pub_does_not_promise_what_the_broker_cannot_do(far, start) -> None:
    pub = await start("pub", "-p", str(far.port), "a", "b", "-q", "2")
    await far.client(maximum_qos=1)
    ended = await pub.end()
    assert (ended.status, ended.errors) == (
        1,
        "isthmus: the broker takes messages with QoS 1 at most\n",
    )
    pub = await start("pub", "-p", str(far.port), "a", "x" * 200)
    await far.client(maximum_packet=100)
    ended = await pub.end()
    assert ended.status == 1
    assert "not delivered: larger than the broker takes" in ended.errors


async def test_sub_connects_again(far, start) -> None:
    sub = await start("sub", "-p", str(far.port), "a", "-C", "1")
    peer, _ = await far.client()
    await grant(peer)
    peer.close()
    await sub.said("the connection was lost: closed by the peer; connecting again")
    peer, _ = await far.client()
    await grant(peer)
    await sub.said("connected again")
    peer.send(publish_packet("a", "b"))
    assert (await sub.end())[:2] == (0, b"b\n")


@pytest.mark.parametrize("code", [0x86, 0x87, 0x8A, 0x85])
async def test_sub_ends_when_it_is_refused_for_good(far, start, code: int) -> None:
    sub = await start("sub", "-p", str(far.port), "a")
    peer, _ = await far.client()
    await grant(peer)
    peer.close()
    await far.client(code=code)
    ended = await sub.end()
    assert ended.status == 1
    assert f"cannot connect: CONNACK: 0x{code:02X}" in ended.errors
    assert "  try: " in ended.errors


async def test_sub_ends_when_its_subscribe_is_answered_with_a_quota(far, start) -> None:
    sub = await start("sub", "-p", str(far.port), "a")
    peer, _ = await far.client()
    await peer.expect(SUBSCRIBE)
    peer.send(packet(0xE0, b"\x97\x00"))
    ended = await sub.end()
    assert (ended.status, ended.errors) == (
        1,
        "isthmus: cannot subscribe: the broker disconnected: 0x97 a quota is used up\n",
    )


async def test_sub_waits_longer_while_no_connection_lasts(monkeypatch) -> None:
    now, connections, pauses = 0.0, 0, []

    class Gone:
        def __init__(self) -> None:
            self.ended = self.opened = asyncio.get_running_loop().create_future()
            self.ended.set_result(SimpleNamespace(session_present=False))

        def disconnect(self, *_: object) -> None:
            """There is nothing left to close."""

    class Broker:
        async def open(self) -> Gone:
            return Gone()

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        pauses.append(seconds)

    async def lost(_: object) -> int | None:
        nonlocal connections, now
        connections += 1
        if connections == 200:
            now += listener.STEADY_S
        return 0 if connections == 201 else None

    monkeypatch.setattr("isthmus.net.backoff.random.uniform", lambda low, high: high)
    monkeypatch.setattr(listener.clock, "monotonic", lambda: now)
    monkeypatch.setattr("asyncio.sleep", sleep)
    monkeypatch.setattr(listener, "complain", lambda text: None)
    monkeypatch.setattr(listener, "escape", str)
    greeting = SimpleNamespace(goodbye={}, goodbye_code=0)
    found = listener.Listener(greeting, None, SimpleNamespace(done=asyncio.Future()))
    monkeypatch.setattr(found, "_listen", lost)
    monkeypatch.setattr(listener, "opened", lambda dialer, _: dialer.open())
    assert await found.run(Broker()) == 0
    assert (pauses[0], pauses[198], pauses[199]) == (0.5, 30.0, 0.5)


async def test_sub_says_why_it_is_not_connected_yet(far, start) -> None:
    sub = await start("sub", "-p", str(far.port), "a", "-C", "1")
    peer, _ = await far.client()
    await grant(peer)
    peer.close()
    await far.client(code=0x88)
    await sub.said("cannot connect yet: CONNACK: 0x88")
    await far.client(code=0x88)
    await far.client(code=0x89)
    await sub.said("cannot connect yet: CONNACK: 0x89")
    assert sub.errors.count("0x88") == 1
    peer, _ = await far.client()
    await grant(peer)
    await sub.said("connected again")
    peer.send(publish_packet("a", "b"))
    assert (await sub.end())[:2] == (0, b"b\n")


async def test_it_falls_back_to_an_older_version(far, start) -> None:
    sub = await start("sub", "-p", str(far.port), "a", "-C", "1")
    await far.client(code=0x84)
    peer, hello = await far.client()
    assert (hello.version, hello.bridge) == (4, False)
    await grant(peer)
    peer.send(publish_packet("a", "b", version=4))
    assert (await sub.end())[:2] == (0, b"b\n")


async def test_shared_subscriptions_mqtt_3_8_3_4(mosquitto, listening) -> None:
    far = await mosquitto()
    sub = await listening(far.port, "-v", "$share/group/a/+", "-C", "1")
    await isthmus_command("pub", "-p", str(far.port), "a/b", "x")
    assert (await sub.end())[:2] == (0, b"a/b x\n")


async def test_tls(mosquitto, certificates) -> None:
    far = await mosquitto(
        f"cafile {certificates.ca}",
        f"certfile {certificates.server}",
        f"keyfile {certificates.server}",
        "require_certificate true",
    )
    trusted = ("--cafile", certificates.ca, "--cert", certificates.client)
    port = str(far.port)
    good, by_url, stranger, nameless = await asyncio.gather(
        isthmus_command("pub", "-p", port, *trusted, "a", "b", "-q", "1"),
        isthmus_command("pub", "--url", f"mqtts://localhost:{port}", *trusted, "a", "b", "-q1"),
        isthmus_command("pub", "-p", port, "--tls", "a", "b"),
        isthmus_command("pub", "-p", port, "--cafile", certificates.ca, "a", "b"),
    )
    assert (good.status, good.errors) == (0, "")
    assert (by_url.status, by_url.errors) == (0, "")
    assert stranger.status == nameless.status == 1
    assert "TLS: " in stranger.errors
    assert "authority" in stranger.errors
    assert "set --cafile" in stranger.errors
    assert "TLS: the peer requires a certificate\n  try: set --cert" in nameless.errors


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("pub",), "TOPIC"),
        (("pub", "a"), "say once what to publish"),
        (("pub", "a", "b", "-m", "c"), "say once what to publish"),
        (("pub", "a/#", "b"), "wildcard"),
        (("pub", "a", "b", "-q", "3"), "-q"),
        (("pub", "-t", "a", "-f", "/nowhere/at/all"), "No such file"),
        (("pub", "a", "b", "--url", "x", "-h", "y"), "--url"),
        (("pub", "a", "b", "--url", "mqtt://u:CANARY-81@x"), "-u and -P"),
        (("pub", "a", "b", "--url", "ws://x/a b"), "the path must not hold spaces"),
        (("pub", "a", "b", "--url", "wsx://x"), "use mqtt://, mqtts://, ws://, wss:// or unix:"),
        (("pub", "a", "b", "--url", "x", "--unix", "/y"), "--unix"),
        (("pub", "a", "b", "--proxy", "http://u:CANARY-81@x:99999"), "--proxy"),
        (("pub", "a", "b", "-P", "CANARY-81", "--ask-password"), "give the password once"),
        (("pub", "a", "b", "--tls-version", "1.1"), "1.2 or 1.3"),
        (("pub", "a", "-l", "--repeat", "2"), "--repeat"),
        (("pub", "a", "b", "--rate", "fast"), "such as 100/s"),
        (("pub", "a", "b", "--rate", "0"), "more than 0"),
        (("pub", "a", "b", "--rate", "1", "--repeat-delay", "1"), "--repeat-delay"),
        (("pub", "a", "b", "-c"), "needs -i"),
        (("pub", "a", "b", "-x", "soon"), "a duration"),
        (("pub", "a", "b", "--message-expiry", "60", "-V", "311"), "use -V 5"),
        (("pub", "a", "b", "--will-qos", "1"), "--will-topic"),
        (("pub", "a", "b", "--will-topic", "w/#"), "wildcard"),
        (("pub", "a", "b", "--response-topic", "w/#"), "--response-topic"),
        (("pub", "a", "b", "--user-property", "novalue"), "KEY=VALUE"),
        (("pub", "a", "b", "--payload-format", "json"), "bytes or utf8"),
        (("pub", "a", "b", "-D", "publish", "topic-alias", "0"), "Topic Alias is 0"),
        (("pub", "a", "b", "-D", "publish", "topic-alis", "1"), "did you mean 'topic-alias'"),
        (("pub", "a", "b", "-D", "publish", "receive-maximum", "1"), "not"),
        (("pub", "a", "b", "-D", "subscribe", "user-property", "a", "b"), "followed by connect"),
        (("pub", "a", "b", "-D", "publish", "user-property", "a"), "KEY and a VALUE"),
        (("pub", "a", "b", "-D", "connect", "receive-maximum", "x"), "whole number"),
        (("pub", "a", "b", "--content-type", "x", "-D", "publish", "content-type", "y"), "twice"),
        (("pub", "a", "b", "-V", "6"), "5, 3.1.1 or 3.1"),
        (("pub", "a", "b", "-V", "3.1.1", "-P", "CANARY-81"), "-u"),
        (("pub", "a", "b", "--cafile", "/nowhere/at/all"), "does not exist"),
        (("pub", "a", "b", "--url", "mqtt://x", "--tls"), "mqtts://"),
        (("sub",), "FILTER"),
        (("sub", "a/#/b"), "whole level"),
        (("sub", "a", "-k", "soon"), "-k"),
        (("sub", "a", "-v", "--json"), "choose one"),
        (("sub", "a", "-F", "%z"), "there is no '%z'"),
        (("sub", "a", "-F", "50%"), "cut off"),
        (("sub", "a", "-R", "--retained-only"), "-R"),
        (("sub", "$share/g/a", "--no-local"), "MQTT-3.8.3-4"),
        (("sub", "a", "--retain-handling", "maybe"), "always, new or never"),
        (("sub", "a", "--retain-as-published", "-V", "3.1.1"), "use -V 5"),
        (("request",), "TOPIC"),
        (("request", "a"), "say once what to send"),
        (("request", "a", "b", "-e", "c/#"), "wildcard"),
        (("request", "a", "b", "-V", "311"), "-e TOPIC"),
        (("nonsense",), "nonsense"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], text: str, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["isthmus", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert "CANARY" not in captured.err + captured.out
    assert "Traceback" not in captured.err
