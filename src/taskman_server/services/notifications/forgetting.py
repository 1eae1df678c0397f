"""Takes the secrets that were wiped out of the database's log too: a link must not lie there for weeks (NOTIFY-1)."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol, runtime_checkable

from taskman_server.kit.db import DatabaseError
from taskman_server.kit.telemetry import Telemetry

__all__ = ["Forgetful", "Forgetting"]

PAUSE: Final = 1.0


@runtime_checkable
class Forgetful(Protocol):
    """A database whose log this process can empty."""

    async def forget(self) -> bool:
        """Empties the log; whether that could be done now."""
        ...


class Forgetting:
    """Empties the log after secrets were wiped, once a second at most, until it is done."""

    def __init__(self, db: Forgetful, telemetry: Telemetry) -> None:
        self._db = db
        self._telemetry = telemetry
        self._wiped = asyncio.Event()
        self._wiped.set()  # whoever was killed before left something, perhaps

    def wake(self) -> None:
        """A secret was wiped, and that is committed."""
        self._wiped.set()

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            await self._wiped.wait()
            self._wiped.clear()
            try:
                done = await self._db.forget()
            except DatabaseError as error:
                self._telemetry.log.warning("wiped secrets are still in the log", error=str(error))
                done = False
            if not done:
                self._wiped.set()
            await asyncio.sleep(PAUSE)
