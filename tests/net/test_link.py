from __future__ import annotations

import asyncio
import socket

import pytest
from net_peers import Owner, linked, until

from isthmus.net import link as link_module
from isthmus.net.poller import LoopPoller


def test_chunks_of_one_turn_leave_in_one_write_and_in_order(run):
    async def scenario(reactor):
        link, peer = linked(reactor)

        def answer(data):
            for n in range(100):
                link.write(b"%d," % n)

        Owner(link, answer)
        await peer.send(b"go")
        wanted = b"".join(b"%d," % n for n in range(100))
        assert await peer.receive(len(wanted)) == wanted
        assert reactor.statistics().flushes == 1
        assert (link.bytes_in, link.bytes_out) == (2, len(wanted))
        peer.close()

    run(scenario)


def test_what_one_turn_reads_on_two_links_is_one_write_to_a_third(run):
    async def scenario(reactor):
        target, peer = linked(reactor)
        Owner(target)
        sources = [linked(reactor) for _ in range(2)]
        for link, _ in sources:
            Owner(link, target.write)
        for _, source in sources:
            source.sock.send(b"12345678")
        assert await peer.receive(16) == b"12345678" * 2
        assert reactor.statistics().flushes <= 1 + (reactor.poller.__class__ is LoopPoller)
        for _, other in [*sources, (target, peer)]:
            other.close()

    run(scenario)


def test_a_touch_outside_a_turn_schedules_a_flush(run):
    async def scenario(reactor):
        link, peer = linked(reactor)
        Owner(link)
        before = reactor.now
        await asyncio.sleep(0.01)
        link.touch()
        link.out.append(b"from a timer")
        assert await peer.receive(12) == b"from a timer"
        assert reactor.now > before
        peer.close()

    run(scenario)


def test_the_owner_may_share_its_own_list_as_out(run):
    async def scenario(reactor):
        link, peer = linked(reactor)
        Owner(link)
        mine = link.out = []
        link.touch()
        mine.append(b"shared")
        assert await peer.receive(6) == b"shared"
        assert mine == []
        assert link.out is mine
        peer.close()

    run(scenario)


@pytest.mark.parametrize("size", [100, 20_000, 3_000_000])
def test_partial_writes_keep_every_byte_in_order(run, size):
    async def scenario(reactor):
        link, peer = linked(reactor, send_buffer=8192)
        owner = Owner(link)
        count = max(3, 1_500_000 // size)
        chunks = [n.to_bytes(4, "big") * (size // 4) for n in range(count)]
        for chunk in chunks[: count // 2]:
            link.write(chunk)
        await until(lambda: link.blocked)
        assert link.unsent > 0
        # While blocked, what is written waits in `out`, which is the owner's to bound.
        for chunk in chunks[count // 2 :]:
            link.write(chunk)
        assert link.out
        wanted = b"".join(chunks)
        assert await peer.receive(len(wanted)) == wanted
        await until(lambda: not link.blocked)
        assert link.unsent == 0
        assert owner.drained >= 1
        assert link.bytes_out == len(wanted)
        peer.close()

    run(scenario)


def test_big_chunks_are_not_copied_and_the_tail_is_not_joined(run):
    async def scenario(reactor):
        link, peer = linked(reactor, send_buffer=8192)
        Owner(link)
        chunks = [bytes([n]) * 500_000 for n in range(5)]
        for chunk in chunks:
            link.write(chunk)
        await until(lambda: link.blocked)
        assert all(
            mine is theirs for mine, theirs in zip(chunks[-4:], link._tail[-4:], strict=True)
        )
        assert await peer.receive(2_500_000) == b"".join(chunks)
        peer.close()

    run(scenario)


def test_more_chunks_than_one_system_call_takes(run):
    async def scenario(reactor):
        link, peer = linked(reactor)
        Owner(link)
        chunks = [bytes([n]) * 9000 for n in range(200)]
        for chunk in chunks:
            link.write(chunk)
        assert await peer.receive(1_800_000) == b"".join(chunks)
        peer.close()

    run(scenario)


def test_a_read_takes_at_most_the_limit_of_a_turn(run):
    async def scenario(reactor):
        link, peer = linked(reactor)
        owner = Owner(link)
        data = bytes(range(256)) * 8192
        await peer.send(data)
        await until(lambda: len(owner.received) == len(data))
        assert owner.received == data
        assert max(map(len, owner.reads)) <= link_module.READ_LIMIT
        await peer.send(b"small")
        await until(lambda: owner.reads[-1] == b"small")
        peer.close()

    run(scenario)


def test_nothing_is_read_before_on_data_is_set(run):
    async def scenario(reactor):
        link, peer = linked(reactor)
        await peer.send(b"early")
        await asyncio.sleep(0.02)
        assert reactor.statistics().turns == 0
        owner = Owner(link)
        await until(lambda: owner.received == b"early")
        peer.close()

    run(scenario)


def test_a_paused_link_reads_nothing_until_it_is_resumed(run):
    async def scenario(reactor):
        link, peer = linked(reactor)
        owner = Owner(link)
        link.pause()
        await peer.send(b"later")
        await asyncio.sleep(0.03)
        assert owner.reads == []
        link.resume()
        await until(lambda: owner.received == b"later")
        peer.close()

    run(scenario)


def test_a_link_paused_by_another_one_in_the_same_turn_is_not_read(run):
    async def scenario(reactor):
        pairs = [linked(reactor) for _ in range(2)]
        owners = []
        for own, other in ((0, 1), (1, 0)):
            link = pairs[other][0]
            owners.append(Owner(pairs[own][0], lambda data, link=link: link.pause()))
        for _, peer in pairs:
            peer.sock.send(b"x")
        await asyncio.sleep(0.05)
        assert sorted(owner.received for owner in owners) == [b"", b"x"]
        for _, peer in pairs:
            peer.close()

    run(scenario)


def test_a_reset_closes_a_paused_link_and_does_not_spin(run, monkeypatch):
    monkeypatch.setattr(LoopPoller, "RESET_CHECK_S", 0.05)

    async def scenario(reactor):
        link, peer = linked(reactor)
        owner = Owner(link)
        link.pause()
        await asyncio.sleep(0)
        peer.reset()
        await until(lambda: owner.reasons)
        await asyncio.sleep(0.03)
        assert len(owner.reasons) == 1
        assert reactor.statistics().turns <= 3
        assert link.closed

    run(scenario)


def test_a_fin_on_a_paused_link_waits_for_resume(run):
    async def scenario(reactor):
        link, peer = linked(reactor)
        owner = Owner(link)
        link.pause()
        await peer.send(b"last words")
        peer.close()
        await asyncio.sleep(0.03)
        assert not link.closed
        link.resume()
        await until(lambda: owner.reasons)
        assert owner.received == b"last words"

    run(scenario)


def test_a_reset_while_reading_gives_the_reason(run):
    async def scenario(reactor):
        link, peer = linked(reactor)
        owner = Owner(link)
        peer.reset()
        await until(lambda: owner.reasons)
        assert owner.reasons == ["Connection reset by peer"]

    run(scenario)


def test_a_half_closed_peer_still_gets_its_answer(run):
    async def scenario(reactor):
        link, peer = linked(reactor)
        owner = Owner(link, lambda data: link.write(b"answer to " + data))
        await peer.send(b"question")
        peer.sock.shutdown(socket.SHUT_WR)
        assert await peer.receive_all() == b"answer to question"
        await until(lambda: owner.reasons)
        assert owner.reasons == ["closed by the peer"]
        peer.close()

    run(scenario)


def test_a_half_closed_peer_that_reads_slowly_gets_everything(run):
    async def scenario(reactor):
        link, peer = linked(reactor, send_buffer=8192)
        Owner(link)
        link.write(b"z" * 1_000_000)
        await until(lambda: link.blocked)
        peer.sock.shutdown(socket.SHUT_WR)
        await until(lambda: link.closed)
        turns = reactor.statistics().turns
        await asyncio.sleep(0.03)
        assert reactor.statistics().turns - turns <= 3  # the FIN must not spin meanwhile
        assert len(await peer.receive_all()) == 1_000_000
        peer.close()

    run(scenario)


@pytest.mark.parametrize("blocked", [False, True])
def test_close_delivers_what_was_written(run, blocked):
    async def scenario(reactor):
        link, peer = linked(reactor, send_buffer=8192)
        owner = Owner(link)
        link.write(b"a" * 800_000)
        if blocked:
            await until(lambda: link.blocked)
        link.write(b"b" * 800_000)
        link.write(b"the end")
        link.close("done")
        link.write(b"too late")
        assert link.closed
        await until(lambda: owner.reasons)
        assert await peer.receive_all() == b"a" * 800_000 + b"b" * 800_000 + b"the end"
        assert owner.reasons == ["done"]
        peer.close()
        await until(lambda: reactor.statistics().links == 0)

    run(scenario)


def test_last_words_reach_a_peer_that_is_still_sending(run):
    async def scenario(reactor):
        link, peer = linked(reactor)

        def refuse(data):
            link.write(b"DISCONNECT")
            link.close("malformed packet")

        owner = Owner(link, refuse)
        for _ in range(20):  # more than one read: closing now would answer with a reset
            await peer.send(b"garbage" * 10_000)
        await asyncio.sleep(0.02)
        assert await peer.receive_all() == b"DISCONNECT"
        assert len(owner.reads) == 1
        peer.close()
        await until(lambda: reactor.statistics().links == 0)

    run(scenario)


def test_close_gives_up_on_a_peer_that_does_not_read(run, monkeypatch):
    monkeypatch.setattr(link_module, "UNSENT_GRACE_S", 0.5)

    async def scenario(reactor):
        link, peer = linked(reactor, send_buffer=8192)
        owner = Owner(link)
        link.write(b"a" * 1_000_000)
        link.close("too slow")
        await until(lambda: owner.reasons)
        assert reactor.statistics().links == 1
        await until(lambda: reactor.statistics().links == 0, 3)
        peer.close()

    run(scenario)


def test_close_gives_up_on_a_peer_that_never_closes(run, monkeypatch):
    monkeypatch.setattr(link_module, "GOODBYE_GRACE_S", 0.1)

    async def scenario(reactor):
        link, peer = linked(reactor)
        Owner(link)
        link.write(b"bye")
        link.close("done")
        assert await peer.receive_all() == b"bye"
        await until(lambda: reactor.statistics().links == 0, 1)
        peer.close()

    run(scenario)


def test_abort_drops_what_was_not_sent(run):
    async def scenario(reactor):
        link, peer = linked(reactor, send_buffer=8192)
        owner = Owner(link)
        link.write(b"a" * 1_000_000)
        await until(lambda: link.blocked)
        link.abort("enough")
        link.abort("again")
        link.close("and again")
        await until(lambda: owner.reasons)
        assert len(await peer.receive_all()) < 1_000_000
        assert owner.reasons == ["enough"]
        assert reactor.statistics().links == 0
        peer.close()

    run(scenario)


def test_on_close_comes_after_the_flush_of_the_turn_and_may_write_to_others(run):
    async def scenario(reactor):
        dying, dying_peer = linked(reactor)
        heir, heir_peer = linked(reactor)
        Owner(heir)

        def answer(data):
            dying.write(b"bye")
            dying.close("done")

        Owner(dying, answer)
        flushed_first = []

        def closed(reason):
            flushed_first.append(dying.bytes_out == 3)
            heir.write(b"the will")

        dying.on_close = closed
        await dying_peer.send(b"x")
        assert await heir_peer.receive(8) == b"the will"
        assert flushed_first == [True]
        dying_peer.close()
        heir_peer.close()

    run(scenario)


def test_an_exception_in_on_data_closes_that_link_only(run, caplog):
    async def scenario(reactor):
        pairs = [linked(reactor) for _ in range(3)]

        def fail(data):
            raise KeyError("bug")

        owners = [Owner(link, fail if n == 1 else link.write) for n, (link, _) in enumerate(pairs)]
        for _, peer in pairs:
            peer.sock.send(b"ping")
        await until(lambda: owners[1].reasons)
        assert owners[1].reasons == ["internal error in on_data"]
        for n in (0, 2):
            assert await pairs[n][1].receive(4) == b"ping"
        assert reactor.statistics().failures == 1
        for _, peer in pairs:
            peer.close()

    run(scenario)
    assert len([record for record in caplog.records if "on_data failed" in record.message]) == 1


def test_an_exception_in_on_close_or_on_drained_harms_nobody_else(run, caplog):
    async def scenario(reactor):
        def fail(*_):
            raise ValueError("bug")

        link, peer = linked(reactor, send_buffer=8192)
        other, other_peer = linked(reactor)
        Owner(other, other.write)
        Owner(link)
        link.on_close = link.on_drained = fail
        link.write(b"a" * 1_000_000)
        await until(lambda: link.blocked)
        assert await peer.receive(1_000_000)
        await until(lambda: link.closed)
        await other_peer.send(b"ok")
        assert await other_peer.receive(2) == b"ok"
        assert reactor.statistics().failures == 2
        peer.close()
        other_peer.close()

    run(scenario)
    assert "on_drained failed" in caplog.text


def test_a_chunk_that_is_no_bytes_closes_that_link_only(run, caplog):
    async def scenario(reactor):
        link, peer = linked(reactor)
        owner = Owner(link)
        link.write("text")
        await until(lambda: owner.reasons)
        assert owner.reasons == ["internal error in flush"]
        peer.close()

    run(scenario)
