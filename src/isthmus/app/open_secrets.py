"""Files with secrets that every user of this machine may read."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isthmus.app.settings import Settings
    from isthmus.config.problems import Loc


def open_secrets(settings: Settings) -> Iterator[tuple[Loc, str]]:
    """Yield where such a file is named, and what to do about it."""
    for loc, path in _secret_files(settings):
        with suppress(OSError):  # whoever opens it says why
            if os.name == "posix" and path.stat().st_mode & stat.S_IROTH:
                import shlex  # rarely needed

                command = f"chmod o-rwx {shlex.quote(str(path))}"
                yield loc, f"may be read by every user of this machine: {command}"


def _secret_files(settings: Settings) -> Iterator[tuple[Loc, Path]]:
    """Yield the files that nobody else should read, with the keys that name them."""
    for door in settings.doors:
        for name in ("password_file", "scram"):
            users = getattr(door.auth, name)
            if users is not None:
                yield (*door.loc, name), users
    owners: tuple[tuple[Loc, object], ...] = (
        *((("listeners", number), one.tls) for number, one in enumerate(settings.listeners)),
        (("http",), None if settings.http is None else settings.http.tls),
        *((("connectors", name), one.tls) for name, one in settings.connectors.items()),
    )
    for owner, tls in owners:
        for name in ("key", "certificate"):
            path = getattr(tls, name, None)
            if path:
                if isinstance(path, Path):
                    yield (*owner, "tls", name), path
                break
