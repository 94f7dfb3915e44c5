"""Whether a client is who it says: the sources are asked in order, the first that knows decides.

    identity        the verified client certificate, where it is to give the user name
    jwt             a token
    password_file   a user name that is in the file, and its password
    http            whoever the service knows
    (none of them)  a client without user name and password, if anonymous clients are allowed

A client that asks for enhanced authentication (MQTT 5) goes by its method alone. With a certificate
that gives the user name, the method has to succeed as well, and the name is the certificate's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from isthmus.auth.guesses import Guesses, Turn, too_many
from isthmus.auth.login import ANONYMOUS, DENIED, Login, Verdict
from isthmus.auth.source import Unsure
from isthmus.auth.sources import Sources

if TYPE_CHECKING:
    from isthmus.auth.method import Method


def never() -> bool:
    """Stands for `gone` where nobody can tell."""
    return False


class Authenticator:
    """Decides who may connect. Not thread-safe: it belongs to the event loop.

    Without sources there is nothing to verify a name with: then everybody is as good as anonymous.
    `guesses` says how many wrong logins are too many.
    """

    def __init__(self, sources: Sources, guesses: Guesses | None = None) -> None:
        self._sources = sources
        self._guesses = Guesses() if guesses is None else guesses

    def start(self) -> None:
        """Begin what runs in the background, such as fetching keys."""
        for source in self._sources.chain:
            source.start()

    def at_once(self, login: Login) -> Verdict | None:
        """Answer where nothing has to be waited for; None for `authenticate`.

        Raises:
            ProtocolViolation: There is no answer now, with the reason code.
        """
        for source in self._sources.chain:
            guess = source.is_guess(login)
            if guess:
                self._guesses.check(login)
            answer = source.at_once(login)
            if isinstance(answer, Verdict):
                if guess:
                    self._guesses.settle(login, allowed=answer.allowed)
                return answer
            if answer is Unsure.WAIT:
                return None
        return self._anonymous(login)

    async def authenticate(self, login: Login, gone: Callable[[], bool] = never) -> Verdict:
        """Whether the client may connect. Cancelling it is safe.

        `gone` is asked when the turn of this login has come: for a client that has gone nothing is
        computed, and the answer is no.

        Raises:
            ProtocolViolation: There is no answer now, with the reason code.
        """
        while True:
            sources = self._sources
            verdict = await self._ask(sources, login, gone)
            if self._sources is sources:
                return verdict
            # `replace` came in between: what was right a moment ago may be revoked now.

    def method(self, name: str) -> Method | None:
        """The method of enhanced authentication with this name; None if there is none."""
        return self._sources.methods.get(name)

    def confirm(self, login: Login, verdict: Verdict, method: Method) -> Verdict:
        """What the verdict of a method is for a client with this certificate.

        Raises:
            ProtocolViolation: It is not told, as there were too many wrong ones.
        """
        if getattr(method, "guessable", False):
            # No password was seen, and the name is the one that the method was told.
            tried = login._replace(username=verdict.username, password=None)
            self._guesses.check(tried)
            self._guesses.settle(tried, allowed=verdict.allowed)
        from isthmus.auth.certificate import CertificateSource  # only who uses it pays for it

        for source in self._sources.chain:
            if isinstance(source, CertificateSource) and verdict.allowed:
                shown = source.at_once(login)
                if isinstance(shown, Verdict):
                    return verdict._replace(allowed=shown.allowed, username=shown.username)
        return verdict

    def still_good(self, verdict: Verdict) -> bool:
        """Whether the verdict would be the same with the sources as they are now."""
        sources = self._sources
        if not verdict.by:
            return sources.allow_anonymous
        if verdict.by in sources.methods:
            judge = getattr(sources.methods[verdict.by], "still_good", None)
            return judge is None or bool(judge(verdict))
        return any(
            source.name == verdict.by and source.still_good(verdict) for source in sources.chain
        )

    def replace(self, sources: Sources) -> None:
        """Take other sources; all that was verified with the old ones is forgotten."""
        old, self._sources = self._sources, sources
        for source in old.chain:
            source.close()
        self.start()

    def close(self) -> None:
        """End what runs in the background."""
        for source in self._sources.chain:
            source.close()

    async def _ask(self, sources: Sources, login: Login, gone: Callable[[], bool]) -> Verdict:
        for source in sources.chain:
            guess = source.is_guess(login)
            if guess:
                self._guesses.check(login)
            turn = Turn(self._guesses, login, gone)
            answer = source.at_once(login)
            if answer is Unsure.WAIT:
                answer = await source.ask(login, turn if guess else gone)
            if self._sources is not sources:
                return DENIED  # asked again by the caller
            if isinstance(answer, Verdict):
                if answer.allowed or not (turn.gone or turn.limit):
                    if guess:
                        self._guesses.settle(login, allowed=answer.allowed)
                elif turn.limit:
                    raise too_many(turn.limit)
                return answer
        return self._anonymous(login)

    def _anonymous(self, login: Login) -> Verdict:
        nameless = login.username is None and login.password is None
        if self._sources.allow_anonymous and (nameless or not self._sources.any):
            return ANONYMOUS
        return DENIED
