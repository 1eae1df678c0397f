"""What can go wrong in a database, said the same way for every driver. No message holds a value of a row."""

from __future__ import annotations

from collections.abc import Sequence


class DatabaseError(Exception):
    """A statement failed. Base of everything a `Database` raises, bar misuse (TypeError, RuntimeError)."""


class ConstraintViolation(DatabaseError):
    """A constraint refused a row: `kind` is `unique`, `foreign_key`, `not_null` or `check`."""

    def __init__(
        self, kind: str, *, table: str | None = None, columns: Sequence[str] = (), constraint: str | None = None
    ) -> None:
        """Name what is known: SQLite tells the columns of a unique index, PostgreSQL the constraint's name."""
        self.kind = kind
        self.table = table
        self.columns = tuple(columns)
        self.constraint = constraint
        where = constraint or (f"{table} ({', '.join(self.columns)})" if self.columns else table)
        super().__init__(f"{kind.replace('_', ' ')} constraint failed" + (f": {where}" if where else ""))


class UniqueViolation(ConstraintViolation):
    """A row with this key exists already."""

    def __init__(self, *, table: str | None = None, columns: Sequence[str] = (), constraint: str | None = None) -> None:
        """Name what is known of the unique key."""
        super().__init__("unique", table=table, columns=columns, constraint=constraint)


class DatabaseUnavailable(DatabaseError):
    """The database cannot work at present (locked, disk full, read-only, damaged, closed); nothing was committed
    unless the message says that it is not known."""


class NoConnectionLeft(DatabaseUnavailable):
    """The server has given out all its connections, or all that this user may have."""


class TransactionConflict(DatabaseError):
    """Two transactions got into each other's way (deadlock, serialization failure): nothing was committed. Run the
    whole transaction again."""


class TextRefused(DatabaseError):
    """A text holds a NUL character, which PostgreSQL keeps nowhere; nothing was changed."""


class StatementTimeout(DatabaseError):
    """A statement ran longer than it may and was stopped; it changed nothing."""
