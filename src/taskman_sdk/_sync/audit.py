# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""What one does with audit, sync."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from taskman_sdk._sync._base import Resource
from taskman_sdk.models.audit import AuditEvent, ListEventsResponse, QueryMetricsResponse, VerifyEventsResponse
from taskman_sdk.resources._base import NOT_GIVEN, NotGiven
from taskman_sdk.resources._pages import Pager
from taskman_sdk.resources.audit import AsyncAudit

__all__ = ["Audit"]


class Audit(Resource[AsyncAudit]):
    """`client.audit`: the verbs of `AuditService`."""

    def list(
        self,
        *,
        page_size: int | NotGiven = NOT_GIVEN,
        page_token: str | NotGiven = NOT_GIVEN,
        filter: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Pager[ListEventsResponse, AuditEvent]:
        """Lists records, newest first.

        `GET /v1/audit/events` · `AuditService.ListEvents`. Needs the permission `audit.read`.

        Args:
            page_size: At most this many; 50 when 0, more than 1000 are cut to 1000 (AIP-158).
            page_token: `next_page_token` of the page before.
            filter: A CEL expression over `type`, `actor`, `target_type`, `target_id`, `result`, `time`,
                `request_id`, `source`, for example `type == "task.created" && actor == "user_…"`.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `audit.read` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._pages(
            lambda: self._aio.list(
                page_size=page_size,
                page_token=page_token,
                filter=filter,
                idempotency_key=idempotency_key,
                timeout=timeout,
                extra_headers=extra_headers,
            )
        )

    def get(
        self,
        event: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> AuditEvent:
        """Answers one record.

        `GET /v1/audit/events/{event}` · `AuditService.GetEvent`. Needs the permission `audit.read`.

        Args:
            event: Its id.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `audit.read` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.get(event, idempotency_key=idempotency_key, timeout=timeout, extra_headers=extra_headers)
        )

    def query_metrics(
        self,
        *,
        start_time: datetime | NotGiven | None = NOT_GIVEN,
        end_time: datetime | NotGiven | None = NOT_GIVEN,
        bucket_seconds: int | NotGiven = NOT_GIVEN,
        group_by: Literal["type", "actor", "result"] | str | NotGiven = NOT_GIVEN,
        filter: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> QueryMetricsResponse:
        """Counts records in time buckets: how much of what happened when (AUDIT-5).

        `GET /v1/audit/metrics` · `AuditService.QueryMetrics`. Needs the permission `audit.read`.

        Args:
            start_time: From when on; a day before `end_time` when not given.
            end_time: Until when, itself not counted; now when not given.
            bucket_seconds: The width of a bucket in seconds, 60 at least; 3600 when 0. Buckets begin at whole
                multiples of it since 1970 (UTC), the first with the range. There are 1,000 at most.
            group_by: What is counted apart: `type`, `actor` or `result`; nothing when empty.
            filter: A CEL expression as for `ListEvents`: only what it selects is counted.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `audit.read` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.query_metrics(
                start_time=start_time,
                end_time=end_time,
                bucket_seconds=bucket_seconds,
                group_by=group_by,
                filter=filter,
                idempotency_key=idempotency_key,
                timeout=timeout,
                extra_headers=extra_headers,
            )
        )

    def verify(
        self,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> VerifyEventsResponse:
        """Walks the chain and names the first record that was changed, removed or moved.

        `POST /v1/audit/events:verify` · `AuditService.VerifyEvents`. Needs the permission `audit.verify`.

        Args:
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `audit.verify` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.verify(idempotency_key=idempotency_key, timeout=timeout, extra_headers=extra_headers)
        )
