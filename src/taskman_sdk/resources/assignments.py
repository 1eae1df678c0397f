# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""What one does with assignment, async."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from taskman_sdk.models.iam import Assignment, DeleteAssignmentResponse, ListAssignmentsResponse
from taskman_sdk.resources._base import NOT_GIVEN, AsyncResource, NotGiven
from taskman_sdk.resources._pages import AsyncPager

__all__ = ["AsyncAssignments"]


class AsyncAssignments(AsyncResource):
    """`client.assignments`: the verbs of `IamAdminService`."""

    async def create(
        self,
        *,
        principal: str | NotGiven = NOT_GIVEN,
        role: str | NotGiven = NOT_GIVEN,
        expire_time: datetime | NotGiven | None = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Assignment:
        """Gives a role to a principal.

        `POST /v1/assignments` · `IamAdminService.CreateAssignment`. Needs the permission `assignments.create`.

        Args:
            principal: Who: `user_…`.
            role: The name of the role.
            expire_time: When it ends; never when not set.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `assignments.create` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "iam",
            "CreateAssignment",
            Assignment,
            {"assignment.principal": principal, "assignment.role": role, "assignment.expire_time": expire_time},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def get(
        self,
        assignment: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Assignment:
        """Answers one assignment.

        `GET /v1/assignments/{assignment}` · `IamAdminService.GetAssignment`. Needs the permission
        `assignments.read`.

        Args:
            assignment: Its id.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `assignments.read` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "iam",
            "GetAssignment",
            Assignment,
            {"assignment": assignment},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def delete(
        self,
        assignment: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> DeleteAssignmentResponse:
        """Takes a role from a principal. The last administrator keeps theirs.

        `DELETE /v1/assignments/{assignment}` · `IamAdminService.DeleteAssignment`. Needs the permission
        `assignments.delete`.

        Args:
            assignment: Its id.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `assignments.delete` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "iam",
            "DeleteAssignment",
            DeleteAssignmentResponse,
            {"assignment": assignment},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    def list(
        self,
        *,
        page_size: int | NotGiven = NOT_GIVEN,
        page_token: str | NotGiven = NOT_GIVEN,
        filter: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> AsyncPager[ListAssignmentsResponse, Assignment]:
        """Lists who has which role.

        `GET /v1/assignments` · `IamAdminService.ListAssignments`. Needs the permission `assignments.read`.

        Args:
            page_size: At most this many; 50 when 0, more than 1000 are cut to 1000 (AIP-158).
            page_token: `next_page_token` of the page before.
            filter: A CEL expression over `principal` and `role`.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `assignments.read` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._pages(
            "iam",
            "ListAssignments",
            ListAssignmentsResponse,
            "assignments",
            {"page_size": page_size, "page_token": page_token, "filter": filter},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )
