"""The RPCs of the audit log. Every read of it is an event itself (AUDIT-1)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from taskman_sdk import codec
from taskman_sdk.proto.taskman.audit.v1.audit_pb import (
    AuditEvent,
    AuditRead,
    AuditTarget,
    GetEventRequest,
    ListEventsRequest,
    ListEventsResponse,
    MetricBucket,
    MetricGroup,
    QueryMetricsRequest,
    QueryMetricsResponse,
    VerifyEventsRequest,
    VerifyEventsResponse,
)
from taskman_server.kit.paging import page, page_size
from taskman_server.kit.rpc.call import Call, not_found
from taskman_server.kit.rpc.runtime import Runtime
from taskman_server.services.audit.filters import condition
from taskman_server.services.audit.metrics import count, range_of
from taskman_server.services.audit.retention import following
from taskman_server.services.audit.rules import Head, Problem, Record, check_end, check_page, look_for_move
from taskman_server.services.audit.store import POLICY_COLUMNS
from taskman_server.services.audit.stores import store_of

__all__ = ["AuditHandlers"]

# So many records are hashed in a thread at a time, some 2 ms, before the loop is looked after again.
WALK_PAGE: Final = 200


class AuditHandlers:
    """Answers the RPCs of `AuditService`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._store = store_of(runtime.db)

    async def list_events(self, request: ListEventsRequest, call: Call) -> ListEventsResponse:
        """Records, newest first: what the policies let the caller see, and the filter selects."""
        conditions = await self._conditions(request.filter, call)
        organization = call.principal.organization
        query = {"list": "audit", "organization": organization, "filter": request.filter}
        before = self._before(request.page_token, query)
        size = page_size(request.page_size)
        found: list[Record] = []
        if conditions is not None:
            reader = await self._runtime.db.reader(call.principal.id)
            found = await self._store.page(reader, organization, conditions, before, size + 1)
        records, more = page(found, size)
        await self._put_on_record(call, "list", len(records), "audit", request.filter)
        token = self._runtime.pager.encode(query, [records[-1].sequence]) if more else ""
        return ListEventsResponse(events=[_message(record) for record in records], next_page_token=token)

    async def query_metrics(self, request: QueryMetricsRequest, call: Call) -> QueryMetricsResponse:
        """Counts over time of what the policies let the caller see, and the filter selects."""
        conditions = await self._conditions(request.filter, call)
        since, until = (each.to_datetime() if each else None for each in (request.start_time, request.end_time))
        asked = range_of(since, until, request.bucket_seconds, call.now)
        counts: Mapping[datetime, Sequence[tuple[str | None, int]]] = {}
        if conditions is not None:
            reader = await self._runtime.db.reader(call.principal.id)
            counts = await count(reader, call.principal.organization, conditions, asked, request.group_by)
        buckets: list[MetricBucket] = []
        for place, begin, end in asked.spans():
            found, seconds = counts.get(place, ()), (end - begin).total_seconds()
            number = sum(n for _, n in found)
            groups = [
                MetricGroup(key=key or "", count=n, rate=n / seconds, other=key is None)
                for key, n in (found if request.group_by else ())
            ]
            buckets.append(
                MetricBucket(
                    start_time=codec.Timestamp.from_datetime(begin),
                    end_time=codec.Timestamp.from_datetime(end),
                    count=number,
                    rate=number / seconds,
                    groups=groups,
                )
            )
        total = sum(bucket.count for bucket in buckets)
        await self._put_on_record(call, "metrics", total, "audit", request.filter)
        return QueryMetricsResponse(buckets=buckets, count=total)

    async def get_event(self, request: GetEventRequest, call: Call) -> AuditEvent:
        """One record."""
        record = await self._store.get(call.principal.organization, request.event)
        missing = not_found("event", request.event)
        if record is None:
            await call.scope()
            raise missing
        resource = {
            "id": record.id,
            "type": record.type,
            "actor": record.actor,
            "target_id": record.target_id,
        }
        await call.authorize(resource, hidden=missing, read_permission="audit.read")
        await self._put_on_record(call, "get", 1, record.id)
        return _message(record)

    async def verify_events(self, request: VerifyEventsRequest, call: Call) -> VerifyEventsResponse:
        """Walks the whole chain of the organization, page by page; the hashing is done in a thread."""
        await call.authorize({"id": "", "type": "", "actor": "", "target_id": ""})
        organization = call.principal.organization
        head = await self._store.head(organization)
        walked, kept, problem = await self._walk(organization, head)
        await self._put_on_record(call, "verify", kept, "audit")
        return VerifyEventsResponse(
            valid=problem is None,
            verified_count=kept,
            head=head.hash if head.sequence else "",
            first_invalid_sequence=problem.sequence if problem else 0,
            problem=problem.text if problem else "",
            expired_count=walked.sequence - kept,
        )

    async def _walk(self, organization: str, head: Head) -> tuple[Head, int, Problem | None]:
        """How far the chain is good, how many records there are up to there, and what is wrong then."""
        store, walked, kept = self._store, Head(), 0
        removed = following(await store.removed(organization))
        while walked.sequence < head.sequence:
            at = walked
            records = _until(head, await store.walk(organization, at.sequence, WALK_PAGE))
            walked, problem = await asyncio.to_thread(check_page, at, records, removed)
            if problem is not None or not records:
                # Look again before saying so: at all there is, and at what may have been removed meanwhile.
                removed = following(await store.removed(organization))
                records = _until(head, await store.whole_walk(organization, at.sequence, WALK_PAGE))
                walked, problem = await asyncio.to_thread(check_page, at, records, removed)
            kept += sum(record.sequence <= walked.sequence for record in records)
            if problem is not None:
                return walked, kept, await asyncio.to_thread(look_for_move, problem, head.sequence)
            if not records:
                break
        return walked, kept, check_end(walked, head, await store.beyond(organization))

    async def _conditions(self, filter: str, call: Call) -> list[sa.ColumnElement[bool]] | None:
        """What the filter selects and the policies let the caller see; None for nothing."""
        scope = await call.scope()
        wanted = condition(filter, call.now)
        conditions = [] if wanted is None else [wanted]
        if scope.program is not None:
            conditions.append(scope.program.plan(POLICY_COLUMNS, scope.constants))
        return None if scope.denied else conditions

    def _before(self, token: str, query: Mapping[str, Any]) -> int | None:
        if not token:
            return None
        (sequence,) = self._runtime.pager.decode(token, query)
        assert isinstance(sequence, int)
        return sequence

    async def _put_on_record(self, call: Call, operation: str, count: int, subject: str, text: str = "") -> None:
        tx = await call.begin()
        payload = AuditRead(operation=operation, filter=text, count=min(count, 2**31 - 1))
        await call.emit(tx, "audit.read", payload, subject=subject)


def _until(head: Head, records: Sequence[Record]) -> list[Record]:
    # Not past the head: what is appended meanwhile is for the next walk.
    return [record for record in records if record.sequence <= head.sequence]


def _message(record: Record) -> AuditEvent:
    return AuditEvent(
        id=record.id,
        type=record.type,
        actor=record.actor,
        target=AuditTarget(type=record.target_type, id=record.target_id),
        result=record.result,
        time=codec.Timestamp.from_datetime(record.time),
        request_id=record.request_id,
        source=record.source,
        ip_address=record.ip_address,
        data=codec.from_value(codec.Struct, json.loads(record.data)),
        sequence=record.sequence,
        hash=record.hash,
    )
