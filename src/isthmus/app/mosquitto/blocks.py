"""What belongs together in `mosquitto.conf`: the whole file, its listeners, its connections.

Options belong to the last `listener` or `connection` above them in the same file. Here every line
is checked against the table, and its value read; what the values mean comes later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from isthmus.app.mosquitto.grammar import (
    Source,
    Statement,
    ValueProblem,
    read_statements,
    unknown_option,
)
from isthmus.app.mosquitto.option import Answer, Kind, Option, Scope
from isthmus.app.mosquitto.options import OPTIONS, find

_READERS: dict[Kind, Callable[[Statement], str | bool | int | list[str]]] = {
    Kind.TEXT: Statement.text,
    Kind.SWITCH: Statement.switch,
    Kind.NUMBER: Statement.number,
    Kind.WORDS: attrgetter("words"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """The value of one line, as its option reads it: text, bool, int, or list of words."""

    option: Option
    statement: Statement
    value: str | bool | int | list[str]


class Block:
    """The lines of one thing, by the main name of their option, each in file order."""

    def __init__(self, opened: Setting | None = None) -> None:
        self.opened = opened
        self.lines: dict[str, list[Setting]] = {}

    def add(self, setting: Setting) -> None:
        """Add a line."""
        self.lines.setdefault(setting.option.name, []).append(setting)

    def last(self, name: str) -> Setting | None:
        """The line that counts: where an option may be repeated, the last one."""
        return self.lines[name][-1] if name in self.lines else None

    def all(self, name: str) -> list[Setting]:
        """Every line of an option."""
        return self.lines.get(name, [])

    def is_on(self, name: str) -> bool:
        """Whether a switch is there and true."""
        found = self.last(name)
        return found is not None and found.value is True


class ListenerBlock(Block):
    """A listener with its own rights, which count with `per_listener_settings`."""

    def __init__(self, opened: Setting | None = None) -> None:
        super().__init__(opened)
        self.security = Block(opened)
        self.plugins: list[PluginBlock] = []


class PluginBlock(Block):
    """A plugin and its options. `name` is what `plugin_use` calls it by."""

    def __init__(self, opened: Setting, path: str, name: str = "") -> None:
        super().__init__(opened)
        self.path = path
        self.name = name


@dataclass(slots=True, eq=False)
class _Place:
    """Where a file is while it is read."""

    listener: ListenerBlock | None = None
    connection: Block | None = None
    plugin: PluginBlock | None = None


@dataclass(slots=True, eq=False)
class Configuration:
    """A whole `mosquitto.conf`.

    `default` is the listener of `port` and of what stands above every `listener`; it is in
    `listeners` once there is such a line. `problems` are fatal, `file:line: text` each.
    """

    general: Block = field(default_factory=Block)
    security: Block = field(default_factory=Block)
    listeners: list[ListenerBlock] = field(default_factory=list)
    default: ListenerBlock = field(default_factory=ListenerBlock)
    connections: list[Block] = field(default_factory=list)
    plugins: list[PluginBlock] = field(default_factory=list)
    loaded_plugins: dict[str, PluginBlock] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    per_listener: bool = False

    @property
    def local_only(self) -> bool:
        """Whether nothing opens a listener: then it is this machine only, without users."""
        return not self.listeners

    @property
    def shared_security(self) -> Block | None:
        """Users and rights that all listeners share; None if each has its own."""
        if not self.per_listener:
            return self.security
        return self.default.security if self.local_only else None


def read(path: Path) -> Configuration:
    """Return what a file says.

    Raises:
        ConfigError: the file cannot be read. Other problems are in the result.
    """
    configuration = Configuration()
    reader = _Reader(configuration)
    for statement in read_statements(path, configuration.problems):
        try:
            reader.take(statement)
        except ValueProblem as problem:
            configuration.problems.append(f"{statement.where}: {statement.name}: {problem}")
    for connection in configuration.connections:
        for needed in ("address", "topic"):
            if not connection.all(needed) and connection.opened is not None:
                where = connection.opened.statement.where
                configuration.problems.append(f"{where}: connection: has no '{needed}'")
    return configuration


class _Reader:
    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._places: dict[Source, _Place] = {}

    def take(self, statement: Statement) -> None:
        option = find(statement.name)
        if option is None:
            self._configuration.problems.append(
                f"{statement.where}: {unknown_option(statement, list(OPTIONS))}"
            )
            return
        place = self._places.setdefault(statement.source, _Place())
        value = _READERS[option.kind](statement)
        setting = Setting(option, statement, value)
        _check_range(setting)
        opener = _OPENERS.get(option.name)
        if opener is not None:
            opener(self, setting, place)
            return
        block = self._block(setting, place)
        if block.all(option.name) and not option.many:
            first = block.all(option.name)[0].statement
            raise ValueProblem(f"is there twice, first at {first.where}")
        if option.kind is Kind.WORDS and not value:
            raise ValueProblem("needs a value")
        block.add(setting)

    def _block(self, setting: Setting, place: _Place) -> Block:
        configuration = self._configuration
        match setting.option.scope:
            case Scope.GENERAL:
                return configuration.general
            case Scope.SECURITY:
                if not configuration.per_listener:
                    return configuration.security
                if place.listener is None and _opens_default(setting):
                    self._open_default(setting)
                return (place.listener or configuration.default).security
            case Scope.LISTENER:
                if place.listener is None:
                    self._open_default(setting)
                return place.listener or configuration.default
            case Scope.OWN_LISTENER:
                if place.listener is None:
                    raise ValueProblem("needs a 'listener' above it in the same file")
                return place.listener
            case Scope.BRIDGE:
                if place.connection is None:
                    raise ValueProblem("needs a 'connection' above it in the same file")
                return place.connection
            case Scope.PLUGIN:
                if place.plugin is None:
                    raise ValueProblem("needs a 'plugin' above it in the same file")
                return place.plugin

    # -- what opens a block ------------------------------------------------------------------------

    def _listener(self, setting: Setting, place: _Place) -> None:
        place.listener = ListenerBlock(setting)
        _check_listener(setting)
        self._configuration.listeners.append(place.listener)

    def _open_default(self, setting: Setting) -> None:
        default = self._configuration.default
        if default.opened is None:
            default.opened = setting
            self._configuration.listeners.append(default)

    def _default_listener(self, setting: Setting, place: _Place) -> None:
        default = self._configuration.default
        self._open_default(setting)
        if setting.option.name in default.lines and not setting.option.many:
            raise ValueProblem("is there twice")
        default.add(setting)
        place.listener = default

    def _connection(self, setting: Setting, place: _Place) -> None:
        words = setting.statement.words
        if not words:
            raise ValueProblem("needs a name")
        place.connection = Block(setting)
        for other in self._configuration.connections:
            if other.opened is not None and other.opened.statement.words[0] == words[0]:
                raise ValueProblem(f"is there twice, first at {other.opened.statement.where}")
        self._configuration.connections.append(place.connection)

    def _per_listener_settings(self, setting: Setting, place: _Place) -> None:
        del place
        configuration = self._configuration
        if setting.value and configuration.security.lines and not configuration.per_listener:
            raise ValueProblem("must stand above every option about users and rights")
        configuration.per_listener = configuration.per_listener or setting.value is True

    def _plugin(self, setting: Setting, place: _Place) -> None:
        words = setting.statement.words
        if not words:
            raise ValueProblem("needs a path")
        place.plugin = PluginBlock(setting, words[0])
        own = self._configuration.per_listener and setting.option.name == "plugin"
        if own and place.listener is None:
            self._open_default(setting)
        listener = (place.listener or self._configuration.default) if own else None
        (self._configuration.plugins if listener is None else listener.plugins).append(place.plugin)

    def _plugin_load(self, setting: Setting, place: _Place) -> None:
        words = setting.statement.words
        if len(words) < 2:
            raise ValueProblem("needs a name and a path")
        place.plugin = PluginBlock(setting, words[1], words[0])
        if words[0] in self._configuration.loaded_plugins:
            raise ValueProblem("is there twice with this name")
        self._configuration.loaded_plugins[words[0]] = place.plugin

    def _plugin_use(self, setting: Setting, place: _Place) -> None:
        plugin = self._configuration.loaded_plugins.get(str(setting.value))
        if place.listener is None:
            raise ValueProblem("needs a 'listener' above it in the same file")
        if plugin is None:
            raise ValueProblem("no 'plugin_load' above has this name")
        place.plugin = plugin
        place.listener.plugins.append(plugin)


_OPENERS = {
    "listener": _Reader._listener,  # noqa: SLF001 - a table of its own methods
    "port": _Reader._default_listener,  # noqa: SLF001
    "bind_address": _Reader._default_listener,  # noqa: SLF001
    "connection": _Reader._connection,  # noqa: SLF001
    "per_listener_settings": _Reader._per_listener_settings,  # noqa: SLF001
    "plugin": _Reader._plugin,  # noqa: SLF001
    "global_plugin": _Reader._plugin,  # noqa: SLF001
    "plugin_load": _Reader._plugin_load,  # noqa: SLF001
    "plugin_use": _Reader._plugin_use,  # noqa: SLF001
}


def _opens_default(setting: Setting) -> bool:
    """Whether Mosquitto opens its default listener for a line about its users and rights."""
    if setting.option.name == "allow_zero_length_clientid":
        return setting.value is False
    return setting.option.name in ("password_file", "psk_file")


def _check_range(setting: Setting) -> None:
    option, value = setting.option, setting.value
    if not isinstance(value, int) or isinstance(value, bool):
        return
    if option.low is not None and value < option.low:
        raise ValueProblem(f"must be at least {option.low}")
    if option.high is not None and value > option.high:
        raise ValueProblem(f"must be at most {option.high}")


def _check_listener(setting: Setting) -> None:
    port = setting.statement.number()
    if not 0 <= port <= 65_535:
        raise ValueProblem("the port must be between 0 and 65535")
    words = setting.statement.words
    if port == 0 and (len(words) < 2 or words[1].startswith("#")):
        raise ValueProblem("port 0 needs the path of a Unix socket behind it")


def is_refused(setting: Setting) -> bool:
    """Whether a line asks for something that is refused; `false` and 0 ask for nothing."""
    if setting.option.answer is not Answer.REFUSED or setting.value in (False, 0):
        return False
    return not (setting.option.name == "tls_keyform" and setting.value == "pem")
