"""The embedded broker's file, read while the server that owns it may be running: nothing is changed or locked."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from taskman_server.kit.broker import BrokerUnavailable, DeadLetter, Message, QueueStats, UnknownQueue
from taskman_server.kit.db import from_micros

__all__ = ["Snapshot"]


class Snapshot:
    """What an `EmbeddedBroker`'s file holds. Every method raises BrokerUnavailable."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """The file; it must be there."""
        self._path = Path(path)

    def stats(self) -> dict[str, QueueStats]:
        """Every queue's figures; what is handed out counts as waiting, and consumers are not known (0)."""
        with self._open() as db:
            live = {
                queue: (int(total), from_micros(oldest))
                for queue, total, oldest in db.execute("SELECT queue, count(*), min(time) FROM messages GROUP BY queue")
            }
            dead = {
                queue: int(total)
                for queue, total in db.execute("SELECT queue, count(*) FROM dead_letters GROUP BY queue")
            }
            answer = {}
            for (name,) in db.execute("SELECT name FROM queues ORDER BY name"):
                ready, oldest = live.get(name, (0, None))
                answer[name] = QueueStats(ready, 0, dead.get(name, 0), 0, oldest)
            return answer

    def dead_letters(self, queue: str, *, limit: int = 100) -> list[DeadLetter]:
        """The oldest messages given up. Raises UnknownQueue."""
        with self._open() as db:
            self._check(db, queue)
            rows = db.execute(
                "SELECT event_id, name, key, body, attempts, reason, time FROM dead_letters WHERE queue = ?"
                " ORDER BY sequence LIMIT ?",
                (queue, limit),
            )
            return [
                DeadLetter(Message(*row[:4]), queue, attempts=row[4], reason=row[5], time=from_micros(row[6]))
                for row in rows
            ]

    def peek(self, queue: str, *, limit: int = 20) -> list[Message]:
        """The oldest messages that wait or are at work. Raises UnknownQueue."""
        with self._open() as db:
            self._check(db, queue)
            rows = db.execute(
                "SELECT event_id, name, key, body FROM messages WHERE queue = ? ORDER BY sequence LIMIT ?",
                (queue, limit),
            )
            return [Message(*row) for row in rows]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(
                sqlite3.connect(f"file:{quote(str(self._path.resolve()))}?mode=ro", uri=True, timeout=5)
            ) as db:
                yield db
        except sqlite3.Error as error:
            raise BrokerUnavailable(f"{self._path} cannot be read: {error}") from None

    def _check(self, db: sqlite3.Connection, queue: str) -> None:
        if db.execute("SELECT 1 FROM queues WHERE name = ?", (queue,)).fetchone() is None:
            raise UnknownQueue(queue)
