"""Stops a process of the server in the middle of what it does, from inside of its database, without its help."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg  # type: ignore[import-untyped]

from tests.contract.waiting import eventually

__all__ = ["Barrier", "at_commit", "before_delete"]


@dataclass(slots=True)
class Barrier:
    """Whoever comes to it waits there until the block ends, or until it is opened."""

    connection: asyncpg.Connection
    query: str
    opening: str

    async def reached(self, seconds: float = 20) -> None:
        """Returns when somebody waits at it."""

        async def look() -> bool:
            return bool(await self._waiting())

        await eventually(look, "somebody at the barrier", seconds=seconds)

    async def break_up(self) -> None:
        """Ends the sessions of those who wait: what they did is undone, as when PostgreSQL sees at once that the client
        is gone."""
        for pid in await self._waiting():
            assert await self.connection.fetchval("SELECT pg_terminate_backend($1, 10000)", pid)

    async def open(self) -> None:
        """Lets them go on, though the process that sent them may be dead: what was sent is done."""
        waiting = await self._waiting()
        await self.connection.execute(self.opening)

        async def passed() -> bool:
            return not set(waiting) & set(await self._waiting())

        await eventually(passed, "passing the barrier")

    async def _waiting(self) -> list[int]:
        return [row[0] for row in await self.connection.fetch(self.query)]


@asynccontextmanager
async def at_commit(url: str, table: str, action: str, condition: str) -> AsyncIterator[Barrier]:
    """Transactions that do this to such a row wait in the middle of their commit.

    Args:
        url: of the database.
        table: its table.
        action: INSERT or DELETE.
        condition: on the row, as a trigger's WHEN.
    """
    number = secrets.randbelow(2**31)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            f"SELECT pg_advisory_lock({number});"
            f"CREATE FUNCTION wait_{number}() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN PERFORM pg_advisory_xact_lock_shared({number}); RETURN NULL; END $$;"
            f"CREATE CONSTRAINT TRIGGER wait_{number} AFTER {action} ON {table} DEFERRABLE INITIALLY DEFERRED"
            f" FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION wait_{number}()"
        )
        try:
            query = f"SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = {number} AND NOT granted"
            yield Barrier(connection, query, f"SELECT pg_advisory_unlock({number})")
        finally:
            await connection.execute("SELECT pg_advisory_unlock_all()")
            await connection.execute(f"DROP FUNCTION wait_{number} CASCADE")
    finally:
        await connection.close()


@asynccontextmanager
async def before_delete(url: str, table: str, row: str) -> AsyncIterator[Barrier]:
    """Who deletes a row waits before. `row`: a condition that selects it."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("BEGIN")
        assert await connection.fetch(f"SELECT 1 FROM {table} WHERE {row} FOR UPDATE")
        query = "SELECT pid FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        yield Barrier(connection, query, "ROLLBACK")
    finally:
        await connection.close()
