"""Enhanced authentication of MQTT 5: methods that exchange more than one packet.

Another method is an object with a `name` and a `begin`, and `auth.methods` names it. It is asked
with what the client sent and says what to send back, until it gives a verdict:

    class Door:
        name = "EXAMPLE-KNOCK"

        def begin(self, login):
            return Knock()

    class Knock:
        async def step(self, data):
            if data == b"knock knock":
                return Step(b"who is there?")
            return Step(b"come in", Verdict(data == b"it is me", "friend"))

One that checks what can be guessed, such as a password, says `guessable = True`: then its refusals
count for `limits.failed_login_rate`.
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple, Protocol, runtime_checkable

from isthmus.auth.login import Login, Verdict
from isthmus.errors import ConfigError

MAX_DATA_BYTES = 16_384
"""Authentication data of a client that is looked at; more is refused."""

MAX_STEPS = 16
"""Packets of a client in one exchange."""


class Step(NamedTuple):
    """What the server does next: send `data`, and end the exchange if there is a `verdict`."""

    data: bytes | None = None
    verdict: Verdict | None = None


class Conversation(Protocol):
    """One exchange with one client."""

    async def step(self, data: bytes | None) -> Step:
        """Take the authentication data of CONNECT or AUTH, None if the packet had none.

        It may wait, but must not block. What it raises refuses the client.
        """


@runtime_checkable
class Method(Protocol):
    """A method of enhanced authentication."""

    name: str
    """The Authentication Method of the client's CONNECT."""

    def begin(self, login: Login) -> Conversation:
        """Begin an exchange: at CONNECT, and when the client authenticates again later."""


def load_method(path: str) -> Method:
    """Return the method that `package.module:name` names: an object, or a class.

    Raises:
        ConfigError: it cannot be imported, or is no method.
    """
    module_name, _, name = path.partition(":")
    try:
        found = getattr(import_module(module_name), name)
        method = found() if isinstance(found, type) else found
    except Exception as error:  # noqa: BLE001 - the code of others may raise anything
        raise ConfigError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from None
    if not isinstance(method, Method) or not isinstance(method.name, str):
        raise ConfigError(f"{path} is no method: it needs a name and begin(login)")
    return method
