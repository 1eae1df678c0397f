# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""What one does with role, sync."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskman_sdk._sync._base import Resource
from taskman_sdk.models.iam import DeleteRoleResponse, ListRolesResponse, Role
from taskman_sdk.resources._base import NOT_GIVEN, NotGiven
from taskman_sdk.resources._pages import Pager
from taskman_sdk.resources.roles import AsyncRoles

__all__ = ["Roles"]


class Roles(Resource[AsyncRoles]):
    """`client.roles`: the verbs of `IamAdminService`."""

    def create(
        self,
        *,
        name: str | NotGiven = NOT_GIVEN,
        description: str | NotGiven = NOT_GIVEN,
        permissions: Sequence[str] | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Role:
        """Creates a role.

        `POST /v1/roles` · `IamAdminService.CreateRole`. Needs the permission `roles.create`.

        Args:
            name: The name, unique in the organization.
            description: What it is for.
            permissions: Permissions such as `tasks.update`, `tasks.*` or `*`.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `roles.create` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.create(
                name=name,
                description=description,
                permissions=permissions,
                idempotency_key=idempotency_key,
                timeout=timeout,
                extra_headers=extra_headers,
            )
        )

    def get(
        self,
        role: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Role:
        """Answers one role.

        `GET /v1/roles/{role}` · `IamAdminService.GetRole`. Needs the permission `roles.read`.

        Args:
            role: Its id.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `roles.read` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.get(role, idempotency_key=idempotency_key, timeout=timeout, extra_headers=extra_headers)
        )

    def update(
        self,
        role: str,
        *,
        name: str | NotGiven = NOT_GIVEN,
        description: str | NotGiven = NOT_GIVEN,
        permissions: Sequence[str] | NotGiven = NOT_GIVEN,
        etag: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Role:
        """Changes the fields named in `update_mask`.

        `PATCH /v1/roles/{role.id}` · `IamAdminService.UpdateRole`. Needs the permission `roles.update`.

        Args:
            role: the id or key.
            name: The name, unique in the organization.
            description: What it is for.
            permissions: Permissions such as `tasks.update`, `tasks.*` or `*`.
            etag: Changes with every change.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `roles.update` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            AbortedError: it changed since `etag` was read.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.update(
                role,
                name=name,
                description=description,
                permissions=permissions,
                etag=etag,
                idempotency_key=idempotency_key,
                timeout=timeout,
                extra_headers=extra_headers,
            )
        )

    def delete(
        self,
        role: str,
        *,
        etag: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> DeleteRoleResponse:
        """Deletes a role.

        `DELETE /v1/roles/{role}` · `IamAdminService.DeleteRole`. Needs the permission `roles.delete`.

        Args:
            role: Its id.
            etag: Delete only if the role still has this etag.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `roles.delete` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            AbortedError: it changed since `etag` was read.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.delete(
                role, etag=etag, idempotency_key=idempotency_key, timeout=timeout, extra_headers=extra_headers
            )
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
    ) -> Pager[ListRolesResponse, Role]:
        """Lists the roles of the organization.

        `GET /v1/roles` · `IamAdminService.ListRoles`. Needs the permission `roles.read`.

        Args:
            page_size: At most this many; 50 when 0, more than 1000 are cut to 1000 (AIP-158).
            page_token: `next_page_token` of the page before.
            filter: A CEL expression over `name` and `system`.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `roles.read` is missing.
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
