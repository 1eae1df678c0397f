"""What the store tests share: waiting for a condition, a small table, running a child process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.schema import CreateTable

from taskman_sdk import contract
from taskman_server.kit.db import Database, JsonText, Statement, UtcTimestamp
from taskman_server.kit.event_tables import IDEMPOTENCY, INBOX, OUTBOX
from taskman_server.kit.events import Event
from taskman_server.kit.ids import new_id

METADATA = sa.MetaData()
NOTES = sa.Table(
    "notes",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("text", sa.Text),
    sa.Column("done", sa.Boolean),
    sa.Column("extra", JsonText),
    sa.Column("time", UtcTimestamp),
)
EFFECTS = sa.Table(
    "effects",
    METADATA,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
)

PUT = Statement(sa.insert(NOTES).values(id=bindparam("id"), text=bindparam("text")))
GET = Statement(sa.select(NOTES).where(NOTES.c.id == bindparam("id")))
COUNT = Statement(sa.select(sa.func.count().label("n")).select_from(NOTES))
EFFECT = Statement(sa.insert(EFFECTS).values(event_id=bindparam("event_id"), key=bindparam("key")))
ALL_EFFECTS = Statement(sa.select(EFFECTS).order_by(EFFECTS.c.sequence))

_N = sa.select(sa.cast(1, sa.BigInteger).label("n")).cte("n", recursive=True)
_N = _N.union_all(sa.select(_N.c.n + 1).where(_N.c.n < bindparam("top", type_=sa.BigInteger)))
LONG = Statement(sa.select(sa.func.count().label("n")).select_from(_N))
"""Counts to `top`: takes as long as one likes."""

OpenDatabase = Callable[..., Awaitable[Database]]


def open_to(caller: str, service: contract.Service) -> contract.Service:
    """The service with a caller that no deployment has: a test who sets things up, and may call everything."""
    methods = {name: replace(each, callers=each.callers | {caller}) for name, each in service.methods.items()}
    return replace(service, methods=methods)


async def create_tables(db: Database) -> None:
    async with db.transaction() as tx:
        for table in (NOTES, EFFECTS, OUTBOX, INBOX, IDEMPOTENCY):
            await tx.execute(CreateTable(table, if_not_exists=True))


async def count(db: Database) -> int:
    row = await db.fetch_one(COUNT)
    assert row is not None
    return int(row.n)


async def until(condition: Callable[[], Awaitable[Any]], *, seconds: float = 20.0) -> Any:
    """Wait until the condition holds; what it answered. Fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while True:
        answer = await condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.005)


def an_event(name: str = "task.created", key: str = "task_1", **values: Any) -> Event:
    return Event(
        id=values.pop("id", None) or new_id("event"),
        source="/taskman/tasks",
        type=f"taskman.{name}.v1",
        time=datetime.now(UTC),
        subject=key,
        organization="org_1",
        **values,
    )


def start_child(source: str, *arguments: str | Path, **env: str) -> subprocess.Popen[str]:
    """Run Python source in a process of its own; it finds this package and prints to our pipe."""
    root = Path(__file__).resolve().parent.parent.parent
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}", **env},
    )
