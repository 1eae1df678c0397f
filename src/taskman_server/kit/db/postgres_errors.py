"""PostgreSQL's errors as the kit's, without any value of a row."""

from __future__ import annotations

import re

import asyncpg  # type: ignore[import-untyped]

from taskman_server.kit.db.errors import (
    ConstraintViolation,
    DatabaseError,
    DatabaseUnavailable,
    NoConnectionLeft,
    StatementTimeout,
    TextRefused,
    TransactionConflict,
    UniqueViolation,
)

__all__ = ["FAILURES", "cannot_connect", "describe", "is_lost", "translate"]

FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,  # a TimeoutError is one since Python 3.11
    ValueError,
    TypeError,
    OverflowError,
)
"""What a call of the driver raises."""

_KINDS = {"23503": "foreign_key", "23502": "not_null", "23514": "check", "23P01": "exclusion"}
_CONFLICTS = ("40001", "40P01")
_NUL = ("22021", "22P05")  # in a text, and in the text of a JSON value
_LOST = ("57P01", "57P02", "57P03", "57P05", "25P03", "25P04")
_UNAVAILABLE = {
    "53100": "cannot grow: the server's disk is full. Free some space",
    "53200": "needs more memory than the server has",
    "53300": "takes no more connections: raise max_connections, or lower the pool sizes",
    "53400": "has reached a limit of its server's configuration",
    "55P03": "waited too long for a lock that another transaction holds",
    "25006": "is read-only: it is a standby, or was made one by a fail-over",
    "57P03": "is starting up or shutting down",
    "57P04": "was dropped while it was in use",
    "58030": "cannot be read or written: the server's disk reports an error",
    "XX001": "is damaged: stop the server and restore it from a backup",
    "XX002": "is damaged: rebuild its indexes, or restore it from a backup",
}
_LOGIN = {
    "28P01": "refuses the user or the password: check the database URL",
    "28000": "refuses the user: check the database URL and the server's pg_hba.conf",
    "42501": "refuses the user: it may not connect to this database",
}
_SCHEMA = ("42", "3F")  # classes whose texts name parts of the schema or of the statement
_COLUMN = re.compile(r'"?([\w$]+)"?')


def is_lost(error: BaseException) -> bool:
    """Whether the error means that the connection is gone or of no use any more, whatever the statement was."""
    if isinstance(error, asyncpg.PostgresError):
        return _state(error) in _LOST or _state(error)[:2] == "08" or _state(error) == "25006"
    if isinstance(error, asyncpg.InterfaceError):
        return "closed" in str(error) and not isinstance(error, ValueError)
    return isinstance(error, OSError | asyncpg.InternalClientError) and not isinstance(
        error, asyncpg.OutdatedSchemaCacheError
    )


def translate(error: BaseException, name: str) -> DatabaseError:
    """The kit's error for what asyncpg or a type conversion raised on the database called `name`."""
    if isinstance(error, asyncpg.InvalidCachedStatementError | asyncpg.OutdatedSchemaCacheError):
        return TransactionConflict(f"the schema of {name} changed while a transaction was running: run it again")
    if isinstance(error, TimeoutError):
        return DatabaseUnavailable(f"database {name} did not answer in time")
    if isinstance(error, asyncpg.PostgresError):
        return _of_server(error, name)
    if isinstance(error, OSError | asyncpg.InternalClientError) or is_lost(error):
        return DatabaseUnavailable(f"database {name}: the connection was lost")
    if isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError):
        return DatabaseError(f"a statement on {name} failed: the driver refused it")
    return DatabaseError(f"a value given to {name} cannot be stored: {type(error).__name__}")


def cannot_connect(error: BaseException, name: str, database: str, address: str) -> DatabaseUnavailable:
    """The error for a connection that could not be made; `database` is its name on the server."""
    state = _state(error)
    if state == "3D000":
        return DatabaseUnavailable(
            f"database {name}: there is no database {database!r} on {address}. Create it"
            f' (CREATE DATABASE "{database}"), or correct the database URL'
        )
    if state in _LOGIN:
        return DatabaseUnavailable(f"database {name} on {address} {_LOGIN[state]}")
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return DatabaseUnavailable(f"database {name}: no server of {address} takes writes at present")
    if isinstance(error, TimeoutError):
        return DatabaseUnavailable(f"database {name} on {address} did not answer in time")
    if state:
        text = _UNAVAILABLE.get(state) or f"refuses the connection ({describe(error)})"
        kind = NoConnectionLeft if state == "53300" else DatabaseUnavailable
        return kind(f"database {name} on {address} {text}")
    if isinstance(error, OSError):
        why = f": {error.strerror}" if error.strerror and "\n" not in error.strerror else ""
        return DatabaseUnavailable(f"database {name} cannot be reached on {address}{why}")
    if isinstance(error, ValueError):
        return DatabaseUnavailable(f"database {name}: the database URL is wrong. It is postgresql://user:pw@host/name")
    return DatabaseUnavailable(f"database {name} cannot be reached on {address}")


def describe(error: BaseException) -> str:
    """What the server said, in one line and without what it quotes from rows and parameters."""
    state = _state(error)
    if state[:2] in _SCHEMA and error.args:
        return str(error.args[0])
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
    return f"{words.removesuffix(' error')} {state}".strip()


def _of_server(error: asyncpg.PostgresError, name: str) -> DatabaseError:
    state = _state(error)
    if state[:2] == "23":
        return _constraint(error, state)
    if state in _CONFLICTS:
        return TransactionConflict(f"a transaction on {name} met another one: nothing was committed, run it again")
    if state == "57014":
        return StatementTimeout(f"a statement on {name} ran longer than it may and was stopped")
    if state == "25P03":
        return DatabaseUnavailable(f"database {name}: a transaction was idle for longer than it may, and was ended")
    if state in _UNAVAILABLE:
        return DatabaseUnavailable(f"database {name} {_UNAVAILABLE[state]}")
    if state[:2] == "08" or state in _LOST:
        # The driver wraps what the server said before it hung up.
        cause = error.__cause__
        if isinstance(cause, asyncpg.PostgresError) and _state(cause)[:2] != "08":
            return _of_server(cause, name)
        return DatabaseUnavailable(f"database {name}: the connection was lost")
    if state[:2] in ("53", "58"):
        return DatabaseUnavailable(f"database {name} cannot work: {describe(error)}")
    if state == "42501":
        return DatabaseError(f"{describe(error)} in {name}: grant it to the server's user, or make that user the owner")
    if state[:2] in _SCHEMA:
        return DatabaseError(f"a statement on {name} is wrong: {describe(error)}")
    if state in _NUL:
        return TextRefused(f"a text given to {name} holds a NUL character")
    if state[:2] == "22":
        return DatabaseError(f"a value given to {name} cannot be stored or computed: {describe(error)}")
    return DatabaseError(f"a statement on {name} failed: {describe(error)}")


def _constraint(error: asyncpg.PostgresError, state: str) -> ConstraintViolation:
    table, constraint = error.table_name, error.constraint_name
    if state == "23505":
        return UniqueViolation(table=table, columns=_key(error.detail), constraint=constraint)
    columns = [error.column_name] if error.column_name else []
    return ConstraintViolation(_KINDS.get(state, "other"), table=table, columns=columns, constraint=constraint)


def _key(detail: str | None) -> list[str]:
    """The columns in `Key (a, b)=(1, 2) already exists.`, in any language of the server; none for an expression."""
    before, found, _ = (detail or "").partition(")=(")
    names = [_COLUMN.fullmatch(each) for each in before.partition("(")[2].split(", ")] if found else []
    return [match[1] for match in names if match] if all(names) else []


def _state(error: BaseException) -> str:
    return str(getattr(error, "sqlstate", "") or "")
