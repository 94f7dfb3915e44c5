"""A whole `mosquitto.conf` as a draft of this project's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from isthmus.app.mosquitto.blocks import Block, Configuration, is_refused, read
from isthmus.app.mosquitto.bridges import write_bridges
from isthmus.app.mosquitto.broker import write_broker
from isthmus.app.mosquitto.draft import Draft
from isthmus.app.mosquitto.listeners import write_listeners
from isthmus.app.mosquitto.option import Answer, Scope


def translate(path: Path | None, ports: Sequence[int] = ()) -> Draft:
    """Return what a file says in the words of this project; None is an empty file.

    Raises:
        ConfigError: the file cannot be read. Everything else that is wrong is in the draft.
    """
    configuration = Configuration() if path is None else read(path)
    draft = Draft(problems=configuration.problems)
    write_listeners(configuration, draft, ports)
    write_broker(configuration, draft)
    write_bridges(configuration, draft)
    draft.put(("http",), None)
    for block in _blocks(configuration):
        for lines in block.lines.values():
            for setting in lines:
                if isinstance(block, Block) and is_refused(setting):
                    draft.refuse(setting, setting.option.becomes)
                elif (
                    setting.option.answer is Answer.NO_EFFECT
                    and setting.option.scope in (Scope.BRIDGE, Scope.PLUGIN)
                    and setting.value is not False
                ):
                    draft.note(setting, f"no effect: {setting.option.becomes}")
    draft.notes.sort(key=lambda note: not note.loud)
    return draft


def _blocks(configuration: Configuration) -> Iterator[Block]:
    yield configuration.general
    yield configuration.security
    listeners = configuration.listeners
    if configuration.default not in listeners:
        listeners = [configuration.default, *listeners]
    for listener in listeners:
        yield listener
        yield listener.security
    yield from configuration.connections
    plugins = [*configuration.plugins, *configuration.loaded_plugins.values()]
    for listener in listeners:
        plugins += [plugin for plugin in listener.plugins if plugin not in plugins]
    yield from plugins
