"""Going back to the first address: it is tried beside a backup, and believed after several times.

Each try is a whole CONNECT and CONNACK under a client id of its own. A port that is open says
little: a broker that is still starting accepts connections too, and a good link would be dropped
for it again and again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from isthmus.connectors.dialects import DialectChoice
from isthmus.connectors.knock import knock
from isthmus.errors import ConnectError

if TYPE_CHECKING:
    from isthmus.connectors.connector import Connector
    from isthmus.connectors.identity import Identity

log = logging.getLogger("isthmus.connectors")


class Failback:
    """Brings the members of one connector back from backups."""

    def __init__(self, connector: Connector, identity: Identity) -> None:
        """`identity` is what the tries log in with."""
        self._connector = connector
        self._identity = identity
        self._dialects = DialectChoice(connector.settings)
        self._task: asyncio.Task[None] | None = None
        self._refused = ""
        self.successes = 0

    def start(self) -> None:
        """Look at the first address whenever a member is at a backup."""
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name=f"connector {self._connector.name} failback"
        )

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        settings = self._connector.settings.failback
        while True:
            await asyncio.sleep(settings.every)
            away = [
                member
                for member in self._connector.members
                if member.place and member.state == "connected"
            ]
            if not away:
                self.successes = 0
                continue
            try:
                await knock(
                    self._connector,
                    self._connector.settings.address,
                    self._identity,
                    self._dialects.first,
                )
            except ConnectError as error:
                self.successes = 0
                self._dialects.failed(error)
                self._note(error)
                continue
            except Exception:
                log.exception("connector %s: trying the first address failed", self._connector.name)
                self.successes = 0
                continue
            if self._connector.stopping:
                return  # what is on its way may still arrive at the backup
            self.successes += 1
            if self.successes >= settings.successes:
                self.successes = 0
                log.info(
                    "connector %s: %s works again, leaving the backup",
                    self._connector.name,
                    self._connector.settings.address,
                )
                await asyncio.gather(*(member.return_to_first() for member in away))

    def _note(self, error: ConnectError) -> None:
        """Say once that the service is there and does not want our try."""
        if error.reason is not None and str(error) != self._refused:
            self._refused = str(error)
            log.warning(
                "connector %s: %s refuses the try to go back to it: %s; if it lets only known "
                "client ids in, set 'failback.client_id'",
                self._connector.name,
                self._connector.settings.address,
                error,
            )
