# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""What one does with authz, sync."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskman_sdk._sync._base import Resource
from taskman_sdk.models.authorization import CheckResponse, PlanResourcesResponse
from taskman_sdk.resources._base import NOT_GIVEN, NotGiven
from taskman_sdk.resources.authz import AsyncAuthz

__all__ = ["Authz"]


class Authz(Resource[AsyncAuthz]):
    """`client.authz`: the verbs of `AuthorizationService`."""

    def check(
        self,
        *,
        permission: str,
        principal: str | NotGiven = NOT_GIVEN,
        resource: Mapping[str, Any] | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> CheckResponse:
        """Decides one question. Everyone may ask about themselves; asking about another principal needs
        `authz.check`.

        `POST /v1/authz:check` · `AuthorizationService.Check`. For everyone who is signed in.

        Args:
            permission: The permission, for example `tasks.update`.
            principal: Who; empty for the caller.
            resource: The attributes of the resource that conditions may look at, for example `{"type": "task",
                "members": ["user_…"]}`.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.check(
                permission=permission,
                principal=principal,
                resource=resource,
                idempotency_key=idempotency_key,
                timeout=timeout,
                extra_headers=extra_headers,
            )
        )

    def plan_resources(
        self,
        *,
        permission: str,
        principal: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> PlanResourcesResponse:
        """Answers what a principal's rights to a permission come to: always, never, or under a condition on the
        resource. Services put that condition into the WHERE of their lists, and evaluate it for single
        resources (AUTHZ-5).

        `POST /v1/authz:planResources` · `AuthorizationService.PlanResources`. For everyone who is signed in.

        Args:
            permission: The permission, for example `tasks.read`.
            principal: Who; empty for the caller.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.plan_resources(
                permission=permission,
                principal=principal,
                idempotency_key=idempotency_key,
                timeout=timeout,
                extra_headers=extra_headers,
            )
        )
