"""Counts over time: which buckets a question means, and the statement that counts on either database (AUDIT-5)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from taskman_sdk.errors import FieldViolation, InvalidArgumentError
from taskman_server.kit.db import Executor, UtcTimestamp, from_micros, to_micros
from taskman_server.services.audit.store import RECORDS

__all__ = ["GROUPS", "MAX_BUCKETS", "Range", "count", "range_of"]

MAX_BUCKETS: Final = 1000
GROUPS: Final = 50
"""So many keys are counted apart, those with most records; the others together."""
_DEFAULT: Final = timedelta(hours=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _BucketBegin(FunctionElement[datetime]):
    """The begin of the bucket of so many seconds that a time is in, counted from 1970."""

    type = UtcTimestamp()
    inherit_cache = True
    name = "bucket_begin"


@compiles(_BucketBegin, "sqlite")
def _of_sqlite(element: _BucketBegin, compiler: Any, **kw: Any) -> str:
    time, seconds = (compiler.process(each, **kw) for each in element.clauses)
    return f"({time} - {time} % ({seconds} * 1000000))"


@compiles(_BucketBegin, "postgresql")
def _of_postgresql(element: _BucketBegin, compiler: Any, **kw: Any) -> str:
    time, seconds = (compiler.process(each, **kw) for each in element.clauses)
    return f"date_bin({seconds} * interval '1 second', {time}, timestamptz '1970-01-01 00:00:00+00')"


@dataclass(frozen=True, slots=True)
class Range:
    """From `since` to before `until`, in buckets of `width` that begin at whole multiples of it since 1970."""

    since: datetime
    until: datetime
    width: timedelta

    def begin(self, time: datetime) -> datetime:
        """The begin of the bucket that a time is in."""
        return from_micros(to_micros(time) // self._micros * self._micros)

    @property
    def _micros(self) -> int:
        return self.width // timedelta(microseconds=1)

    @property
    def buckets(self) -> int:
        """How many there are."""
        return -((self.begin(self.since) - self.until) // self.width)

    def spans(self) -> list[tuple[datetime, datetime, datetime]]:
        """Of each bucket its begin as the database counts, and what of it lies in the range."""
        first = self.begin(self.since)
        begins = [first + number * self.width for number in range(self.buckets)]
        return [(begin, max(begin, self.since), min(begin + self.width, self.until)) for begin in begins]


def range_of(since: datetime | None, until: datetime | None, seconds: int, now: datetime) -> Range:
    """What is asked: the last day in hours unless said otherwise.

    Raises:
        InvalidArgumentError: the range is empty, begins before 1970, or has too many buckets.
    """
    until = until or now
    since = since or until - timedelta(days=1)
    if since < _EPOCH:
        raise _wrong("start_time", "must not be before 1970", "RANGE_INVALID")
    if since >= until:
        raise _wrong("end_time", "must be after start_time", "RANGE_INVALID")
    asked = Range(since, until, timedelta(seconds=seconds) if seconds else _DEFAULT)
    if asked.buckets > MAX_BUCKETS:
        least = -((since - until) // timedelta(seconds=MAX_BUCKETS - 1))
        raise _wrong(
            "bucket_seconds",
            f"makes {asked.buckets} buckets of this range, {MAX_BUCKETS} at most are counted: "
            f"use {max(60, least)} or more, or a shorter range",
            "TOO_MANY_BUCKETS",
        )
    return asked


def _wrong(field: str, problem: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{field}: {problem}.", reason=reason, field_violations=[FieldViolation(field, problem, reason.lower())]
    )


async def count(
    reader: Executor,
    organization: str,
    conditions: Sequence[sa.ColumnElement[bool]],
    asked: Range,
    group_by: str,
) -> Mapping[datetime, Sequence[tuple[str | None, int]]]:
    """The counts of each bucket that has a record, by its begin; each with its key, greatest first.

    The key is empty without `group_by`, and None for all keys beyond the `GROUPS` greatest of the range.
    """
    conditions = [
        RECORDS.c.organization == organization,
        RECORDS.c.time >= asked.since,
        RECORDS.c.time < asked.until,
        *conditions,
    ]
    key: sa.ColumnElement[Any] = RECORDS.c[group_by] if group_by else sa.literal("", sa.Text)
    if group_by:
        n = sa.func.count().label("n")
        top = sa.select(key.label("key"), n).where(*conditions).group_by(key).order_by(n.desc(), key).limit(GROUPS + 1)
        keys: Collection[str] = [row.key for row in await reader.fetch_all(top)]
        if len(keys) > GROUPS:
            key = sa.case((key.in_(list(keys)[:GROUPS]), key), else_=sa.null())
    width = sa.cast(sa.literal(int(asked.width.total_seconds())), sa.BigInteger)
    part = sa.select(_BucketBegin(RECORDS.c.time, width).label("begin"), key.label("key")).where(*conditions).subquery()
    number = sa.func.count().label("n")
    rows = await reader.fetch_all(
        sa.select(part.c.begin, part.c.key, number).group_by(part.c.begin, part.c.key).order_by(part.c.begin)
    )
    found: dict[datetime, list[tuple[str | None, int]]] = {}
    for row in rows:
        found.setdefault(row.begin, []).append((row.key, row.n))
    for counts in found.values():
        counts.sort(key=lambda each: (each[0] is None, -each[1], each[0] or ""))
    return found
