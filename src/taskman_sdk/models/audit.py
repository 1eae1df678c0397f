# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""Models of the area `audit`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from taskman_sdk.models._base import Model

__all__ = [
    "AuditEvent",
    "AuditTarget",
    "ListEventsResponse",
    "MetricBucket",
    "MetricGroup",
    "QueryMetricsResponse",
    "VerifyEventsResponse",
]


class AuditTarget(Model):
    """What an event was about.

    Attributes:
        type: For example `task`.
        id: For example `task_…`.
    """

    type: str = Field(default="", description="For example `task`.")
    id: str = Field(default="", description="For example `task_…`.")


class AuditEvent(Model):
    """One record. Records are never changed.

    Attributes:
        id: The id of the event, `event_…`.
        type: The name of the event, for example `task.created`.
        actor: Who did it: `user_…`, a service, or `anonymous`.
        target: What it was done to.
        result: `success`, `failure` or `denied`.
        time: When it happened.
        request_id: The request that caused it.
        source: The service that emitted it, for example `tasks`.
        ip_address: The caller's address, where known.
        data: The payload of the event: before and after, changed fields.
        sequence: The place in the chain of the organization, from 1.
        hash: SHA-256 over the record before and this record, hexadecimal.
    """

    id: str = Field(default="", description="The id of the event, `event_…`.")
    type: str = Field(default="", description="The name of the event, for example `task.created`.")
    actor: str = Field(default="", description="Who did it: `user_…`, a service, or `anonymous`.")
    target: AuditTarget | None = Field(default=None, description="What it was done to.")
    result: str = Field(default="", description="`success`, `failure` or `denied`.")
    time: datetime | None = Field(default=None, description="When it happened.")
    request_id: str = Field(default="", description="The request that caused it.")
    source: str = Field(default="", description="The service that emitted it, for example `tasks`.")
    ip_address: str = Field(default="", description="The caller's address, where known.")
    data: dict[str, Any] = Field(
        default_factory=dict, description="The payload of the event: before and after, changed fields."
    )
    sequence: int = Field(default=0, description="The place in the chain of the organization, from 1.")
    hash: str = Field(default="", description="SHA-256 over the record before and this record, hexadecimal.")


class ListEventsResponse(Model):
    """A page of records.

    Attributes:
        events: The records, newest first.
        next_page_token: Empty on the last page.
    """

    events: list[AuditEvent] = Field(default_factory=list, description="The records, newest first.")
    next_page_token: str = Field(default="", description="Empty on the last page.")


class MetricGroup(Model):
    """A part of a bucket.

    Attributes:
        key: The type, actor or result that is counted; empty for all that `other` stands for.
        count: How many records.
        rate: `count` for each second of the bucket.
        other: Everything beyond the 50 keys that have most records in the range.
    """

    key: str = Field(
        default="", description="The type, actor or result that is counted; empty for all that `other` stands for."
    )
    count: int = Field(default=0, description="How many records.")
    rate: float = Field(default=0.0, description="`count` for each second of the bucket.")
    other: bool = Field(default=False, description="Everything beyond the 50 keys that have most records in the range.")


class MetricBucket(Model):
    """What happened in a span of time.

    Attributes:
        start_time: Its begin.
        end_time: Its end, itself not in it.
        count: How many records.
        rate: `count` for each second of the bucket.
        groups: The same for each group that has a record in the bucket, by key; none without `group_by`.
    """

    start_time: datetime | None = Field(default=None, description="Its begin.")
    end_time: datetime | None = Field(default=None, description="Its end, itself not in it.")
    count: int = Field(default=0, description="How many records.")
    rate: float = Field(default=0.0, description="`count` for each second of the bucket.")
    groups: list[MetricGroup] = Field(
        default_factory=list,
        description="The same for each group that has a record in the bucket, by key; none without `group_by`.",
    )


class QueryMetricsResponse(Model):
    """The counts.

    Attributes:
        buckets: All buckets of the range, oldest first, those without a record too.
        count: How many records were counted in all.
    """

    buckets: list[MetricBucket] = Field(
        default_factory=list, description="All buckets of the range, oldest first, those without a record too."
    )
    count: int = Field(default=0, description="How many records were counted in all.")


class VerifyEventsResponse(Model):
    """What the walk found.

    Attributes:
        valid: True when every record is where and as it was written.
        verified_count: How many records were walked; without those that were removed.
        head: The hash of the newest record, to keep elsewhere.
        first_invalid_sequence: The sequence of the first bad record; 0 when valid.
        problem: What is wrong with it, in words.
        expired_count: How many records of the chain are no longer kept, as records of type `audit.expired` say
            (AUDIT-6).
    """

    valid: bool = Field(default=False, description="True when every record is where and as it was written.")
    verified_count: int = Field(default=0, description="How many records were walked; without those that were removed.")
    head: str = Field(default="", description="The hash of the newest record, to keep elsewhere.")
    first_invalid_sequence: int = Field(default=0, description="The sequence of the first bad record; 0 when valid.")
    problem: str = Field(default="", description="What is wrong with it, in words.")
    expired_count: int = Field(
        default=0,
        description="How many records of the chain are no longer kept, as records of type `audit.expired` say "
        "(AUDIT-6).",
    )
