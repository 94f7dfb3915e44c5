"""The files that a configuration names, read before anything is started.

`Settings` knows that they exist; here is whether they hold what they should, so that a certificate
without its key is found by `isthmus check`, and not by the first connection that needs it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from isthmus.auth.sources import Sources, load_sources
from isthmus.config.problems import path_text
from isthmus.connectors.identity import tls_of
from isthmus.errors import ConfigError
from isthmus.net.tls_settings import TLSClientSettings, TLSServerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isthmus.app.settings import Settings


def load_files(settings: Settings) -> dict[str, Sources]:
    """Read every file; returns what decides about clients, by realm (see `Settings.doors`).

    TLS contexts are kept where listeners and connectors will look for them.

    Raises:
        ConfigError: with one text for everything that is wrong.
    """
    problems = [*_folder_problems(settings), *_tls_problems(settings)]
    found: dict[str, Sources] = {}
    for door in settings.doors:
        try:
            found[door.realm] = load_sources(
                door.auth, allow_anonymous=door.anonymous_allowed, where=path_text(door.loc)
            )
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return found


def _folder_problems(settings: Settings) -> Iterator[str]:
    """Yield why the data folder cannot be made or written; nothing is made to find out."""
    folder = settings.broker.data
    if folder is None:
        return
    near = next(path for path in (folder, *folder.parents) if path.exists())
    if not near.is_dir():
        yield f"broker.data: '{folder}' cannot be made: '{near}' is no folder"
    elif not os.access(near, os.W_OK | os.X_OK):
        verb = "written to" if near == folder else f"made: '{near}' cannot be written to"
        yield f"broker.data: '{folder}' cannot be {verb} by this user"


def _tls_problems(settings: Settings) -> Iterator[str]:
    for key, tls in _tls_of(settings):
        # Only who uses TLS pays for it.
        from isthmus.net.contexts import client_context, server_context

        try:
            if isinstance(tls, TLSServerSettings):
                server_context(tls)
            else:
                client_context(tls)
        except ConfigError as error:
            yield f"{key}.{error}"


def _tls_of(settings: Settings) -> Iterator[tuple[str, TLSServerSettings | TLSClientSettings]]:
    for index, listener in enumerate(settings.listeners):
        if listener.tls is not None:
            yield f"listeners[{index}].tls", listener.tls
    if settings.http is not None and settings.http.tls is not None:
        yield "http.tls", settings.http.tls
    for name, connector in settings.connectors.items():
        for key, tls in tls_of(connector):
            # Without settings nothing can be wrong, and the system's authorities take 20 ms.
            if tls.model_fields_set:
                yield f"connectors.{name}.{key}", tls
