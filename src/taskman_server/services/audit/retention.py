"""How long what is kept, and how the chain goes on where it is kept no longer (AUDIT-6). Pure.

A record is of a category by its name, and each category has its time. Records whose time is up are removed together
with a record of that, of type `audit.expired`, in one commit: it names the parts of the chain that went (spans), each
with the hash before it and the hash of its last record, so that the chain is followed across the gap. It stands in the
chain itself and is never removed. A gap of which no such record tells is a deletion, and is called one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from taskman_sdk import codec
from taskman_sdk.proto.taskman.audit.v1.audit_pb import AuditExpired, AuditSpan

__all__ = [
    "ACTIVITY", "CATEGORIES", "CATEGORY_SQL", "EXPIRED", "KEPT", "SECURITY", "Category", "Span", "following", "notes",
    "spans_of",
]  # fmt: skip

EXPIRED: Final = "audit.expired"
"""The type of a record that tells of removed ones."""
KEPT: Final = "kept"
"""The category of those records."""
_SPANS: Final = 500

CATEGORY_SQL: Final = (
    f"CASE WHEN type = '{EXPIRED}' THEN '{KEPT}'"
    " WHEN substr(type, 1, 5) = 'auth.' OR substr(type, 1, 4) = 'iam.'"
    " OR substr(type, 1, 6) = 'authz.' OR substr(type, 1, 6) = 'audit.' THEN 'security'"
    " ELSE 'activity' END"
)
"""The category of a record, for both databases: sign-ins, rights, refusals and the reading of the log are `security`,
what people do with tasks, projects and themselves is `activity`. PostgreSQL's partitions are made by this text."""


@dataclass(frozen=True, slots=True)
class Category:
    """Records that are kept equally long; `unit` is what is removed at once, and what a partition holds."""

    name: str
    unit: Literal["day", "month"]

    def begin(self, time: datetime) -> datetime:
        """The begin of the unit that a time is in (UTC)."""
        day = time.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return day if self.unit == "day" else day.replace(day=1)

    def end(self, time: datetime) -> datetime:
        """The end of the unit that a time is in."""
        begin = self.begin(time)
        return begin + timedelta(days=1) if self.unit == "day" else (begin + timedelta(days=31)).replace(day=1)

    def cutoff(self, now: datetime, days: int) -> datetime:
        """What is of a time before this one was kept for so many days, and for the rest of its unit."""
        return self.begin(now - timedelta(days=days))


ACTIVITY: Final = Category("activity", "day")
SECURITY: Final = Category("security", "month")
"""By the month: years of days would be thousands of partitions, more than a query over all of them can lock."""
CATEGORIES: Final = (ACTIVITY, SECURITY)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a chain that was removed: from sequence `first` to `last`, between the hashes `previous` and `hash`."""

    first: int
    last: int
    previous: str
    hash: str


def following(spans: Iterable[Span]) -> Mapping[int, Span]:
    """The spans by their first sequence."""
    return {span.first: span for span in spans}


def notes(category: str, before: datetime, spans: Sequence[Span]) -> Iterator[AuditExpired]:
    """What is written down of removed records, in pieces that are not too long."""
    for start in range(0, len(spans), _SPANS):
        part = spans[start : start + _SPANS]
        yield AuditExpired(
            category=category,
            before=codec.Timestamp.from_datetime(before),
            count=sum(span.last - span.first + 1 for span in part),
            first_sequence=part[0].first,
            last_sequence=part[-1].last,
            spans=[AuditSpan(first=s.first, last=s.last, previous=s.previous, hash=s.hash) for s in part],
        )


def spans_of(data: str) -> list[Span]:
    """The spans that the data of a record of type `audit.expired` names; none where it is not what was written."""
    try:
        note = codec.from_value(AuditExpired, json.loads(data))
    except ValueError:
        return []
    return [Span(each.first, each.last, each.previous, each.hash) for each in note.spans]
