"""The database as a service sees it: statements in, rows out, one writer at a time.

The first implementation is `kit.db.sqlite`. Reads outside a transaction see the last committed state. A write outside
a transaction is a transaction of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias

from sqlalchemy import Dialect
from sqlalchemy.sql import ClauseElement

from taskman_server.kit.db.errors import (
    ConstraintViolation,
    DatabaseError,
    DatabaseUnavailable,
    StatementTimeout,
    UniqueViolation,
)
from taskman_server.kit.db.statements import Row, Statement
from taskman_server.kit.db.types import BigSerial, JsonText, UtcTimestamp, from_micros, to_micros

__all__ = [
    "AnyStatement",
    "BigSerial",
    "ConstraintViolation",
    "Database",
    "DatabaseError",
    "DatabaseUnavailable",
    "Executor",
    "JsonText",
    "Row",
    "Statement",
    "StatementTimeout",
    "Transaction",
    "UniqueViolation",
    "UtcTimestamp",
    "from_micros",
    "to_micros",
]

AnyStatement: TypeAlias = Statement | ClauseElement


class Executor(Protocol):
    """What runs statements: a database, or a transaction of one.

    Every method raises TypeError for a parameter that is missing or unknown, UniqueViolation and ConstraintViolation
    when a constraint refuses, StatementTimeout, DatabaseUnavailable, and DatabaseError for the rest.
    """

    async def fetch_one(self, statement: AnyStatement, /, **params: Any) -> Row | None:
        """The first row, or None."""

    async def fetch_all(self, statement: AnyStatement, /, **params: Any) -> list[Row]:
        """All rows."""

    async def execute(self, statement: AnyStatement, /, **params: Any) -> int:
        """Run a statement that changes rows; how many it changed."""

    async def execute_many(self, statement: AnyStatement, rows: Sequence[Mapping[str, Any]], /) -> None:
        """Run a statement once per mapping of parameters."""


class Transaction(Executor, Protocol):
    """Statements that take effect together or not at all.

    A failed statement fails the transaction (as on PostgreSQL), unless it ran inside a `savepoint`.
    """

    def on_commit(self, callback: Callable[[], None], /) -> None:
        """Call back once the commit is durable; never after a rollback. It must not block or raise."""

    async def take_turn(self, name: str) -> None:
        """Wait until no other transaction holds `name`, then hold it to the end of this one.

        For decisions on rows that are read and not locked. Does nothing where writers take turns anyway.
        """

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """A part that can fail alone: an exception that leaves the block undoes the block and is raised on."""


class Database(Executor, Protocol):
    """One service's database."""

    @property
    def dialect(self) -> Dialect:
        """The dialect that statements are compiled for."""

    @property
    def shared(self) -> bool:
        """Whether other processes may write at the same time."""

    async def reader(self, key: str) -> Executor:
        """Where to read what may lag, but never behind what the principal `key` wrote."""

    def note_write(self, key: str) -> None:
        """The principal `key` has committed a change: its reads are to see it."""

    def prepare(self, *statements: Statement) -> None:
        """Compile statements now, so that the first request does not pay for it."""

    def transaction(self, *, durable: bool = True, offload: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """Begin; commit at the end of the block, roll back on any exception, cancellation included.

        `durable=False` does not wait for the disk: a power cut may undo the commit (a killed process does not), for
        work that is done again anyway. `offload=True` runs each statement off the event loop, for work on many rows.
        Writers take turns in the order they asked. Raises RuntimeError when the same task is inside one already.
        """

    async def settled(self) -> None:
        """Return when every commit that could be read up to now is durable."""

    async def close(self) -> None:
        """Finish what is running and close. Later calls raise DatabaseUnavailable."""
