"""What a migration needs so that PostgreSQL keeps and orders what it is given as SQLite does."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Dialect
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.types import TypeEngine

from taskman_server.kit.db.types import JsonText

__all__ = ["OrderedJson", "compare_by_code_point"]

_TEXTS = sa.text(
    """
    SELECT CAST(CAST(c.oid AS regclass) AS text) AS "table",
           string_agg(
               format('ALTER COLUMN %I TYPE %s COLLATE "C"', a.attname, format_type(a.atttypid, a.atttypmod)),
               ', ' ORDER BY a.attnum
           ) AS changes
    FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid
    JOIN pg_collation l ON l.oid = a.attcollation
    WHERE c.relnamespace = CAST(current_schema() AS regnamespace) AND c.relkind IN ('r', 'p')
          AND NOT c.relispartition AND c.relname <> 'alembic_version'
          AND a.attnum > 0 AND NOT a.attisdropped AND l.collname <> 'C'
    GROUP BY c.oid
    """
)


class OrderedJson(JsonText):
    """A JSON value whose keys keep their order: JSON on PostgreSQL, where JSONB would sort them."""

    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column type of the dialect."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(JSON(none_as_null=True))
        return super().load_dialect_impl(dialect)


def compare_by_code_point(op: Any) -> None:
    """Have every text of the schema compared and sorted by code point, whatever the collation of the database is.

    The last step of a migration that makes tables: `compare_by_code_point(op)` with Alembic's `op`. Orders, and with
    them page tokens, are then the same on both databases; SQLite compares so by itself.
    """
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    for table, changes in connection.execute(_TEXTS).all():
        connection.exec_driver_sql(f"ALTER TABLE {table} {changes}")
