from __future__ import annotations

import asyncio
import os
import time

import pytest
from net_peers import Owner, Peer, connected, linked, until

from isthmus.net import reactor as reactor_module
from isthmus.net.link import Link
from isthmus.net.poller import EpollPoller
from isthmus.net.reactor import Reactor


def test_a_descriptor_that_is_closed_in_a_turn_is_not_reused_in_it(run):
    async def scenario(reactor):
        first, first_peer = linked(reactor)
        second, second_peer = linked(reactor)
        numbers = {first.fd, second.fd}
        opened = []

        def kill_the_other(victim):
            def on_data(data):
                victim.abort("killed")
                # The next socket would get the lowest free number: the victim's, were it closed.
                near, far = connected()
                assert near.fileno() not in numbers
                opened.append((Owner(Link(reactor, near, None)), Peer(far)))

            return on_data

        owners = [
            Owner(first, kill_the_other(second)),
            Owner(second, kill_the_other(first)),
        ]
        # Both are ready in the same turn: the second event belongs to a link that is gone.
        first_peer.sock.send(b"x")
        second_peer.sock.send(b"x")
        await until(lambda: any(owner.reasons for owner in owners))
        await asyncio.sleep(0.02)
        assert sorted(owner.received for owner in owners) == [b"", b"x"]
        assert len(opened) == 1
        newcomer, newcomer_peer = opened[0]
        assert newcomer.reads == []
        await newcomer_peer.send(b"mine")
        await until(lambda: newcomer.received == b"mine")
        # After the turn the number is free again, and the old link's events are gone with it.
        near, far = connected()
        assert {near.fileno(), far.fileno()} & numbers
        reused = Owner(Link(reactor, near, None))
        far.send(b"new")
        await until(lambda: reused.received == b"new")
        for sock in (far, newcomer_peer, first_peer, second_peer):
            sock.close()

    run(scenario)


class Script:
    """A poller that reports what a test tells it to, and stays out of the loop."""

    def __init__(self, loop):
        self.events = []
        self.watched = {}

    def attach(self, turn):
        self.turn = turn

    def register(self, fd, mask):
        self.watched[fd] = mask

    modify = register

    def unregister(self, fd):
        del self.watched[fd]

    def poll(self):
        events, self.events = self.events, []
        return events

    def close(self):
        pass


async def test_links_that_a_turn_did_not_reach_go_first_in_the_next(monkeypatch):
    monkeypatch.setattr(reactor_module, "CHECK_EVERY", 1)
    monkeypatch.setattr(reactor_module, "TURN_BUDGET_S", -1.0)
    reactor = Reactor(poller=Script)
    order = []
    pairs = [linked(reactor) for _ in range(4)]
    for n, (link, _) in enumerate(pairs):
        Owner(link, lambda data, n=n: order.append(n))
    events = [(link.fd, 1) for link, _ in pairs]

    def turn(*which):
        for n in which:
            pairs[n][1].sock.send(b"x")
        reactor.poller.events = [events[n] for n in which]
        reactor.poller.turn()

    turn(0, 1, 2)
    assert order == [0]
    turn(3, 0, 1)
    assert order == [0, 1]
    pairs[2][0].abort("gone")  # with its event still waiting
    turn(0)
    turn()
    turn()
    assert order == [0, 1, 3, 0]
    assert reactor.statistics().turns_cut >= 2
    reactor.close()
    for _, peer in pairs:
        peer.close()


def test_flooding_links_delay_others_by_about_the_budget_of_a_turn(run):
    async def scenario(reactor):
        def work(data):
            stop = time.perf_counter() + 0.001
            while time.perf_counter() < stop:
                pass

        floods = [linked(reactor) for _ in range(60)]
        for link, peer in floods:
            Owner(link, work)
            peer.sock.send(b"f" * 65_536)
        light, light_peer = linked(reactor)
        Owner(light, light.write)
        gaps = []

        async def heartbeat():
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0)
                gaps.append(time.perf_counter() - before)

        beating = asyncio.create_task(heartbeat())
        await asyncio.sleep(0)
        await light_peer.send(b"ping")
        assert await light_peer.receive(4) == b"ping"
        await until(lambda: all(link.bytes_in == 65_536 for link, _ in floods))
        beating.cancel()
        assert reactor.statistics().turns_cut > 5
        # 60 links of 1 ms each would be 60 ms; generous, since other programs run here too.
        assert sorted(gaps)[-3] < 0.03
        for _, peer in [*floods, (light, light_peer)]:
            peer.close()

    run(scenario)


def test_timers_of_the_wheel_run_in_a_turn(run):
    async def scenario(reactor):
        link, peer = linked(reactor)
        Owner(link)
        states = []
        start = time.monotonic()

        def fire():
            states.append((reactor.in_turn, time.monotonic() - start, reactor.now >= start))
            link.write(b"tick")

        reactor.wheel.at(start + 0.15, fire)
        reactor.wheel.at(start + 0.05, lambda: None)
        assert await peer.receive(4) == b"tick"
        in_turn, after, fresh = states[0]
        assert in_turn
        assert fresh
        assert 0.15 <= after < 0.5
        assert len(reactor.wheel) == 0
        peer.close()

    run(scenario)


def test_close_aborts_every_link_and_says_so(run):
    async def scenario(reactor):
        link, peer = linked(reactor)
        owner = Owner(link)
        reactor.close()
        reactor.close()
        assert owner.reasons == ["shutting down"]
        link.write(b"nobody flushes this")
        link.touch()
        assert await peer.receive_all() == b""
        peer.close()

    run(scenario)


@pytest.mark.alone
def test_an_idle_reactor_uses_no_processor_time(run):
    async def scenario(reactor):
        pairs = [linked(reactor) for _ in range(20)]
        for link, _ in pairs:
            Owner(link)
            reactor.wheel.at(time.monotonic() + 60, link.touch)
        before = time.process_time()
        await asyncio.sleep(0.15)
        assert reactor.statistics().turns == 0
        assert time.process_time() - before < 0.05
        for _, peer in pairs:
            peer.close()

    run(scenario)


async def test_epoll_gives_its_descriptor_back():
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    reactor = Reactor(poller=EpollPoller)
    reactor.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.alone
def test_a_thread_that_has_work_gets_its_turn_beside_a_busy_loop(run, monkeypatch):
    slept = []
    monkeypatch.setattr(reactor_module, "sleep", slept.append)

    async def scenario(reactor):
        link, peer = linked(reactor)

        left = 0

        def busy(data):
            nonlocal left
            until_s = time.perf_counter() + 0.0006
            while time.perf_counter() < until_s:
                pass
            left -= 1
            if left > 0:
                peer.sock.send(b"x")  # there is always more to read

        owner = Owner(link, busy)

        async def turns(count, *, waiting):
            nonlocal left
            left = 0 if waiting else count
            for _ in range(count if waiting else 1):
                before = len(owner.received)
                peer.sock.send(b"x")
                await until(lambda before=before: len(owner.received) > before and left <= 0)
                if waiting:
                    await asyncio.sleep(0.002)

        await turns(20, waiting=False)
        assert not slept  # nobody asked for it
        reactor.share(1)
        await turns(20, waiting=False)
        assert 5 <= len(slept) <= 20  # once for each millisecond of work
        slept.clear()
        await turns(20, waiting=True)
        assert len(slept) < 5  # whoever wants it gets it while the loop waits
        reactor.share(-1)
        slept.clear()
        await turns(20, waiting=False)
        assert not slept
        peer.sock.close()

    run(scenario)


def test_short_waits_are_the_turn_of_others_too(run, monkeypatch):
    """A loop that is busy for a third of the time need not stop for anybody."""
    slept = []

    async def scenario(reactor):
        now, cpu = 100.0, 5.0

        def turns(count, *, work_s, wait_s):
            nonlocal now, cpu
            slept.clear()
            for _ in range(count):
                now += wait_s
                started = now
                now += work_s
                cpu += work_s
                reactor._share(started)
            return len(slept)

        with monkeypatch.context() as patch:
            patch.setattr(reactor_module, "monotonic", lambda: now)
            patch.setattr(reactor_module, "thread_time", lambda: cpu)
            patch.setattr(reactor_module, "sleep", slept.append)
            turns(1, work_s=0.0, wait_s=1.0)
            assert turns(1000, work_s=0.00005, wait_s=0.0001) == 0
            assert 40 <= turns(1000, work_s=0.00005, wait_s=0.000001) <= 50
            # What was done before a wait was shared by it, what comes after it was not.
            assert turns(10, work_s=0.004, wait_s=0.00025) == 10

    run(scenario)
