"""What is done beside the calls: places for what is to come, and the end of what was kept long enough (AUDIT-6)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final

from taskman_sdk import codec, contract
from taskman_server.kit.db import DatabaseError, Transaction
from taskman_server.kit.events import Event
from taskman_server.kit.ids import new_id
from taskman_server.kit.rpc.runtime import Runtime
from taskman_server.services.audit.retention import ACTIVITY, EXPIRED, SECURITY, Category, Span, notes
from taskman_server.services.audit.rules import draft_of
from taskman_server.services.audit.store import AuditStore
from taskman_server.services.audit.timescale import series_of
from taskman_server.services.audit.timeseries import TimeSeries

__all__ = ["Keeper"]

EVERY: Final = 3600.0
AGAIN: Final = 60.0


class Keeper:
    """Looks after the log once an hour, by the settings' times and legal holds."""

    def __init__(self, runtime: Runtime, store: AuditStore) -> None:
        self._runtime = runtime
        self._store = store
        self._series: TimeSeries | None = None
        settings = runtime.settings
        self._days = (
            (ACTIVITY, settings.audit_retention_activity_days),
            (SECURITY, settings.audit_retention_security_days),
        )
        self._held = frozenset(settings.audit_legal_hold)

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            pause = EVERY
            try:
                await self.turn()
            except DatabaseError as error:
                self._runtime.telemetry.log.warning("the audit log will be looked after later", error=str(error))
                pause = AGAIN
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))

    async def turn(self) -> int:
        """Does what is to be done now; how many records were removed.

        Raises:
            DatabaseError: something stood in the way; what was not done is done at the next turn.
        """
        if self._series is None:
            self._series = await series_of(self._runtime.db, self._store)
        now = self._runtime.clock.now()
        await self._series.prepare(now)
        removed = 0
        for category, days in self._days:
            if days and "*" not in self._held:
                cutoff = category.cutoff(now, days)
                removed += await self._series.expire(category, cutoff, self._held.__contains__, self._write_down)
        return removed

    async def _write_down(
        self, tx: Transaction, organization: str, category: Category, before: datetime, spans: Sequence[Span]
    ) -> None:
        kind, now = contract.event(EXPIRED), self._runtime.clock.now()
        for payload in notes(category.name, before, spans):
            event = Event(
                id=new_id("event"),
                source=f"/taskman/{self._runtime.name}",
                type=kind.cloud_type,
                subject="audit",
                time=now,
                organization=organization,
                actor=f"service:{self._runtime.name}",
                actortype="service",
                data=codec.to_value(payload, implicit=False),
            )
            await self._store.append(tx, [draft_of(event, contract.secret_fields())], now)
            tx.on_commit(partial(self._tell, organization, payload.category, payload.count))

    def _tell(self, organization: str, category: str, count: int) -> None:
        self._runtime.telemetry.log.info(
            "audit records removed, their time is up", organization=organization, category=category, count=count
        )
