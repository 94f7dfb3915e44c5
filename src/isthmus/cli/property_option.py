"""`-D PACKET NAME VALUE`: properties of MQTT 5 as mosquitto_pub and mosquitto_sub take them.

One option with three values, or four for a user property: the command joins them before the
options are parsed. Names, types, ranges and packets come from the table in `mqtt.properties`, and
the options that have a name of their own (`--content-type`) are put in by the same rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from typer._click import Context

    from isthmus.mqtt.properties import Properties, PropertyId

_JOINT = "\0"
"""Stands between the values of one -D; no argument of a command can hold it."""

_NAMES = ("-D", "--property")
_PAIR = "user-property"


class PropertyCommand(TyperCommand):
    """A command whose option -D takes the values that follow it."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Join the values of each -D, then parse as ever."""
        return super().parse_args(ctx, list(_joined(args)))


def _joined(args: list[str]) -> Iterable[str]:
    at = 0
    while at < len(args):
        yield args[at]
        if args[at] == "--":
            yield from args[at + 1 :]
            return
        if args[at] in _NAMES:
            size = 4 if args[at + 2 : at + 3] == [_PAIR] else 3
            values = args[at + 1 : at + 1 + size]
            if values:
                yield _JOINT.join(values)
            at += size
        at += 1


def read_properties(texts: Iterable[str], packets: Iterable[str]) -> dict[str, Properties]:
    """What each -D says, by the name of its packet; only `packets` are allowed.

    Raises:
        typer.BadParameter: there is no such property, or the value does not fit.
    """
    found: dict[str, Properties] = {name: {} for name in packets}
    names = _by_name()
    for text in texts:
        packet, *rest = text.split(_JOINT)
        if packet not in found:
            raise _wrong(f"must be followed by {', '.join(found)}, not '{packet}'")
        name = rest[0] if rest else ""
        identifier = names.get(name)
        if identifier is None:
            from isthmus.config.problems import did_you_mean

            raise _wrong(f"there is no property '{name}'{did_you_mean(name, list(names))}")
        if len(rest) != (3 if name == _PAIR else 2):
            wants = "a KEY and a VALUE" if name == _PAIR else "a VALUE"
            raise _wrong(f"{packet} {name} wants {wants}")
        value = tuple(rest[1:]) if name == _PAIR else rest[1]
        put(found[packet], packet, identifier, value, f"-D {packet} {name}")
    return found


def put(
    properties: Properties, packet: str, identifier: PropertyId, value: Any, option: str
) -> None:
    """Set one property of `packet`, or add a user property; `value` is text or already a value.

    Raises:
        typer.BadParameter: the packet has no such property, or the value does not fit.
    """
    from isthmus.errors import LocalProtocolError
    from isthmus.mqtt.packet_type import WILL, PacketType
    from isthmus.mqtt.properties import TABLE, PropertyType, encode

    row = TABLE[identifier]
    kind = WILL if packet == "will" else PacketType[packet.upper()]
    if isinstance(value, str):
        if row.type in (PropertyType.TOPIC, PropertyType.BINARY):
            value = value.encode(errors="surrogateescape")
        elif row.type is not PropertyType.STRING:
            try:
                value = int(value)
            except ValueError:
                raise _wrong("must be a whole number", option) from None
    if row.repeatable:
        value = [*properties.get(identifier, ()), value]
    elif identifier in properties:
        raise _wrong("is given twice", option)
    try:
        encode({identifier: value}, kind)
    except (LocalProtocolError, UnicodeEncodeError) as error:
        text = "is not valid Unicode" if isinstance(error, UnicodeEncodeError) else str(error)
        raise _wrong(text, option) from None
    properties[identifier] = value


def put_all(properties: Properties, packet: str, values: Mapping[str, Any]) -> None:
    """Set properties by their option names, such as `--content-type`; None is left out.

    `--user-property` has a list of texts `KEY=VALUE`.

    Raises:
        typer.BadParameter: see `put`.
    """
    names = _by_name()
    for option, value in values.items():
        identifier = names[_LONG_NAMES.get(option, option.removeprefix("--"))]
        if option == "--user-property":
            for text in value or ():
                key, equals, rest = text.partition("=")
                if not equals:
                    raise _wrong("must be KEY=VALUE", option)
                put(properties, packet, identifier, (key, rest), option)
        elif value is not None:
            put(properties, packet, identifier, value, option)


_LONG_NAMES = {
    "--correlation": "correlation-data",
    "--message-expiry": "message-expiry-interval",
    "--payload-format": "payload-format-indicator",
    "--session-expiry": "session-expiry-interval",
    "--max-packet-size": "maximum-packet-size",
    "--will-delay": "will-delay-interval",
    "--no-problem-information": "request-problem-information",
}
"""Options whose name is not that of the property."""


def _by_name() -> dict[str, PropertyId]:
    from isthmus.mqtt.properties import PropertyId

    return {name_of(identifier): identifier for identifier in PropertyId}


def name_of(identifier: PropertyId) -> str:
    """The name of a property as Mosquitto writes it: `content-type`."""
    return identifier.name.lower().replace("_", "-")


def _wrong(text: str, option: str = "-D") -> typer.BadParameter:
    return typer.BadParameter(text, param_hint=option)
