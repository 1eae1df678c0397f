"""Column types that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Dialect, Integer, Text, TypeDecorator
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.types import TypeEngine

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

BigSerial = BigInteger().with_variant(Integer(), "sqlite")
"""A primary key that counts upwards: SQLite only counts by itself in a column declared INTEGER."""


def to_micros(value: datetime) -> int:
    """Microseconds since 1970. Raises ValueError when `value` has no time zone."""
    if value.tzinfo is None:
        raise ValueError("a time to store needs a time zone: use an aware datetime, for example in UTC")
    return (value - _EPOCH) // _MICROSECOND


def from_micros(value: int) -> datetime:
    """The UTC time of so many microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=value)


class UtcTimestamp(TypeDecorator[datetime]):
    """A point in time, aware and UTC. BIGINT microseconds on SQLite, TIMESTAMP WITH TIME ZONE on PostgreSQL."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column type of the dialect."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TIMESTAMP(timezone=True))
        return dialect.type_descriptor(BigInteger())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Python to database."""
        if value is None:
            return None
        if not isinstance(value, datetime):
            raise TypeError(f"a time column takes a datetime, not {type(value).__name__}")
        micros = to_micros(value)
        return value if dialect.name == "postgresql" else micros

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Database to Python."""
        if value is None:
            return None
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        return _EPOCH + timedelta(microseconds=value)


def _dump(value: Any) -> str | None:
    if value is None:
        return None
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _load(value: str | bytes | None) -> Any:
    return None if value is None else json.loads(value)


class JsonText(TypeDecorator[Any]):
    """A JSON value; None is SQL NULL. TEXT on SQLite (a column declared JSON would turn "12" into a number), JSONB on
    PostgreSQL, where the driver passes text both ways."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column type of the dialect."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(JSONB(none_as_null=True))
        return dialect.type_descriptor(Text())

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any]:
        """Python to database."""
        return _dump

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        """Database to Python."""
        return _load
