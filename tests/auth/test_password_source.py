"""Passwords as a source: what is remembered, what is shared, and what is never done."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from isthmus.auth import checks as module
from isthmus.auth.authenticator import Authenticator
from isthmus.auth.check_queue import Check, CheckQueue
from isthmus.auth.login import Login
from isthmus.auth.password_source import REMEMBER_S, THREADS, PasswordSource
from isthmus.auth.passwords import PasswordFile
from isthmus.auth.settings import AuthSettings
from isthmus.auth.sources import Sources, load_sources
from isthmus.errors import MQTTError


class SlowEntry:
    """Counts its checks; the right password is b"right"."""

    slow = True

    def __init__(self) -> None:
        self.checks = 0
        self.go = threading.Event()
        self.go.set()

    def check(self, password: bytes) -> bool:
        self.checks += 1
        self.go.wait(5)
        return password == b"right"


class FastEntry(SlowEntry):
    slow = False


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def sources(passwords: PasswordFile, clock: Clock | None = None, **options: bool) -> Sources:
    return Sources((PasswordSource(passwords, now=clock or Clock()),), **options)


class Auth:
    """An authenticator with one password file, asked as a client would."""

    def __init__(
        self, passwords: PasswordFile, clock: Clock | None = None, **options: bool
    ) -> None:
        self.sources = sources(passwords, clock, **options)
        self.all = Authenticator(self.sources)
        self.checks = self.sources.chain[0].checks

    def cached(self, username: str | None, password: bytes | None) -> bool | None:
        verdict = self.all.at_once(Login("c", username, password))
        return None if verdict is None else verdict.allowed

    async def authenticate(
        self, username: str | None, password: bytes | None, source: str = "", **how: Any
    ) -> bool:
        verdict = await self.all.authenticate(Login("c", username, password, source), **how)
        return verdict.allowed

    def replace(self, passwords: PasswordFile) -> None:
        self.all.replace(sources(passwords))

    def close(self) -> None:
        self.all.close()


def make(entry: SlowEntry, clock: Clock | None = None, **options: bool) -> Auth:
    return Auth(PasswordFile({"anna": entry}), clock, **options)


async def test_right_credentials_are_remembered_for_a_minute() -> None:
    entry, clock = SlowEntry(), Clock()
    auth = make(entry, clock)
    assert auth.cached("anna", b"right") is None
    assert await auth.authenticate("anna", b"right")
    assert auth.cached("anna", b"right") is True
    assert auth.cached("anna", b"wrong") is None
    clock.time += REMEMBER_S - 1
    assert await auth.authenticate("anna", b"right")
    assert entry.checks == 1
    clock.time += 2  # use does not prolong it
    assert auth.cached("anna", b"right") is None
    assert await auth.authenticate("anna", b"right")
    assert entry.checks == 2
    auth.close()


async def test_wrong_credentials_are_checked_every_time() -> None:
    entry = SlowEntry()
    auth = make(entry)
    assert not await auth.authenticate("anna", b"wrong")
    assert not await auth.authenticate("anna", b"wrong")
    assert not await auth.authenticate("nobody", b"right")
    assert entry.checks == 3
    auth.close()


async def test_names_and_passwords_do_not_run_together() -> None:
    entry = FastEntry()
    auth = Auth(PasswordFile({"an": entry, "anna": entry}))
    assert await auth.authenticate("an", b"right")
    assert not auth.cached("anr", b"ight")


async def test_equal_questions_share_one_check() -> None:
    entry = SlowEntry()
    entry.go.clear()
    auth = make(entry)
    asked = [asyncio.create_task(auth.authenticate("anna", b"right")) for _ in range(50)]
    await asyncio.sleep(0.01)
    asked[0].cancel()  # a client that goes away takes nothing from the others
    entry.go.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [True] * 49
    assert entry.checks == 1
    auth.close()


async def test_slow_checks_leave_the_loop_free() -> None:
    entry = SlowEntry()
    entry.go.clear()
    auth = make(entry)
    task = asyncio.create_task(auth.authenticate("anna", b"right"))
    began = time.monotonic()
    await asyncio.sleep(0.02)
    assert time.monotonic() - began < 1
    assert not task.done()
    entry.go.set()
    assert await task
    auth.close()


async def test_fast_checks_need_no_thread() -> None:
    auth = make(FastEntry())
    threads = threading.active_count()
    assert await auth.authenticate("anna", b"right")
    assert not await auth.authenticate("anna", b"wrong")
    assert threading.active_count() == threads


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 10)
    entry = FastEntry()
    auth = Auth(PasswordFile({f"u{number}": entry for number in range(100)}))
    for number in range(100):
        assert await auth.authenticate(f"u{number}", b"right")
    checks = auth.checks
    keys = [checks.key(f"u{number}", b"right") for number in range(100)]
    assert 10 <= sum(checks.remembered(key) is not None for key in keys) <= 20
    assert checks.remembered(keys[-1])


async def test_a_new_file_forgets_everything() -> None:
    auth = make(FastEntry())
    assert await auth.authenticate("anna", b"right")
    auth.replace(PasswordFile({"bert": FastEntry()}))
    assert not auth.cached("anna", b"right")
    assert not await auth.authenticate("anna", b"right")


async def test_a_check_across_a_new_file_is_made_again() -> None:
    entry = SlowEntry()
    entry.go.clear()
    auth = make(entry)
    task = asyncio.create_task(auth.authenticate("anna", b"right"))
    await asyncio.sleep(0.01)
    auth.replace(PasswordFile({"bert": FastEntry()}))
    entry.go.set()
    assert not await task
    assert not auth.cached("anna", b"right")
    auth.close()


@pytest.mark.parametrize("anonymous", [False, True])
def test_anonymous_clients(anonymous: bool) -> None:
    auth = make(FastEntry(), allow_anonymous=anonymous)
    assert auth.cached(None, None) is anonymous
    assert auth.cached(None, b"right") is False  # MQTT 5 allows it; nothing can verify it
    assert auth.cached("anna", None) is False
    assert auth.cached("anna", b"") is False


def test_without_sources_a_name_means_nothing() -> None:
    auth = Authenticator(Sources(allow_anonymous=True))
    for login in (Login("c", "admin", b"x"), Login("c", None, None)):
        verdict = auth.at_once(login)
        assert verdict is not None
        assert (verdict.allowed, verdict.username) == (True, None)
    verdict = Authenticator(Sources()).at_once(Login("c", "admin", b"x"))
    assert verdict is not None
    assert not verdict.allowed


async def test_credentials_are_not_kept_as_they_are() -> None:
    auth = make(FastEntry())
    await auth.authenticate("anna", b"right")
    kept = auth.checks._kept.young
    assert kept
    assert not [key for key, (_, found) in kept.items() if b"right" in key or b"anna" in key]
    assert b"right" not in repr(list(kept.values())).encode()


# -- floods --------------------------------------------------------------------------------------


async def test_nothing_is_computed_for_who_has_given_up() -> None:
    entry = SlowEntry()
    entry.go.clear()
    auth = make(entry)
    flood = [asyncio.create_task(auth.authenticate("anna", b"%d" % n)) for n in range(50)]
    await asyncio.sleep(0.01)
    for task in flood:
        task.cancel()
    good = asyncio.create_task(auth.authenticate("anna", b"right"))
    await asyncio.sleep(0.01)
    entry.go.set()
    assert await good
    assert entry.checks == THREADS + 1
    auth.close()


async def test_nothing_is_computed_for_who_has_gone_unnoticed() -> None:
    entry = SlowEntry()
    entry.go.clear()
    auth = make(entry)
    flood = [
        asyncio.create_task(auth.authenticate("anna", b"%d" % n, gone=lambda: True))
        for n in range(50)
    ]
    stays = asyncio.create_task(auth.authenticate("anna", b"7", gone=lambda: False))
    entry.go.set()
    assert await asyncio.gather(*flood) == [False] * 50
    assert not await stays
    assert entry.checks == 1
    auth.close()


async def test_a_flood_of_wrong_logins_does_not_keep_a_good_client_waiting() -> None:
    """Others wait behind their own address; who was known before waits behind nobody."""
    entry, clock = SlowEntry(), Clock()
    auth = make(entry, clock)
    assert await auth.authenticate("anna", b"right", source="home")
    clock.time += REMEMBER_S + 1
    entry.go.clear()
    flood = [
        asyncio.create_task(auth.authenticate("anna", b"%d" % n, source="bad")) for n in range(500)
    ]
    await asyncio.sleep(0.01)
    known = asyncio.create_task(auth.authenticate("anna", b"right", source="bad"))
    new = asyncio.create_task(auth.authenticate("nobody", b"new", source="home"))
    await asyncio.sleep(0.01)
    entry.go.set()
    assert await known
    assert not await new
    assert entry.checks < 15
    for task in flood:
        task.cancel()
    auth.close()


async def test_the_queue_is_bounded_and_who_has_most_in_it_loses() -> None:
    entry = SlowEntry()
    entry.go.clear()
    auth = make(entry)
    auth.checks.queue.maximum = 10

    def ask(password: bytes, source: str) -> asyncio.Task[bool]:
        return asyncio.create_task(auth.authenticate("anna", password, source=source))

    flood = [ask(b"%d" % n, "bad") for n in range(30)]
    others = [ask(b"o%d" % n, f"other {n}") for n in range(3)]
    await asyncio.sleep(0.01)
    refused = [task for task in flood if task.done()]
    assert len(refused) == 30 - THREADS - 10 + 3
    for task in refused:
        error = task.exception()
        assert isinstance(error, MQTTError)
        assert error.reason == 0x89
    entry.go.set()
    assert await asyncio.gather(*others) == [False] * 3
    assert len(auth.checks.queue) == 0 or await asyncio.gather(*(set(flood) - set(refused)))
    auth.close()


def test_turns_go_round_and_what_is_discarded_is_gone() -> None:
    queue = CheckQueue(4)

    def check(name: str, source: str) -> Check:
        return Check(name.encode(), lambda: True, source, None)

    checks = {name: check(name, name[0]) for name in ("a1", "a2", "a3", "b1", "k1")}
    for name in ("a1", "a2", "a3", "b1"):
        assert queue.add(checks[name], known=False) is None
    assert queue.add(checks["k1"], known=True) is None
    extra = check("a4", "a")
    assert queue.add(extra, known=False) is extra
    newcomer = check("c1", "c")
    assert queue.add(newcomer, known=False) is checks["a3"]
    assert len(queue) == 5
    queue.discard(checks["a3"])
    queue.discard(checks["a2"])
    queue.discard(checks["k1"])
    assert [queue.pop().key for _ in range(len(queue))] == [b"a1", b"b1", b"c1"]
    assert queue.pop() is None


async def test_threads_and_waiting_logins_are_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = SlowEntry()
    entry.go.clear()
    monkeypatch.setattr(PasswordFile, "load", lambda _path: PasswordFile({"anna": entry}))
    settings = AuthSettings(
        password_file=tmp_path / "users.txt", password_threads=3, waiting_logins=4
    )
    auth = Authenticator(load_sources(settings, allow_anonymous=False))
    logins = [
        asyncio.create_task(auth.authenticate(Login("c", "anna", b"%d" % n, "one")))
        for n in range(9)
    ]
    await asyncio.sleep(0.1)
    assert entry.checks == 3
    assert sum(task.done() for task in logins) == 2
    entry.go.set()
    await asyncio.gather(*logins, return_exceptions=True)
    auth.close()
