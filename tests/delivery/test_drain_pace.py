"""When a lane goes on with what an outage has left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
import uvloop

from isthmus import clock
from isthmus.delivery.drain_pace import DrainPace
from isthmus.delivery.drain_rates import DrainRates

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("rate", [200, 3_000, 20_000])
def test_a_rate_is_kept_and_takes_few_turns_of_the_loop(
    monkeypatch: pytest.MonkeyPatch, loop: Callable[[], asyncio.AbstractEventLoop], rate: int
) -> None:
    monkeypatch.setattr(clock, "monotonic", time.monotonic)
    # uvloop calls at once what is due in less than half a millisecond.
    sent = turns = 0

    async def send() -> float:
        begun = time.monotonic()
        pace = DrainPace(asyncio.get_running_loop(), lambda: go_on())
        pace.rates = DrainRates()
        pace.rates.limit(rate)

        def go_on() -> None:
            nonlocal sent, turns
            turns += 1
            while pace.take(b"t"):
                sent += 1

        go_on()
        await asyncio.sleep(0.3)
        return time.monotonic() - begun

    with asyncio.Runner(loop_factory=loop) as runner:
        took_s = runner.run(send())
    assert 0.5 * rate * took_s < sent <= rate * (took_s + 0.12)
    # A timer may come early by its resolution, too.
    assert turns <= 1 + 2 * took_s * min(rate, 1_000)
