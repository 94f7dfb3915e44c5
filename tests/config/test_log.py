"""Log lines that nobody can forge."""

import io
import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def test_entries_go_where_they_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = str(tmp_path / "log")
    monkeypatch.setattr("isthmus.log._SYSLOG", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(address)
        syslog.settimeout(5)
        file = tmp_path / "isthmus.log"
        log.configure(to=("stdout", "syslog"), file=file, syslog_facility="local3")
        logging.getLogger("isthmus.test").warning("here")
        assert syslog.recv(1000).startswith(b"<156>")  # local3 is 19 * 8, a warning 4
        assert "WARNING test: here" in file.read_text()
        out, errors = capsys.readouterr()
        assert ("here" in out, errors) == (True, "")
        file.rename(tmp_path / "isthmus.log.1")
        logging.getLogger("isthmus.test").warning("there")
        assert "there" in file.read_text()
    capsys.readouterr()
    log.configure(to=())
    logging.getLogger("isthmus.test").error("nowhere")
    assert capsys.readouterr() == ("", "")


def test_a_log_that_cannot_be_written_is_an_error_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.log._SYSLOG", str(tmp_path / "none"))
    ways: list[dict[str, Any]] = [{"to": ("syslog",)}, {"file": tmp_path / "none" / "log"}]
    for how in ways:
        with pytest.raises(OSError, match="No such file") as caught:
            log.configure(**how)
        assert str(tmp_path) in str(caught.value.filename)


@pytest.mark.parametrize(
    ("how", "begins"),
    [
        ({"timestamp": False}, "INFO "),
        ({"timestamp_format": "%Y!"}, f"{time.strftime('%Y')}! INFO "),
        ({"timestamp_format": "a\nb"}, r"a\nb INFO "),
    ],
)
def test_the_time_of_lines_is_as_the_settings_say(how: Any, begins: str) -> None:
    stream = io.StringIO()
    log.configure("info", "text", stream, **how)
    logging.getLogger("isthmus.broker").info("text")
    assert stream.getvalue() == f"{begins}broker: text\n"


@pytest.mark.parametrize(
    ("level", "clients", "seen"),
    [
        ("info", "all", ["came", "fault"]),
        ("info", "faults", ["fault"]),
        ("info", "none", []),
        ("debug", "faults", ["came", "fault"]),
        ("debug", "none", []),
        ("warning", "all", []),
    ],
)
def test_lines_about_clients_are_as_the_settings_say(
    level: str, clients: Any, seen: list[str]
) -> None:
    stream = io.StringIO()
    log.configure(level, "text", stream, clients=clients, timestamp=False)
    logging.getLogger(log.CLIENTS).info("came")
    logging.getLogger(log.CLIENT_FAULTS).info("fault")
    assert stream.getvalue() == "".join(f"INFO broker.clients: {one}\n" for one in seen)
