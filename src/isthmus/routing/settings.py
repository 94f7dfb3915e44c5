"""Settings of routes: the `routes` key, a mapping of route names to these models."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from isthmus.config.model import SettingsModel
from isthmus.config.problems import Problem, did_you_mean, raise_any
from isthmus.config.secrets import shown
from isthmus.config.units import Size
from isthmus.errors import MQTTError
from isthmus.mqtt.topics import check_filter, split_shared

TEMPLATE_NAMES = ("topic", "clientid", "username", "node")
"""Names that a topic template may hold as `${name}`."""

MAX_TOPIC_BYTES = 65_535

_PLACEHOLDER = re.compile(r"\$\{([^{}]*)\}")


def _digit(value: object) -> object:
    """A QoS that came from the environment is text."""
    return int(value) if isinstance(value, str) and value in ("0", "1", "2") else value


QoS = Annotated[Literal[0, 1, 2], BeforeValidator(_digit)]
KeepOrQoS = Annotated[Literal["keep", 0, 1, 2], BeforeValidator(_digit)]


class QueueSettings(SettingsModel):
    """The queue of one route."""

    max_bytes: Size = Field(
        default=256 << 20,
        ge=1024,
        description="Bytes of messages that wait for the target. A full queue withholds "
        "acknowledgements; nothing that was acknowledged is dropped.",
    )


class RouteSettings(SettingsModel):
    """A route: what one endpoint publishes on these topics is published on another."""

    model_config = ConfigDict(populate_by_name=True)

    source: str = Field(
        alias="from",
        description="Endpoint to take messages from: `local` or the name of a connector.",
        examples=["local"],
    )
    to: str = Field(
        description="Endpoint to publish on: `local` or the name of a connector.",
        examples=["cloud"],
    )
    topics: tuple[str, ...] = Field(
        min_length=1,
        description="Topic filters of the messages to take. Quote a filter that begins with `#`.",
        examples=[["sensor/#"]],
    )
    topic: str | None = Field(
        default=None,
        description="Template of the topic to publish on; knows `${topic}`, `${clientid}`, "
        "`${username}` and `${node}`. Not together with `strip` or `prepend`.",
        examples=["site-7/${topic}"],
    )
    strip: str | None = Field(
        default=None,
        description="Text to take away from the front of the topic, where it is there.",
        examples=["plant/"],
    )
    prepend: str | None = Field(
        default=None,
        description="Text to put in front of the topic, after `strip`.",
        examples=["site-7/"],
    )
    qos: KeepOrQoS = Field(
        default="keep",
        description="QoS to publish with: the one of the message (`keep`), or this one.",
    )
    max_qos: QoS | None = Field(
        default=None, description="Highest QoS to publish with; only lowers, never raises."
    )
    retain: Literal["keep", "set", "clear"] = Field(
        default="keep", description="Retain flag to publish with."
    )
    durability: Literal["disk", "memory"] = Field(
        default="disk",
        description="When a message counts as safe and may be acknowledged: when the target "
        "acknowledged it (`disk`; this version has no store on disk yet), or when it is in the "
        "queue (`memory`).",
    )
    queue: QueueSettings = Field(
        default_factory=QueueSettings, description="Messages that wait for the target."
    )

    @property
    def filters(self) -> tuple[bytes, ...]:
        """The topic filters as they go over the wire."""
        return tuple(text.encode() for text in self.topics)

    @property
    def maps_topics(self) -> bool:
        """Whether a message can leave with another topic than it came with."""
        return bool(self.strip or self.prepend) or self.topic not in (None, "${topic}")

    @field_validator("topics", mode="before")
    @classmethod
    def _no_lone_filter(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError('must be a list, such as ["sensor/#"]')
        if isinstance(value, list) and None in value:
            raise ValueError("an entry is empty; write a filter that begins with # in quotes")
        return value

    @field_validator("topics")
    @classmethod
    def _valid_filters(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        raise_any(
            Problem((index,), problem)
            for index, text in enumerate(value)
            if (problem := _filter_problem(text))
        )
        return value

    @field_validator("topic")
    @classmethod
    def _valid_template(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not value:
            raise ValueError("must not be empty")
        for name in _PLACEHOLDER.findall(value):
            if name not in TEMPLATE_NAMES:
                known = ", ".join(f"${{{known}}}" for known in TEMPLATE_NAMES)
                hint = did_you_mean(name, TEMPLATE_NAMES)
                raise ValueError(f"'${{{name}}}' is unknown, use {known}{hint}")
        if "${" in _PLACEHOLDER.sub("", value):
            raise ValueError("holds a '${' without its '}'")
        return _literal(_PLACEHOLDER.sub("", value), value)

    @field_validator("strip", "prepend")
    @classmethod
    def _literal_prefix(cls, value: str | None) -> str | None:
        return None if value is None else _literal(value, value)

    @model_validator(mode="after")
    def _consistent(self) -> "RouteSettings":
        raise_any(self._contradictions())
        return self

    def _contradictions(self) -> list[Problem]:
        found = []
        if self.topic is not None:
            found += [
                Problem((key,), "cannot be used together with 'topic'; write it in the template")
                for key in ("strip", "prepend")
                if getattr(self, key) is not None
            ]
        if self.max_qos is not None and self.qos != "keep" and self.qos > self.max_qos:
            found.append(Problem(("max_qos",), f"is below the fixed 'qos: {self.qos}'"))
        return found


def _filter_problem(text: str) -> str:
    """Return what is wrong with a topic filter, or an empty text."""
    if text.startswith("!"):
        return "filters that exclude ('!') are not supported; list what to take instead"
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    try:
        check_filter(data)
        split_shared(data)
    except MQTTError as error:
        return f"{shown(text)} is no valid topic filter: {error}"
    return ""


def _literal(text: str, value: str) -> str:
    """Check the literal text of a template or prefix; return `value`."""
    if "+" in text or "#" in text:
        raise ValueError("must not hold the wildcards + and #")
    if "\0" in text:
        raise ValueError("must not hold the character U+0000")
    if len(text.encode(errors="surrogatepass")) > MAX_TOPIC_BYTES:
        raise ValueError(f"must not be longer than {MAX_TOPIC_BYTES} bytes")
    return value
