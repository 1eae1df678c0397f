"""What has run out is forgotten: expired tokens and sessions, old counters, retired keys."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from taskman_server.kit.db import DatabaseError
from taskman_server.kit.rpc import Runtime
from taskman_server.services.authentication.store import AuthenticationStore

__all__ = ["Housekeeper"]

EVERY = 3600.0
# A little longer than they are good for, so that a late call still gets the error that fits.
_KEEP = timedelta(days=1)
_KEEP_ADDRESSES = timedelta(days=180)


class Housekeeper:
    """Tidies the service's tables every hour."""

    def __init__(self, runtime: Runtime, store: AuthenticationStore) -> None:
        self._runtime = runtime
        self._store = store

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            try:
                await self.tidy()
            except DatabaseError as error:
                self._runtime.telemetry.log.warning("the clean-up waits", error=str(error))
            await asyncio.sleep(EVERY)

    async def tidy(self) -> int:
        """Tidies once; how many rows went."""
        now = self._runtime.clock.now()
        before = now - _KEEP
        async with self._runtime.db.transaction(durable=False, offload=True) as tx:
            await tx.take_turn("housekeeping")
            return (
                await self._store.prune_sessions(tx, before)
                + await self._store.prune_requests(tx, tokens=before, failures=before, known=now - _KEEP_ADDRESSES)
                + await self._store.prune_registrations(tx, before)
                + await self._store.prune_signing_keys(tx, before)
            )
