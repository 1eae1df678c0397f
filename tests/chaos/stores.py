"""What stands behind a server, read past it: the embedded shape's files, PostgreSQL and RabbitMQ of the cluster."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import asyncpg  # type: ignore[import-untyped]

from taskman_server.settings import SERVICES
from tests.parts.postgresql import PostgreSQL
from tests.parts.rabbitmq import RabbitMQ

__all__ = ["SERVICES", "ClusterStores", "FileStores", "Stores", "left_over"]

Rows = Sequence[tuple[Any, ...]]
_PENDING = "SELECT id FROM deliveries WHERE state = 'pending'"
_OUTBOX = "SELECT count(*) FROM outbox"


class Stores(Protocol):
    """All that a server has written."""

    async def rows(self, service: str, query: str) -> Rows:
        """Rows of a service's database."""

    async def left_over(self, besides: Collection[str] = ()) -> dict[str, int]:
        """What is still on its way: events in outboxes and queues, deliveries (but those named) that were not made."""

    async def cut_off(self) -> frozenset[str]:
        """The deliveries that a killed process was making: they are made again when their lease has run out, minutes
        later."""

    async def given_up(self) -> list[str]:
        """The dead letters."""

    async def damage(self) -> list[str]:
        """What is not as a database must be."""


class FileStores:
    """The data folder of the embedded shape, opened for reading only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def rows(self, service: str, query: str) -> Rows:
        """See `Stores`; `broker` is a service here."""
        return await asyncio.to_thread(_in_file, self.folder, service, query)

    async def left_over(self, besides: Collection[str] = ()) -> dict[str, int]:
        """See `Stores`."""
        return await asyncio.to_thread(left_over, self.folder, besides)

    async def cut_off(self) -> frozenset[str]:
        """See `Stores`. To be asked while no server runs."""
        due = f"{_PENDING} AND next_attempt_time > {time.time_ns() // 1000}"
        return frozenset(identifier for (identifier,) in await self.rows("notifications", due))

    async def given_up(self) -> list[str]:
        """See `Stores`."""
        rows = await self.rows("broker", "SELECT queue, event_id, reason FROM dead_letters")
        return [f"{queue}: {event}: {reason}" for queue, event, reason in rows]

    async def damage(self) -> list[str]:
        """See `Stores`."""
        found = []
        for name in (*SERVICES, "broker"):
            if (answer := await self.rows(name, "PRAGMA integrity_check")) != [("ok",)]:
                found.append(f"{name}.db is damaged: {answer[:3]}")
            if broken := await self.rows(name, "PRAGMA foreign_key_check"):
                found.append(f"{name}.db: rows refer to what is not there: {broken[:3]}")
        return found


def left_over(folder: Path, besides: Collection[str] = ()) -> dict[str, int]:
    """See `Stores.left_over`, of a data folder."""
    found = {f"{service}: outbox": _in_file(folder, service, _OUTBOX) for service in SERVICES}
    found["broker: messages"] = _in_file(folder, "broker", "SELECT count(*) FROM messages")
    left = {name: rows[0][0] for name, rows in found.items() if rows[0][0]}
    if unmade := [identifier for (identifier,) in _in_file(folder, "notifications", _PENDING)
                  if identifier not in besides]:  # fmt: skip
        left["notifications: pending deliveries"] = len(unmade)
    return left


def _in_file(folder: Path, service: str, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{folder / service}.db?mode=ro", uri=True, timeout=10)) as connection:
        return connection.execute(query).fetchall()


class ClusterStores:
    """The databases and the broker of the cluster shape."""

    def __init__(self, database_url: str, postgresql: PostgreSQL, rabbitmq: RabbitMQ, vhost: str) -> None:
        """`database_url`: with `{service}` in place of a service's name."""
        self._database_url = database_url
        self._postgresql = postgresql
        self._rabbitmq = rabbitmq
        self._vhost = vhost

    def database(self, service: str) -> str:
        """The URL of a service's database."""
        return self._database_url.replace("{service}", service)

    async def rows(self, service: str, query: str) -> Rows:
        """See `Stores`."""
        connection = await asyncpg.connect(self.database(service))
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    async def left_over(self, besides: Collection[str] = ()) -> dict[str, int]:
        """See `Stores`."""
        left = {}
        for service in SERVICES:
            if count := (await self.rows(service, _OUTBOX))[0][0]:
                left[f"{service}: outbox"] = count
        for queue, count in (await self.queues()).items():
            if count and not queue.endswith((".dead", ".attempts", ".bindings")):
                left[f"queue {queue}"] = count
        unmade = [each for (each,) in await self.rows("notifications", _PENDING) if each not in besides]
        if unmade:
            left["notifications: pending deliveries"] = len(unmade)
        return left

    async def queues(self) -> dict[str, int]:
        """How many messages each queue has, those that a consumer holds too."""
        answer = await asyncio.to_thread(
            self._rabbitmq._control.ask,
            "[{element(4, amqqueue:get_name(Q)), case amqqueue:get_type(Q) of"
            " rabbit_quorum_queue -> {ok, {_, N}, _} = ra:leader_query(amqqueue:get_pid(Q),"
            " fun rabbit_fifo:query_messages_total/1), N;"
            " _ -> 0 end}"
            f' || Q <- rabbit_amqqueue:list(<<"{self._vhost}">>)]',
        )
        assert "EXIT" not in answer, answer
        return {name: int(count) for name, count in re.findall(r'\{<<"([^"]+)">>,\s*(\d+)\}', answer)}

    async def connections(self) -> tuple[int, int]:
        """How many the processes have to PostgreSQL and to RabbitMQ."""
        ask = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'taskman-%'"
        ((sessions,),) = await self.rows("tasks", ask)
        answer = await asyncio.to_thread(self._rabbitmq._control.ask, "length(rabbit_networking:connections_local())")
        return sessions, int(answer)

    async def cut_off(self) -> frozenset[str]:
        """See `Stores`. Asked while processes run, it knows also of those that are being made just now."""
        rows = await self.rows("notifications", f"{_PENDING} AND next_attempt_time > now()")
        return frozenset(identifier for (identifier,) in rows)

    async def given_up(self) -> list[str]:
        """See `Stores`."""
        return [
            f"{queue}: {count}" for queue, count in (await self.queues()).items() if queue.endswith(".dead") and count
        ]

    async def damage(self) -> list[str]:
        """See `Stores`: PostgreSQL checks itself at its start."""
        return []
