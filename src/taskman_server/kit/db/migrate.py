"""Bring a service's schema to a revision, at start and in tests.

A service's folder `migrations/` holds only `versions/*.py`, in one line of revisions for all databases. Whether
anything is to do is one query; Alembic is imported only when it is.

During a rolling upgrade, and after a step back, the previous release's code works on a newer schema (OPS-7). A revision
that it can work on says so: `survives = "0004"` names the oldest revision whose code does. The database keeps that name
beside its revision, so that code which does not know the revision knows whether it may start.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from taskman_server.kit.db.errors import DatabaseError, DatabaseUnavailable

__all__ = ["MigrationError", "current", "database_name", "downgrade", "head", "survivor_of", "upgrade"]

_ASSIGNMENT = re.compile(
    r"^(revision|down_revision|survives)\s*(?::[^=]+)?=\s*(?:[\"'](?P<value>[^\"']+)[\"']|None)\s*(?:#.*)?$",
    re.MULTILINE,
)


class MigrationError(DatabaseError):
    """The schema cannot be brought to the revision asked for; it is as it was before."""


def upgrade(database: str | os.PathLike[str], migrations: str | os.PathLike[str], to: str = "head") -> bool:
    """Migrate forward to `to`; whether anything was done. A newer schema that this release's code survives stays.

    All steps are one transaction. Processes that start at once take turns. Raises MigrationError when a step fails, or
    the database was made by a newer release; DatabaseUnavailable. It blocks: call it in a thread.

    Args:
        database: a path, a URL `sqlite:///path`, or one of PostgreSQL, whose database must be there.
        migrations: the folder that holds `versions/`.
        to: a revision, or `head`.
    """
    revisions = _revisions(migrations)
    target = _head(revisions, migrations) if to == "head" else to
    _check_known(target, revisions, migrations)
    at = current(database)
    if at == target:
        return False
    if at is not None and at not in revisions and _survivor(database) in revisions:
        return False
    _check_known(at, revisions, migrations, database_name(database))
    return _run(database, migrations, target, forward=True)


def downgrade(database: str | os.PathLike[str], migrations: str | os.PathLike[str], to: str) -> bool:
    """Migrate back to revision `to`, or to nothing with `base`; whether anything was done. Raises as `upgrade` does."""
    revisions = _revisions(migrations)
    if to != "base":
        _check_known(to, revisions, migrations)
    at = current(database)
    if at == (None if to == "base" else to):
        return False
    _check_known(at, revisions, migrations, database_name(database))
    return _run(database, migrations, to, forward=False)


def current(database: str | os.PathLike[str]) -> str | None:
    """The revision a database is at; None when nothing was migrated or there is no file.

    Raises DatabaseUnavailable; for PostgreSQL also when the database is not there, with what to do about it.
    """
    if (url := _postgres_url(database)) is not None:
        from taskman_server.kit.db import postgres_migrate

        return postgres_migrate.current(url)
    path = sqlite_path(database)
    if not path.exists() or path.stat().st_size == 0:
        return None
    try:
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise DatabaseUnavailable(f"database {path.name} cannot be opened: {error}") from None
    except sqlite3.DatabaseError as error:
        raise DatabaseUnavailable(f"database {path.name} cannot be read: {error}") from None
    return None if row is None else str(row[0])


def survivor_of(migrations: str | os.PathLike[str], revision: str) -> str:
    """The oldest revision whose code works on the schema of `revision`: itself, unless it says otherwise."""
    for values in _files(migrations):
        if values.get("revision") == revision:
            return values.get("survives") or revision
    return revision


def _survivor(database: str | os.PathLike[str]) -> str | None:
    """The oldest revision whose code works on the database as it is; None when nobody said."""
    if (url := _postgres_url(database)) is not None:
        from taskman_server.kit.db import postgres_migrate

        return postgres_migrate.survivor(url)
    path = sqlite_path(database)
    try:
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            (number,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as error:
        raise DatabaseUnavailable(f"database {path.name} cannot be read: {error}") from None
    return f"{number:04}" if number else None


def head(migrations: str | os.PathLike[str]) -> str:
    """The newest revision in a folder of migrations. Raises MigrationError when there is none, or two lines."""
    return _head(_revisions(migrations), migrations)


def sqlite_path(database: str | os.PathLike[str]) -> Path:
    """The file a path or URL means. Raises MigrationError for the URL of another kind of database."""
    text = os.fspath(database)
    if "://" not in text:
        return Path(text)
    scheme, _, rest = text.partition("://")
    if scheme != "sqlite" or not rest.startswith("/"):
        raise MigrationError(
            f"cannot migrate a database of kind {scheme!r}: use a path, sqlite:/// and a path, or a URL postgresql://"
        )
    return Path(rest[1:])


def database_name(database: str | os.PathLike[str]) -> str:
    """What a database is called in messages: the file's name, or the name on the server. Never a password."""
    url = _postgres_url(database)
    return sqlite_path(database).name if url is None else urlsplit(url).path.lstrip("/") or "postgresql"


def _postgres_url(database: str | os.PathLike[str]) -> str | None:
    text = os.fspath(database)
    return text if text.startswith(("postgresql://", "postgres://")) else None


def _revisions(migrations: str | os.PathLike[str]) -> dict[str, str | None]:
    """Each revision and the one before it, read from the files without running them."""
    return {values["revision"] or "": values.get("down_revision") for values in _files(migrations)}


def _files(migrations: str | os.PathLike[str]) -> Iterator[dict[str, str | None]]:
    for file in sorted(Path(migrations, "versions").glob("*.py")):
        values = {match[1]: match["value"] for match in _ASSIGNMENT.finditer(file.read_text(encoding="utf-8"))}
        if values.get("revision") is not None:
            yield values
        elif file.name != "__init__.py":
            raise MigrationError(f'{file.name} names no revision: it needs the lines revision = "…" and down_revision')


def _head(revisions: dict[str, str | None], migrations: str | os.PathLike[str]) -> str:
    heads = revisions.keys() - {before for before in revisions.values() if before is not None}
    if len(heads) != 1:
        known = ", ".join(sorted(heads)) or "none"
        raise MigrationError(f"{migrations}: expected one newest revision, found {known}")
    return heads.pop()


def _check_known(
    revision: str | None,
    revisions: dict[str, str | None],
    migrations: str | os.PathLike[str],
    name: str | None = None,
) -> None:
    if revision is None or revision in revisions:
        return
    if name is None:
        raise MigrationError(f"{migrations} has no revision {revision}; known are {', '.join(sorted(revisions))}")
    raise MigrationError(
        f"database {name} is at revision {revision}, which this release does not know: it was made by a newer"
        " release. Start that one, or restore a backup from before the upgrade"
    )


def _run(database: str | os.PathLike[str], migrations: str | os.PathLike[str], to: str, *, forward: bool) -> bool:
    if (url := _postgres_url(database)) is not None:
        from taskman_server.kit.db import postgres_migrate

        return postgres_migrate.run(url, Path(migrations), to, forward=forward)
    path = sqlite_path(database)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise DatabaseUnavailable(f"database {path.name} cannot be opened: {error.strerror}") from None
    from taskman_server.kit.db import alembic_env  # Alembic takes 0.2 s to import

    return alembic_env.run(path, Path(migrations), to, forward=forward)
