"""How fast passwords can be guessed, and who is let in all the same."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from scram_client import final

from isthmus.app.settings import Settings
from isthmus.auth.guesses import Guesses
from isthmus.auth.login import Login
from isthmus.auth.passwords import create_entry
from isthmus.auth.scram_file import create_scram_entry, create_secret
from isthmus.errors import MQTTError
from isthmus.net.gate import REMEMBERED
from raw import AUTH, CONNACK, Raw, auth_packet, connect_packet

HERE, ELSEWHERE = "127.0.0.1", "127.0.0.9"

WRONG, TOO_MANY = 0x86, 0x97


class Service:
    """A web service that knows anna and bert, whose password is `pw`."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                good = question["password"] == "pw"
                body = json.dumps({"result": "allow" if good else "deny"}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"


@pytest.fixture
def auth(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The source of users that the parameter names."""
    kind = request.param
    if kind == "http":
        service = Service()
        yield {"http": {"url": service.url}}
        service.server.shutdown()
        service.server.server_close()
        return
    path = tmp_path / "users"
    if kind == "scram":
        lines = [create_secret()]
        lines += [create_scram_entry(user, "pw", iterations=4096) for user in ("anna", "bert")]
    else:
        count = 60_000 if kind == "slow" else 2
        lines = [create_entry(user, b"pw", iterations=count) for user in ("anna", "bert")]
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    yield {"scram" if kind == "scram" else "password_file": str(path)}


PASSWORDS = pytest.mark.parametrize("auth", ["fast", "slow", "http"], indirect=True)
EVERY = pytest.mark.parametrize("auth", ["fast", "slow", "http", "scram"], indirect=True)


def limited(auth: dict[str, Any], **limits: object) -> dict[str, object]:
    return {"auth": auth, "broker": {"limits": limits, "sys_interval": 0}}


async def code(
    near: Any, password: str, user: str = "anna", host: str = HERE, version: int = 5
) -> int:
    """What a login from `host` is answered."""
    raw = await Raw.open(near.port, local_addr=(host, 0))
    if "scram" in (near.app.settings.auth.model_fields_set):
        first = f"n,,n={user},r=clientnonce"
        raw.send(connect_packet("", auth_method="SCRAM-SHA-256", auth_data=first))
        challenge = (await raw.expect(AUTH)).properties["auth_data"].decode()
        proof = final(first, challenge, password).encode()
        raw.send(auth_packet(0x18, "SCRAM-SHA-256", proof))
    else:
        raw.send(connect_packet("", version, username=user, password=password))
    answer = (await raw.expect(CONNACK)).code
    raw.close()
    return WRONG if answer == 0x87 else answer


# -- what a guesser gets -------------------------------------------------------------------------


@EVERY
async def test_after_a_burst_wrong_passwords_of_an_address_are_not_looked_at(
    isthmus: Any, auth: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "isthmus.broker.clients.faults")
    near = await isthmus(limited(auth, failed_login_rate="1/m"))
    assert await code(near, "guess") == WRONG
    codes = [await code(near, f"guess {number}") for number in range(30)]
    assert set(codes) == {TOO_MANY}
    # Nor is a right one: else the answer would tell.
    assert await code(near, "pw") == TOO_MANY
    assert await code(near, "pw", host=ELSEWHERE) == 0
    broker = near.app.broker
    assert broker.limits_met.counts == {"failed_login_rate": 31}
    assert broker.refusals[0x97] == 31
    (line,) = [line for line in caplog.messages if "failed_login_rate" in line]
    assert "closed: too many wrong logins" in line


@PASSWORDS
async def test_guesses_that_come_together_are_not_more(isthmus: Any, auth: dict[str, Any]) -> None:
    near = await isthmus(limited(auth, failed_login_rate="1/m"))
    codes = await asyncio.gather(*(code(near, f"guess {number}") for number in range(100)))
    assert set(codes) == {WRONG, TOO_MANY}
    assert codes.count(WRONG) <= 16  # 8 in the service, and 8 that had their turn behind them
    assert await code(near, "pw") == TOO_MANY


@EVERY
async def test_guesses_at_one_user_from_many_addresses(isthmus: Any, auth: dict[str, Any]) -> None:
    near = await isthmus(limited(auth, failed_login_rate_per_user="1/m"))
    assert await code(near, "pw", host=ELSEWHERE) == 0
    codes = [await code(near, f"guess {n}", host=f"127.0.1.{n + 1}") for n in range(10)]
    assert codes == [WRONG] + [TOO_MANY] * 9
    assert near.app.broker.limits_met.counts == {"failed_login_rate_per_user": 9}
    # The user itself is let in where it has been, and others everywhere.
    assert await code(near, "pw", host=ELSEWHERE) == 0
    assert await code(near, "pw", "bert", host="127.0.1.1") == 0


@pytest.mark.parametrize("auth", ["fast"], indirect=True)
async def test_mqtt_3_clients_are_told_that_the_server_is_unavailable(
    isthmus: Any, auth: dict[str, Any]
) -> None:
    near = await isthmus(limited(auth, failed_login_rate="1/m"))
    codes = [await code(near, f"guess {number}", version=4) for number in range(3)]
    assert codes == [4, 3, 3]


@pytest.mark.parametrize("auth", ["fast"], indirect=True)
async def test_the_rate_goes_on(isthmus: Any, auth: dict[str, Any]) -> None:
    near = await isthmus(limited(auth, failed_login_rate="4/s"))
    codes = [await code(near, f"guess {number}") for number in range(60)]
    assert TOO_MANY in codes
    await asyncio.sleep(0.6)
    assert await code(near, "pw") == 0


# -- who is let in all the same ------------------------------------------------------------------


@EVERY
async def test_who_was_let_in_from_an_address_does_not_suffer_from_it(
    isthmus: Any, auth: dict[str, Any]
) -> None:
    """One device of a site has a wrong password, and tries for ever."""
    near = await isthmus(limited(auth, failed_login_rate="1/m"))
    assert await code(near, "pw", "bert") == 0
    for number in range(5):
        await code(near, f"guess {number}", "nobody")
    assert await code(near, "guess", "nobody") == TOO_MANY
    for door in near.app.doors.values():
        for source in door.authenticator._sources.chain:
            source.checks._kept.clear()  # no password is remembered so long
    assert await code(near, "pw", "bert") == 0
    # But whoever guesses at it from there is held to the rate.
    assert await code(near, "guess 1", "bert") == WRONG
    assert await code(near, "guess 2", "bert") == TOO_MANY


@PASSWORDS
async def test_the_same_wrong_password_again_is_no_guess(
    isthmus: Any, auth: dict[str, Any]
) -> None:
    """Devices with a wrong password cost their address one try each, however often they come."""
    near = await isthmus(limited(auth, failed_login_rate="4/s"))
    for _ in range(10):
        codes = [await code(near, "old", f"device {number}") for number in range(8)]
        assert codes == [WRONG] * 8
    assert near.app.broker.limits_met.counts == {}
    assert await code(near, "pw") == 0


@pytest.mark.parametrize("auth", ["slow"], indirect=True)
async def test_good_clients_that_come_together_are_all_let_in(
    isthmus: Any, auth: dict[str, Any]
) -> None:
    near = await isthmus(limited(auth, failed_login_rate="1/m", failed_login_rate_per_user="1/m"))
    names = ["anna", "bert"] * 20
    assert await asyncio.gather(*(code(near, "pw", name) for name in names)) == [0] * 40


@pytest.mark.parametrize("auth", ["fast"], indirect=True)
async def test_logins_that_try_no_password_do_not_count(isthmus: Any, auth: dict[str, Any]) -> None:
    near = await isthmus(limited(auth, failed_login_rate="1/m"))
    for how in ({}, {"username": "anna"}, {"username": "anna", "password": ""}):
        for _ in range(3):
            raw = await Raw.open(near.port)
            raw.send(connect_packet("", **how))
            assert (await raw.expect(CONNACK)).code in (0x86, 0x87)
    assert await code(near, "pw") == 0


# -- settings ------------------------------------------------------------------------------------


def test_the_defaults() -> None:
    limits = Settings().broker.limits
    assert limits.failed_login_rate == 2
    assert limits.failed_login_rate_per_user == 10


@pytest.mark.parametrize("auth", ["fast"], indirect=True)
async def test_with_the_defaults_a_flood_gets_a_burst(isthmus: Any, auth: dict[str, Any]) -> None:
    near = await isthmus(limited(auth))
    codes = [await code(near, f"guess {number}") for number in range(200)]
    assert codes[:20] == [WRONG] * 20
    assert codes.count(WRONG) < 150  # 20, and 2 for each second that this has taken


@pytest.mark.parametrize("auth", ["fast"], indirect=True)
async def test_a_reload_changes_the_rates(isthmus: Any, auth: dict[str, Any]) -> None:
    near = await isthmus(limited(auth, failed_login_rate="1/m"))
    assert [await code(near, f"a {number}") for number in range(2)] == [WRONG, TOO_MANY]
    await near.reload(limited(auth, failed_login_rate=None, failed_login_rate_per_user=None))
    assert [await code(near, f"b {number}") for number in range(30)] == [WRONG] * 30
    await near.reload(limited(auth, failed_login_rate_per_user="1/m"))
    assert [await code(near, f"c {number}") for number in range(2)] == [WRONG, TOO_MANY]
    # What has not changed goes on.
    await near.reload({**limited(auth, failed_login_rate_per_user="1/m"), "node": "other"})
    assert await code(near, "d") == TOO_MANY


def test_memory_is_bounded() -> None:
    """However many addresses and names there are, and however long the names."""
    guesses = Guesses(now=lambda: 0.0)
    guesses.limit(per_address=1.0, per_user=1.0)
    for number in range(5 * REMEMBERED):
        login = Login("", f"{number}" + "x" * 1000, b"%d" % number, f"address {number}")
        guesses.settle(login, allowed=number % 2 == 0)
    assert len(guesses) <= 3 * 2 * REMEMBERED
    longest = max(len(key) for table in guesses.tables for key in (*table.young, *table.old))
    assert longest <= 32


def test_what_is_forgiven() -> None:
    """Many that failed at the same time are paid in ten seconds."""
    time = 0.0
    guesses = Guesses(now=lambda: time)
    guesses.limit(per_address=1.0, per_user=None)
    for number in range(1000):
        guesses.settle(Login("", "anna", b"%d" % number, "a"), allowed=False)
    for time in (0.0, 9.9):  # noqa: B007 - read by the clock
        with pytest.raises(MQTTError, match="too many wrong logins"):
            guesses.check(Login("", "anna", b"x", "a"))
    time = 11.1
    guesses.check(Login("", "anna", b"x", "a"))
