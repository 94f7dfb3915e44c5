"""The files that a configuration names, read before anything is started.

`Settings` knows that they exist; here is whether they hold what they should, so that a certificate
without its key is found by `isthmus check`, and not by the first connection that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.auth.acl import AccessList
from isthmus.auth.passwords import PasswordFile
from isthmus.connectors.identity import tls_of
from isthmus.errors import ConfigError
from isthmus.net.contexts import client_context, server_context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isthmus.app.settings import Settings


def load_files(settings: Settings) -> tuple[AccessList | None, PasswordFile | None]:
    """Read every file; returns the rights and the users.

    TLS contexts are kept where listeners and connectors will look for them.

    Raises:
        ConfigError: with one text for everything that is wrong.
    """
    auth = settings.auth
    problems = list(_tls_problems(settings))
    access = passwords = None
    try:
        if auth.acl_file is not None:
            access = AccessList.load(auth.acl_file)
    except ConfigError as error:
        problems += error.problems
    try:
        if auth.password_file is not None:
            passwords = PasswordFile.load(auth.password_file)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return access, passwords


def _tls_problems(settings: Settings) -> Iterator[str]:
    for index, listener in enumerate(settings.listeners):
        if listener.tls is not None:
            try:
                server_context(listener.tls)
            except ConfigError as error:
                yield f"listeners[{index}].tls.{error}"
    for name, connector in settings.connectors.items():
        for key, tls in tls_of(connector):
            # Without files there is nothing to be wrong, and the system's authorities take 20 ms.
            if tls.ca is not None or tls.certificate is not None:
                try:
                    client_context(tls)
                except ConfigError as error:
                    yield f"connectors.{name}.{key}.{error}"
