"""Settings of routes: the `routes` key, a mapping of route names to these models."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from isthmus.config.model import SettingsModel
from isthmus.config.problems import Problem, raise_any
from isthmus.config.secrets import shown
from isthmus.config.units import Duration, Rate, Size
from isthmus.delivery.queue_limits import DEFAULT_BYTES, WhenFull
from isthmus.errors import MQTTError
from isthmus.mqtt.topics import check_filter, split_shared
from isthmus.routing.template import Template
from isthmus.routing.topic_map import TopicMap

MAX_TOPIC_BYTES = 65_535


def _digit(value: object) -> object:
    """A QoS that came from the environment is text."""
    return int(value) if isinstance(value, str) and value in ("0", "1", "2") else value


QoS = Annotated[Literal[0, 1, 2], BeforeValidator(_digit)]
KeepOrQoS = Annotated[Literal["keep", 0, 1, 2], BeforeValidator(_digit)]


class QueueSettings(SettingsModel):
    """The queue of one route.

    Routes that lead to one connector share its queue: see `isthmus.routing.shared_queue`.
    """

    max_bytes: Size = Field(
        default=DEFAULT_BYTES,
        ge=1024,
        description="Bytes of messages that wait for the target, for each of its connections, on "
        "disk where there is a data folder. Of several routes to one connector the largest value "
        "counts.",
    )
    max_messages: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000_000,
        description="Messages that wait for the target, those on their way included. Not set "
        "means that only bytes count.",
        examples=[100000],
    )
    max_age: Duration | None = Field(
        default=None,
        gt=0,
        description="Older messages are not sent: a message that was on disk for longer is dropped "
        "and counted as `too_old`, or a dead letter with `when_full: dead_letter`. Not set means "
        "that no message is too old.",
        examples=["2d"],
    )
    when_full: WhenFull = Field(
        default="block",
        description="What happens to a message for which the queue has no room. Its "
        "acknowledgement waits (`block`); it is not taken (`reject`): MQTT 5 publishers get 0x97, "
        "MQTT 3 ones no acknowledgement; the oldest message that is not on its way is dropped for "
        "it (`drop_oldest`); or it becomes a dead letter and is acknowledged (`dead_letter`).",
    )


class LoopGuardSettings(SettingsModel):
    """How a route keeps messages from coming back."""

    hops: bool = Field(
        default=True,
        description="With MQTT 5, give messages that leave the user property `isthmus-hops`, by "
        "which every Isthmus drops what it has seen.",
    )
    memory: bool = Field(
        default=False,
        description="Remember what was sent for 2 s, and cancel as many equal messages that come "
        "back on the same connector: for far sides with MQTT 3.1.1 that know no bridges.",
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
        description="Topic filters of the messages to take; one with `!` in front takes its topics "
        "out again. Quote a filter that begins with `#` or `!`.",
        examples=[["sensor/#", "!sensor/debug/#"]],
    )
    direction: Literal["out", "in", "both"] = Field(
        default="out",
        description="Which way messages go: `from` to `to` (`out`), the other way (`in`), or both. "
        "`topics` are those on the side of `from` in any case, and the way back undoes `strip` and "
        "`prepend`.",
    )
    priority: int = Field(
        default=0,
        description="Routes with a higher number come first, routes with equal ones in the order "
        "of the file.",
    )
    stop: bool = Field(
        default=False,
        description="A message that this route takes is not taken by routes that come after it.",
    )
    topic: str | None = Field(
        default=None,
        description="Template of the topic to publish on; knows `${topic}`, its levels "
        "(`${topic[0]}`, `${topic[1:]}`, `${topic[-1]}`), what the wildcards of the filter stand "
        "for (`${1}`, `${2}`), `${clientid}`, `${username}`, `${node}` and "
        "`${connection.client_id}`. Not together with `strip` or `prepend`.",
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
    loop_guard: LoopGuardSettings = Field(
        default_factory=LoopGuardSettings,
        description="What keeps messages from going round in a circle of brokers.",
    )
    durability: Literal["disk", "memory"] = Field(
        default="disk",
        description="When a message counts as safe and may be acknowledged: when the target has "
        "acknowledged it, or it is on disk in the data folder (`disk`), or when it is in memory "
        "(`memory`). Without a data folder `disk` waits for the target.",
    )
    connection: str | None = Field(
        default=None,
        description="Client id of the connection to publish by, for a connector with several; a "
        "template like `topic`. Not set means that topics are spread over all.",
        examples=["${clientid}"],
    )
    queue_qos0: bool = Field(
        default=False,
        description="Messages that leave with QoS 0 wait too while the connector that they go to "
        "is not connected, as far as `queue` has room; nothing promises that they outlive the "
        "process. Off, they are dropped, and counted as `link_down`.",
    )
    may_overtake: bool = Field(
        default=False,
        description="After an outage, new messages of this route are sent before what waits on "
        "disk for the same connector, as far as the connection has room, so they arrive out of "
        "order. QoS 2 and retained messages keep their turn. Off, everything is sent in the order "
        "in which it came.",
    )
    drain_rate: Rate | None = Field(
        default=None,
        description="Most messages of this route to a connector per time while what an outage has "
        "left on disk is sent, over all its connections together. What stands behind them on disk "
        "waits with them. Not set means that only the connector's `drain_rate` counts. It has no "
        "effect towards `local`, beside `rate_limit`, and where nothing waits on disk.",
        examples=["100/s"],
    )
    check_as: str | None = Field(
        default=None,
        min_length=1,
        description="User whose rights in `auth.acl_file` the route keeps: it takes from `local` "
        "what that user may read, and publishes there what that user may write. Not set means "
        "that routes may do everything.",
        examples=["bridge"],
    )
    queue: QueueSettings = Field(
        default_factory=QueueSettings, description="Messages that wait for the target."
    )

    @property
    def filters(self) -> tuple[bytes, ...]:
        """The filters that take messages, as they go over the wire."""
        return tuple(text.encode() for text in self.included)

    @property
    def included(self) -> tuple[str, ...]:
        """The filters that take messages."""
        return tuple(text for text in self.topics if not text.startswith("!"))

    @property
    def excluded(self) -> tuple[str, ...]:
        """The filters that take messages out again, without their `!`."""
        return tuple(text[1:] for text in self.topics if text.startswith("!"))

    @property
    def maps_topics(self) -> bool:
        """Whether a message can leave with another topic than it came with."""
        return TopicMap.of(self, "node").changes

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
        if all(text.startswith("!") for text in value):
            raise ValueError("only takes topics out; add a filter of what to take, such as '#'")
        return value

    @field_validator("topic", "connection")
    @classmethod
    def _valid_template(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not value:
            raise ValueError("must not be empty")
        return _literal(Template(value).literal, value)

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
        for key in ("topic", "connection"):
            text = getattr(self, key)
            if text is not None:
                problems = Template(text).problems(self.included)
                found += [Problem((key,), problem) for problem in problems]
        if self.connection is not None and Template(self.connection).connection:
            found.append(Problem(("connection",), "cannot name itself"))
        if self.direction != "out":
            found += self._no_way_back()
        return found

    def _no_way_back(self) -> list[Problem]:
        """What cannot be turned round for a route that also goes from `to` to `from`."""
        wanted = f"'direction: {self.direction}'"
        topics = TopicMap.of(self, "node")
        if topics.inverse() is None:
            text = f"cannot be turned round for {wanted}; use strip and prepend, or two routes"
            return [Problem(("topic",), text)]
        found = []
        for index, text in enumerate(self.topics):
            if text.startswith("!"):
                continue
            if text.startswith("$share/"):
                problem = f"is a shared subscription, which {wanted} cannot turn round"
            elif self.strip and not text.startswith(self.strip):
                problem = f"does not begin with '{self.strip}', so {wanted} could not lead back"
            elif (turned := topics.exact_image(text.encode())) is None:
                problem = f"has a wildcard behind '{self.prepend}', within a level"
            else:
                problem = _filter_problem(turned.decode())
                problem = f"on the side of 'to', {problem}" if problem else ""
            if problem:
                found.append(Problem(("topics", index), problem))
        if self.connection is not None and self.direction == "in":
            found.append(Problem(("connection",), "is of no use: nothing is published on 'to'"))
        return found


def _filter_problem(text: str) -> str:
    """Return what is wrong with a topic filter, or an empty text."""
    if text.startswith("!$share/"):
        return "takes topics out and cannot be shared; leave '$share/.../' out"
    try:
        data = text.removeprefix("!").encode()
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
