"""Log lines that nobody can forge."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from isthmus import log

HOSTILE = "a\r\n2026-01-01 ERROR forged\x1b[2J\x00\x85\u2028\tb"


@pytest.fixture(autouse=True)
def _logger() -> Iterator[None]:
    logger = logging.getLogger("isthmus")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def written(style: str, level: str = "info") -> str:
    stream = io.StringIO()
    log.configure(level, style, stream)  # type: ignore[arg-type]
    logger = logging.getLogger("isthmus.broker")
    logger.debug("hidden")
    logger.info("client %s", HOSTILE)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logger.exception("failed")
    return stream.getvalue()


def test_text_is_one_line_per_entry() -> None:
    lines = written("text").splitlines()
    assert lines[0].endswith(
        r"INFO broker: client a\r\n2026-01-01 ERROR forged\x1b[2J\x00\x85\u2028\tb"
    )
    assert lines[0][4] == "-"
    assert all(line.startswith("    ") for line in lines[2:])
    assert all(line.isprintable() for line in lines)


def test_json_is_one_object_per_line() -> None:
    first, second = (json.loads(line) for line in written("json").splitlines())
    assert first["message"] == f"client {HOSTILE}"
    assert first["level"] == "info"
    assert first["logger"] == "broker"
    assert first["time"].endswith("Z")
    assert "ValueError" in second["error"]


def test_levels() -> None:
    assert "hidden" in written("text", "debug")
    assert "client" not in written("text", "error")


def test_a_second_set_up_replaces_the_first() -> None:
    written("text")
    assert written("text").count("client") == 1


def test_ordinary_text_stays_as_it_is() -> None:
    assert log.escape("sensor/1 Grüße ✓") == "sensor/1 Grüße ✓"
