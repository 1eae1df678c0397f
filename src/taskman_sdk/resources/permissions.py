# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""What one does with permission, async."""

from __future__ import annotations

from collections.abc import Mapping

from taskman_sdk.models.iam import ListPermissionsResponse
from taskman_sdk.resources._base import AsyncResource

__all__ = ["AsyncPermissions"]


class AsyncPermissions(AsyncResource):
    """`client.permissions`: the verbs of `IamAdminService`."""

    async def list(
        self,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> ListPermissionsResponse:
        """Lists every permission there is, as the contract declares them (IAM-3).

        `GET /v1/permissions` · `IamAdminService.ListPermissions`. Needs the permission `roles.read`.

        Args:
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `roles.read` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "iam",
            "ListPermissions",
            ListPermissionsResponse,
            {},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )
