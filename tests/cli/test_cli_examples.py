"""The examples of docs/commands.md that need no broker but one: they print what the page shows."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path

import pytest
from commands import isthmus_command

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
_EXAMPLE = re.compile(
    r"^```sh\n((?:(?!```).*\n)+)```\n```text\n((?:(?!```).*\n)+)```$", re.MULTILINE
)
EXAMPLES = _EXAMPLE.findall(PAGE.read_text())


def test_there_are_examples() -> None:
    shown = " ".join(commands for commands, _ in EXAMPLES)
    assert all(f"isthmus {name}" in shown for name in ("pub", "sub", "request"))


@pytest.mark.parametrize(("lines", "shown"), EXAMPLES, ids=range(len(EXAMPLES)))
@pytest.mark.parametrize("broker", ["isthmus", "mosquitto"])
async def test_an_example_prints_what_the_page_shows(
    isthmus, mosquitto, start, broker: str, lines: str, shown: str
) -> None:
    port = (await (isthmus if broker == "isthmus" else mosquitto)()).port
    env = {"ISTHMUS_URL": f"127.0.0.1:{port}"}
    ends = []
    for line in lines.splitlines():
        words = shlex.split(line)
        assert words[0] == "isthmus"
        if words[1] == "pub":
            assert (await isthmus_command(*words[1:], env=env)).status == 0
            continue
        one = await start(*words[1:], "-d", env=env)
        if "-c" not in words:
            await one.said("subscribed to")
        end = asyncio.ensure_future(one.end())
        ends.append(end)
        if "-c" in words:  # the next one takes over the same session
            await end
    printed = [await end for end in ends]
    assert {one.status for one in printed} == {0}
    assert "".join(one.text for one in printed) == shown
