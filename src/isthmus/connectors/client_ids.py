"""Client ids of a connector: `[{prefix}:]{connector}{8 hex}:{n}`.

The eight digits tell installations with the same configuration apart. They are made once and kept
in the data folder: with new ones after each start, the sessions that far services keep would be
orphans.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from pathlib import Path

from isthmus.errors import ConfigError

FILE_NAME = "client-ids.json"

_DIGITS = re.compile(r"[0-9a-f]{8}")


class ClientIds:
    """The digits of each connector, kept in `folder`; with None they are new at each start.

    `stable` says whether the ids survive a restart, and with them the sessions of the far side.
    """

    def __init__(self, folder: Path | None) -> None:
        self.stable = folder is not None
        self._path = folder / FILE_NAME if folder is not None else None
        self._digits: dict[str, str] = {}
        if self._path is not None and self._path.exists():
            self._digits = self._load(self._path)

    def client_id(self, connector: str, prefix: str | None, number: int) -> str:
        """The id of connection `number`, counted from 1; 0 is the id that tests a connection.

        Raises:
            ConfigError: the digits are new and cannot be written to the data folder.
        """
        digits = self._digits.get(connector)
        if digits is None:
            digits = secrets.token_hex(4)
            if number:  # a test leaves nothing behind
                self._digits[connector] = digits
                if self._path is not None:
                    self._save(self._path)
        return f"{prefix + ':' if prefix else ''}{connector}{digits}:{number}"

    @staticmethod
    def _load(path: Path) -> dict[str, str]:
        try:
            digits = json.loads(path.read_text())
            if not isinstance(digits, dict) or not all(
                isinstance(value, str) and _DIGITS.fullmatch(value) for value in digits.values()
            ):
                raise ValueError("not a mapping of connectors to 8 hexadecimal digits")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path}: cannot be read: {error}; mend it, or remove it to get new client ids "
                "(far services then keep the sessions of the old ones until they expire)"
            ) from error
        return digits

    def _save(self, path: Path) -> None:
        temporary = path.with_suffix(".new")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(self._digits, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error}") from error
