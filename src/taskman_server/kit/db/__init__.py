"""The database as a service sees it: statements in, rows out.

Implemented by `kit.db.sqlite` (one file, one writer at a time) and `kit.db.postgres` (a server that other processes
write to as well). Reads outside a transaction see the last committed state. A write outside a transaction is a
transaction of its own. Transactions are READ COMMITTED: a decision on rows that others may change meanwhile needs a
lock on them (`with_for_update`, which is nothing on SQLite), a constraint, or `Transaction.take_turn`.
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
    TextRefused,
    TransactionConflict,
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
    "TextRefused",
    "Transaction",
    "TransactionConflict",
    "UniqueViolation",
    "UtcTimestamp",
    "from_micros",
    "to_micros",
]

AnyStatement: TypeAlias = Statement | ClauseElement


class Executor(Protocol):
    """What runs statements: a database, or a transaction of one.

    Every method raises TypeError for a parameter that is missing or unknown, UniqueViolation and ConstraintViolation
    when a constraint refuses, TransactionConflict, StatementTimeout, DatabaseUnavailable, and DatabaseError for the
    rest.
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

    def invalidate(self) -> None:
        """Rows change, or go, that other processes may remember: with the commit their `Database.elsewhere` changes."""

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """A part that can fail alone: an exception that leaves the block undoes the block and is raised on."""

    async def take_turn(self, name: str, /) -> None:
        """Wait until no other transaction of the database holds the name, then hold it to the end of this one.

        For a decision on rows that are not there to be locked: the last of a kind, the next link of a chain. Nothing to
        do on SQLite, where whole transactions take turns.
        """


class Database(Executor, Protocol):
    """One service's database."""

    @property
    def shared(self) -> bool:
        """Whether others like this process, each with a relay and workers, may be at work on it at the same time."""

    @property
    def elsewhere(self) -> Callable[[], int] | None:
        """Answers a number that is another one once another process has committed what it called `invalidate` for; it
        sees what a read would see.

        None where no other process writes, or where it cannot be told, as on a `shared` database.
        """

    @property
    def dialect(self) -> Dialect:
        """The dialect that statements are compiled for."""

    def prepare(self, *statements: Statement) -> None:
        """Compile statements now, so that the first request does not pay for it."""

    def transaction(self, *, durable: bool = True, offload: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """Begin; commit at the end of the block, roll back on any exception, cancellation included.

        `durable=False` does not wait for the disk: a power cut may undo the commit (a killed process does not), for
        work that is done again anyway. `offload=True` runs each statement off the event loop, for work on many rows.
        On SQLite writers take turns in the order they asked. Raises RuntimeError when the same task is inside one
        already, TransactionConflict when it met another one, and DatabaseUnavailable, which says so when it is not
        known whether it was committed.
        """

    async def reader(self, key: str) -> Executor:
        """Where to read what may be a little old, but never older than what the principal `key` has written.

        `key` is the name under which `note_write` was told. A replica where there is one and it has come that far.
        """

    async def note_write(self, key: str) -> None:
        """Tell, after a commit and before its caller is answered, that `key` has written. Raises nothing."""

    async def settled(self) -> None:
        """Return when every commit that could be read up to now is durable."""

    async def close(self) -> None:
        """Finish what is running and close. Later calls raise DatabaseUnavailable."""
