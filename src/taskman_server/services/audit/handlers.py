"""The RPCs of the audit log. Every read of it is an event itself (AUDIT-1)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final

from taskman_sdk import codec
from taskman_sdk.proto.taskman.audit.v1.audit_pb import (
    AuditEvent,
    AuditRead,
    AuditTarget,
    GetEventRequest,
    ListEventsRequest,
    ListEventsResponse,
    VerifyEventsRequest,
    VerifyEventsResponse,
)
from taskman_server.kit.paging import page, page_size
from taskman_server.kit.rpc.call import Call, not_found
from taskman_server.kit.rpc.runtime import Runtime
from taskman_server.services.audit.filters import condition
from taskman_server.services.audit.rules import Head, Problem, Record, check_end, check_page, look_for_move
from taskman_server.services.audit.store import POLICY_COLUMNS, AuditStore

__all__ = ["AuditHandlers"]

# So many records are hashed in a thread at a time, some 2 ms, before the loop is looked after again.
WALK_PAGE: Final = 200


class AuditHandlers:
    """Answers the RPCs of `AuditService`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._store = AuditStore(runtime.db)

    async def list_events(self, request: ListEventsRequest, call: Call) -> ListEventsResponse:
        """Records, newest first: what the policies let the caller see, and the filter selects."""
        scope = await call.scope()
        wanted = condition(request.filter, call.now)
        organization = call.principal.organization
        query = {"list": "audit", "organization": organization, "filter": request.filter}
        before = self._before(request.page_token, query)
        size = page_size(request.page_size)
        conditions = [] if wanted is None else [wanted]
        if scope.program is not None:
            conditions.append(scope.program.plan(POLICY_COLUMNS, scope.constants))
        found = [] if scope.denied else await self._store.page(organization, conditions, before, size + 1)
        records, more = page(found, size)
        await self._put_on_record(call, "list", len(records), "audit", request.filter)
        token = self._runtime.pager.encode(query, [records[-1].sequence]) if more else ""
        return ListEventsResponse(events=[_message(record) for record in records], next_page_token=token)

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
        walked, problem = await self._walk(organization, head)
        await self._put_on_record(call, "verify", walked.sequence, "audit")
        return VerifyEventsResponse(
            valid=problem is None,
            verified_count=walked.sequence,
            head=head.hash if head.sequence else "",
            first_invalid_sequence=problem.sequence if problem else 0,
            problem=problem.text if problem else "",
        )

    async def _walk(self, organization: str, head: Head) -> tuple[Head, Problem | None]:
        walked = Head()
        while walked.sequence < head.sequence:
            # Not past the head: what is appended meanwhile is for the next walk.
            limit = min(WALK_PAGE, head.sequence - walked.sequence)
            records = await self._store.walk(organization, walked.sequence, limit)
            records = [record for record in records if record.sequence <= head.sequence]
            if not records:
                break
            walked, problem = await asyncio.to_thread(check_page, walked, records)
            if problem is not None:
                return walked, await asyncio.to_thread(look_for_move, problem, head.sequence)
        return walked, check_end(walked, head, await self._store.beyond(organization))

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
