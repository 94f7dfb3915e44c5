"""A web service as a source of identities: it is asked about each login, and its answer is kept.

The question is a POST of JSON: `client_id`, `username`, `password` (or `password_base64` if it is
no UTF-8 text) and `address`. The answer is JSON too:

    {"result": "allow"|"deny"|"ignore", "is_superuser": bool, "acl": rights, "expire_at": seconds}

Only `result` is needed. Everything that is not such an answer fails closed: the client is told that
the server is not available (0x88), as its credentials may be right.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from typing import Any

from isthmus import clock
from isthmus.auth.check_queue import MAX_WAITING
from isthmus.auth.checks import Checks
from isthmus.auth.grants import EVERYTHING, Grants, parse_grants
from isthmus.auth.login import DENIED, Login, Verdict, is_time
from isthmus.auth.source import Unsure
from isthmus.auth.web_service import WebService, WebServiceError
from isthmus.errors import ProtocolViolation

log = logging.getLogger("isthmus.auth")

MAX_ANSWER_BYTES = 256 << 10

LOG_EVERY_S = 60.0
"""A service that fails is one line a minute."""

SERVER_UNAVAILABLE = 0x88


class HTTPSource:
    """Knows whom the service knows; `ignore` says that it does not.

    Args:
        service: Where to ask.
        concurrency: Questions at the same time.
        waiting: How many more may wait.
        cache_s: How long "allow" is remembered; 0 asks at each login.
        key: Where it stands in the configuration, for the log.
        now: Monotonic seconds.
    """

    name = "http"

    def __init__(
        self,
        service: WebService,
        *,
        concurrency: int,
        waiting: int = MAX_WAITING,
        cache_s: float,
        key: str = "auth.http",
        now: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._service = service
        self._cache_s = cache_s
        self._where = key
        self._now = now
        self._log_at = 0.0
        self.checks: Checks[Verdict | Unsure] = Checks(
            concurrency, self._keep_s, waiting=waiting, now=now
        )

    def is_guess(self, login: Login) -> bool:
        """Whether the service has to be asked about a password."""
        return bool(login.password) and self.checks.remembered(self._key(login)) is None

    def at_once(self, login: Login) -> Verdict | Unsure:
        """Answer what was asked a moment ago."""
        return self.checks.remembered(self._key(login)) or Unsure.WAIT

    async def ask(self, login: Login, gone: Callable[[], bool]) -> Verdict | Unsure:
        """Ask the service, or wait for the answer to the same question."""
        try:
            answer = await self.checks.ask(
                self._key(login), lambda: self._question(login), source=login.source, gone=gone
            )
        except (WebServiceError, ValueError, RecursionError) as error:
            if self._now() >= self._log_at:
                self._log_at = self._now() + LOG_EVERY_S
                log.warning(
                    "%s: the service cannot be used, and nobody whom it would have to know "
                    "gets in: %s",
                    self._where,
                    error,
                )
            raise ProtocolViolation(
                "the service that verifies logins gave no answer", SERVER_UNAVAILABLE
            ) from None
        return DENIED if answer is None else answer

    def still_good(self, verdict: Verdict) -> bool:
        """Always: the service is asked again at the next login."""
        del verdict
        return True

    def start(self) -> None:
        """Nothing runs in the background."""

    def close(self) -> None:
        """End the threads."""
        self.checks.close()
        self._service.close()

    def _key(self, login: Login) -> bytes:
        return self.checks.key(login.client_id, login.username, login.password, login.source)

    def _keep_s(self, answer: Verdict | Unsure) -> float:
        if not isinstance(answer, Verdict) or not answer.allowed:
            return 0.0
        if answer.expires_at is not None:
            return min(self._cache_s, answer.expires_at - clock.wall())
        return self._cache_s

    def _question(self, login: Login) -> Verdict | Unsure:
        question: dict[str, Any] = {
            "client_id": login.client_id,
            "username": login.username,
            "address": login.source,
        }
        try:
            question["password"] = None if login.password is None else login.password.decode()
        except UnicodeDecodeError:
            question["password_base64"] = base64.b64encode(login.password or b"").decode()
        answer = json.loads(self._service.post(json.dumps(question).encode()))
        if not isinstance(answer, dict):
            raise ValueError("its answer is no JSON object")
        match answer.get("result"):
            case "allow":
                return self._allowed(login, answer)
            case "deny":
                return DENIED
            case "ignore":
                return Unsure.UNKNOWN
        raise ValueError("the result in its answer is not allow, deny or ignore")

    def _allowed(self, login: Login, answer: dict[str, Any]) -> Verdict:
        superuser, expires_at = answer.get("is_superuser", False), answer.get("expire_at")
        if not isinstance(superuser, bool):
            raise ValueError("is_superuser in its answer is neither true nor false")
        if expires_at is not None and not is_time(expires_at):
            raise ValueError("expire_at in its answer is no number of seconds")
        if expires_at is not None and expires_at <= clock.wall():
            return DENIED
        grants: Grants | None = None
        if superuser:
            grants = EVERYTHING
        elif answer.get("acl") is not None:
            try:
                grants = parse_grants(answer["acl"], login.username)
            except ValueError as error:
                raise ValueError(f"acl in its answer: {error}") from None
        return Verdict(True, login.username, grants, expires_at, self.name)
