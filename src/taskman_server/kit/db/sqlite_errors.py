"""SQLite's errors as the kit's, without any value of a row."""

from __future__ import annotations

import re

import apsw

from taskman_server.kit.db.errors import (
    ConstraintViolation,
    DatabaseError,
    DatabaseUnavailable,
    StatementTimeout,
    UniqueViolation,
)

_UNIQUE = (
    apsw.SQLITE_CONSTRAINT_UNIQUE,
    apsw.SQLITE_CONSTRAINT_PRIMARYKEY,
    apsw.SQLITE_CONSTRAINT_ROWID,
)
_KINDS = {
    apsw.SQLITE_CONSTRAINT_FOREIGNKEY: "foreign_key",
    apsw.SQLITE_CONSTRAINT_NOTNULL: "not_null",
    apsw.SQLITE_CONSTRAINT_CHECK: "check",
}
_UNAVAILABLE: dict[type[apsw.Error], str] = {
    apsw.BusyError: "is locked by another process",
    apsw.LockedError: "is locked by another process",
    apsw.FullError: "cannot grow: the disk is full. Free some space",
    apsw.ReadOnlyError: "is read-only: check the owner and the permissions of the file and its folder",
    apsw.PermissionsError: "may not be opened: check the owner and the permissions of the file and its folder",
    apsw.CantOpenError: "cannot be opened: check that its folder exists and may be written to",
    apsw.CorruptError: "is damaged: stop the server and restore it from a backup",
    apsw.NotADBError: "is not a SQLite database, or is damaged: check the path or restore it from a backup",
    apsw.IOError: "cannot be read or written: the disk reports an error",
    apsw.NoMemError: "needs more memory than there is",
    apsw.ConnectionClosedError: "is closed",
}
_QUALIFIED = re.compile(r"(\w+)\.(\w+)")
_SCHEMA = re.compile(r"no such table: \S+$|near \"\w+\": syntax error$|table \w+ has no column named \w+$")
_INDEX = re.compile(r"index '([^']+)'")


def translate(error: Exception, name: str) -> DatabaseError:
    """The kit's error for what apsw or a type conversion raised on the database file `name`."""
    if isinstance(error, apsw.ConstraintError):
        return _constraint(error)
    if isinstance(error, apsw.InterruptError):
        return StatementTimeout(f"a statement on {name} ran longer than it may and was stopped")
    for kind, text in _UNAVAILABLE.items():
        if isinstance(error, kind):
            return DatabaseUnavailable(f"database {name} {text}")
    if isinstance(error, apsw.SQLError):
        # Only texts that name the schema are repeated: full-text search, for one, quotes what was searched for.
        detail = f": {error}" if _SCHEMA.match(str(error)) else ""
        return DatabaseError(f"a statement on {name} is wrong{detail}")
    if isinstance(error, apsw.Error):
        return DatabaseError(f"a statement on {name} failed: {type(error).__name__}")
    return DatabaseError(f"a value given to {name} cannot be stored: {type(error).__name__}")


def _constraint(error: apsw.ConstraintError) -> ConstraintViolation:
    _, _, where = str(error).partition(": ")
    code: int = getattr(error, "extendedresult", 0)
    if code in _UNIQUE:
        index = _INDEX.search(where)
        if index is not None:
            return UniqueViolation(constraint=index[1])
        found = _QUALIFIED.findall(where)
        return UniqueViolation(table=found[0][0] if found else None, columns=[column for _, column in found])
    kind = _KINDS.get(code, "other")
    if kind == "check":
        return ConstraintViolation(kind, constraint=where if re.fullmatch(r"\w+", where) else None)
    found = _QUALIFIED.findall(where) if kind == "not_null" else []
    return ConstraintViolation(kind, table=found[0][0] if found else None, columns=[c for _, c in found])
