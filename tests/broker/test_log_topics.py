"""`log.to: [topic]`: the log as messages, where Mosquitto has them."""

from __future__ import annotations

import asyncio
import logging

from isthmus.broker.log_topics import WAITING_MAX
from isthmus.log import configure
from raw import PUBLISH

ON = {"log": {"to": ["topic"]}}
log = logging.getLogger("isthmus.test")


async def test_entries_are_published_by_their_level(isthmus, caplog) -> None:
    caplog.set_level(logging.DEBUG, "isthmus")
    near = await isthmus(ON)
    reader = await near.client("reader")
    everything = await near.client("everything")
    await everything.subscribe("#")
    await reader.subscribe("$SYS/broker/log/#", qos=2)
    log.error("bad\n%s", "line")
    log.warning("odd")
    log.info("fine")
    log.debug("nobody")
    found = [await reader.message() for _ in range(3)]
    assert [one.topic for one in found] == [f"$SYS/broker/log/{letter}" for letter in "EWN"]
    assert found[0].payload.endswith(b"Z ERROR test: bad\\nline")
    assert all(one.qos == 2 and not one.retain for one in found)
    assert all(one.properties == {"expiry": 20} for one in found)
    await reader.nothing()
    await everything.nothing()  # `#` does not reach `$SYS`


async def test_a_real_entry_arrives_and_one_from_another_thread_too(isthmus) -> None:
    near = await isthmus(ON)
    reader = await near.client("reader")
    await reader.subscribe("$SYS/broker/log/W")
    near.app.broker.drops.add("queue_full", b"a/b")
    assert b"queue_full" in (await reader.message()).payload
    await asyncio.to_thread(log.warning, "from elsewhere")
    assert b"from elsewhere" in (await reader.message()).payload


async def test_a_flood_of_entries_is_bounded_and_ends_with_the_process(isthmus, caplog) -> None:
    caplog.set_level(logging.INFO, "isthmus")
    near = await isthmus(ON)
    reader = await near.client("reader")
    await reader.subscribe("$SYS/broker/log/N")
    for number in range(2 * WAITING_MAX):
        log.info("%d", number)
    got = [one for one in await reader.arrived() if one.kind == PUBLISH]
    assert len(got) == WAITING_MAX
    before = logging.getLogger("isthmus").handlers
    assert near.app.log_topics in before
    near.app.log_topics.stop()
    assert near.app.log_topics not in before
    log.info("late")
    await reader.nothing()


async def test_it_outlives_a_new_set_up_of_the_log(isthmus, capsys) -> None:
    near = await isthmus(ON)
    logger = logging.getLogger("isthmus")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    try:
        configure("warning", to=["stdout"])
        reader = await near.client("reader")
        await reader.subscribe("$SYS/broker/log/W")
        log.warning("both")
        assert (await reader.message()).payload.endswith(b"both")
        assert capsys.readouterr().out.endswith("both\n")
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


async def test_without_it_nothing_is_published(isthmus) -> None:
    near = await isthmus()
    reader = await near.client("reader")
    await reader.subscribe("$SYS/broker/log/#")
    log.warning("quiet")
    await reader.nothing()
