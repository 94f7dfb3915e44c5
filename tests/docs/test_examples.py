"""What README and docs/ show is true: configurations parse, commands exist, links work."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.main import get_command

from isthmus.app.explanation import explain
from isthmus.app.settings import Settings
from isthmus.cli.main import make_app
from isthmus.config.fields import walk
from isthmus.config.loader import FORMATS, parse_text
from isthmus.config.reference import reference
from isthmus.errors import ConfigError
from mosquitto import Mosquitto, free_port

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "bench" / "README.md",
]
PATIENCE_S = 15.0

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_TABLE_KEY = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)


def blocks(*kinds: str) -> list[Any]:
    """The fenced blocks of these kinds, each with the page and line where it stands."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in _BLOCK.finditer(text):
            if match[1] in kinds:
                line = text.count("\n", 0, match.start()) + 1
                name = f"{page.relative_to(ROOT)}:{line}"
                found.append(pytest.param(match[1], match[2], id=name))
    return found


def shell_lines() -> list[Any]:
    """Every command of a shell block."""
    found = []
    for block in blocks("sh"):
        for line in block.values[1].splitlines():
            for part in line.split(" | "):
                words = shlex.split(part, comments=True)
                if words:
                    found.append(pytest.param(words, id=f"{block.id}: {part.strip()}"))
    return found


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    text = _BLOCK.sub("", page.read_text())
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(("kind", "text"), blocks(*{ending[1:] for ending in FORMATS}))
def test_every_configuration_is_valid(
    kind: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in re.findall(r"[\w-]+\.(?:pem|key|jks|txt)\b", text):
        (tmp_path / name).write_text("x")
    for name in re.findall(r"\$\{env:(\w+)\}", text):
        monkeypatch.setenv(name, "from-the-environment")
    settings = parse_text(Settings, text, format=FORMATS[f".{kind}"], base=tmp_path)
    assert list(explain(settings))


def test_one_configuration_in_three_formats_is_the_same() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    first: dict[str, Settings] = {}
    for kind, block in _BLOCK.findall(text):
        if kind in ("yaml", "toml", "json") and kind not in first:
            first[kind] = parse_text(Settings, block, format=kind)
    assert first["yaml"] == first["toml"] == first["json"]


@pytest.mark.parametrize("words", shell_lines())
def test_every_command_exists(words: list[str]) -> None:
    if words[0] != "isthmus":
        assert words[0] in {".", "cat", "curl", "echo", "tail", "touch", "mosquitto_passwd"}
        return
    group: Any = get_command(make_app())
    command = group.commands[words[1]]
    arguments = words[2 : words.index(">")] if ">" in words else words[2:]
    context = command.make_context(words[1], [], resilient_parsing=True)
    command.make_parser(context).parse_args(list(arguments))  # raises for an unknown option


def test_every_command_has_its_section() -> None:
    group: Any = get_command(make_app())
    titles = re.findall(r"^## (.+)$", (ROOT / "docs" / "commands.md").read_text(), re.MULTILINE)
    assert set(titles) == set(group.commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_running_text_exist(page: Path) -> None:
    group: Any = get_command(make_app())
    text = page.read_text()
    for name in re.findall(r"`isthmus ([a-z]+)\b", text.replace("`isthmus version`", "")):
        assert name in group.commands
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in re.findall(r"`(?:\w+=\w+ )?make ([a-z-]+)`", text):
        assert name in targets
    for name in re.findall(r"^    make ([a-z-]+)\b", text, re.MULTILINE):
        assert name in targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(_BLOCK.sub("", page.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert there.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(there), target


def test_every_page_is_in_the_index() -> None:
    linked = set(_LINK.findall((ROOT / "docs" / "index.md").read_text()))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert pages - linked == {"index.md"}


def test_files_named_in_the_architecture_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", text)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / "src" / "isthmus" / name).is_file()] == []
    packages = {path.name for path in (ROOT / "src" / "isthmus").iterdir() if path.is_dir()}
    assert [name for name in packages - {"__pycache__"} if f"`{name}`" not in text] == []


def test_the_reference_is_generated_and_complete() -> None:
    page = (ROOT / "docs" / "reference.md").read_text()
    assert page == reference(Settings), "run `make docs`"
    assert {key for _, _, key, _ in walk(Settings)} == set(_TABLE_KEY.findall(page))


def test_settings_named_in_running_text_exist() -> None:
    """`broker.limits.connections` and the like."""
    paths = {path for path, _, _, _ in walk(Settings)}
    sections = tuple(f"{name}." for name in Settings.model_fields)
    for page in (page for page in PAGES if page.name != "reference.md"):
        for name in re.findall(r"`([a-z_]+(?:\.(?:\*|[a-z_]+))+)`", page.read_text()):
            if name.startswith(sections):
                assert name in paths, f"{page.name}: {name}"


def test_the_table_of_limits_is_complete_and_has_the_defaults() -> None:
    text = (ROOT / "docs" / "limits.md").read_text()
    limits = re.findall(r"^\| `(broker\.[a-z_.]+)` \| ([^|]+) \|", text, re.MULTILINE)
    paths = {path for path, _, _, _ in walk(Settings)}
    assert {name for name, _ in limits} >= {path for path in paths if ".limits." in path}
    page = (ROOT / "docs" / "reference.md").read_text()
    for name, default in limits:
        key = name.rpartition(".")[2]
        assert f"| `{key}` | " in page
        assert re.search(rf"^\| `{key}` \| \w+ \| {default} \|", page, re.MULTILINE), name


def test_errors_are_shown_as_they_are() -> None:
    """The errors of the page on configuration, from a file that has these mistakes."""
    bad = (
        "connectors:\n  cloud:\n    url: mqtt://broker.example.com\n    keep_alive: 60s\n"
        "    max_packet_size: 5MB\nroutes:\n  telemetry:\n    from: local\n"
        "    topics: [sensor/#]\n    to: clod\n"
    )
    with pytest.raises(ConfigError) as caught:
        parse_text(Settings, bad, name="bad.yaml")
    shown = "".join(f"isthmus: {problem}\n" for problem in caught.value.problems)
    assert shown in (ROOT / "docs" / "configuration.md").read_text()
    with pytest.raises(ConfigError) as caught:
        parse_text(Settings, "listeners: [{bind: 0.0.0.0:1883}]", name="open.yaml")
    assert f"isthmus: {caught.value.problems[0]}\n" in (ROOT / "docs" / "security.md").read_text()


def test_the_words_of_check_are_shown_as_they_are() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    configuration = next(block for kind, block in _BLOCK.findall(text) if kind == "yaml")
    said = list(explain(parse_text(Settings, configuration)))
    at = next(index for index, line in enumerate(said) if line.startswith("Route telemetry"))
    assert "\n".join(said[at : at + 3]) + "\n" in text


# -- the first bridge ------------------------------------------------------------------------------


class Bridge:
    """README's first bridge on free ports: its files, its commands, a folder to run them in."""

    def __init__(self, folder: Path, near: int, far: int) -> None:
        self.folder = folder
        text = (ROOT / "README.md").read_text()
        self._ports = {"127.0.0.1:1883": f"127.0.0.1:{near}", "127.0.0.1:1884": f"127.0.0.1:{far}"}
        section = text.partition("## A first bridge")[2].partition("\n## ")[0]
        self.lines: list[list[str]] = []
        self.lengths: list[int] = []
        names = iter(re.findall(r"`(\w+\.yaml)`:\n", section))
        for kind, block in _BLOCK.findall(section):
            for old, new in self._ports.items():
                block = block.replace(old, new)
            if kind == "yaml":
                (folder / next(names)).write_text(block)
                self.lengths.append(len(block.splitlines()))
            else:
                self.lines += [shlex.split(line, comments=True) for line in block.splitlines()]
        self.lines = [line for line in self.lines if line]

    def command(self, name: str, number: int = 0) -> list[str]:
        return [line for line in self.lines if line[1] == name][number][1:]

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "isthmus",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ},
            cwd=self.folder,
        )

    async def done(self, *arguments: str) -> str:
        process = await self.start(*arguments)
        async with asyncio.timeout(PATIENCE_S):
            out, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return out.decode()


async def said(stream: asyncio.StreamReader | None, text: str) -> str:
    """Wait for a line with `text`."""
    assert stream is not None
    async with asyncio.timeout(PATIENCE_S):
        while line := (await stream.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"it ended without saying {text!r}")


@pytest_asyncio.fixture
async def running() -> AsyncIterator[list[asyncio.subprocess.Process]]:
    found: list[asyncio.subprocess.Process] = []
    yield found
    for process in found:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("far", ["isthmus", "mosquitto"])
async def test_the_first_bridge_of_the_readme(
    far: str, mosquitto: Any, running: list[asyncio.subprocess.Process], tmp_path: Path
) -> None:
    """With a far side that is an Isthmus too, and with a Mosquitto."""
    if far == "mosquitto":
        real: Mosquitto = await mosquitto()
        bridge = Bridge(tmp_path, free_port(), real.port)
    else:
        bridge = Bridge(tmp_path, free_port(), free_port())
        process = await bridge.start(*bridge.command("run", 0))
        running.append(process)
        await said(process.stderr, "listening")
    assert bridge.command("run", 0) == ["run", "far.yaml"]
    assert bridge.lengths == [8, 3]
    assert "as site-7/${topic}" in await bridge.done(*bridge.command("check"))
    assert (await bridge.done(*bridge.command("test"))).startswith("connector available\n")
    process = await bridge.start(*bridge.command("run", 1))
    running.append(process)
    await said(process.stderr, "connected")
    for number, expected in enumerate(
        ("site-7/sensor/1/temperature 37.5\n", "control/valve/1 open\n")
    ):
        listening = await bridge.start(*bridge.command("sub", number), "-d")
        running.append(listening)
        await said(listening.stderr, "subscribed to")
        await bridge.done(*bridge.command("pub", number))
        assert await said(listening.stdout, " ") == expected
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_S):
        assert await process.wait() == 0


async def test_the_schema_can_be_written_to_a_file(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, free_port(), free_port())
    assert json.loads(await bridge.done("schema"))["title"] == "Settings"
