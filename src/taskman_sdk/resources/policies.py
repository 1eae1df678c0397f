# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""What one does with policy, async."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskman_sdk.models.iam import DeletePolicyResponse, Effect, ListPoliciesResponse, Policy
from taskman_sdk.resources._base import NOT_GIVEN, AsyncResource, NotGiven
from taskman_sdk.resources._pages import AsyncPager

__all__ = ["AsyncPolicies"]


class AsyncPolicies(AsyncResource):
    """`client.policies`: the verbs of `IamAdminService`."""

    async def create(
        self,
        *,
        name: str | NotGiven = NOT_GIVEN,
        description: str | NotGiven = NOT_GIVEN,
        effect: Effect | NotGiven = NOT_GIVEN,
        roles: Sequence[str] | NotGiven = NOT_GIVEN,
        permissions: Sequence[str] | NotGiven = NOT_GIVEN,
        condition: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Policy:
        """Creates a policy.

        `POST /v1/policies` · `IamAdminService.CreatePolicy`. Needs the permission `policies.create`.

        Args:
            name: The name, unique in the organization.
            description: What it is for.
            effect: Grant or refuse.
            roles: The names of the roles it is about; empty for everyone.
            permissions: Permissions such as `tasks.update`, `tasks.*` or `*`.
            condition: A CEL expression over `principal`, `resource` and `now`; empty for always.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `policies.create` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "iam",
            "CreatePolicy",
            Policy,
            {
                "policy.name": name,
                "policy.description": description,
                "policy.effect": effect,
                "policy.roles": roles,
                "policy.permissions": permissions,
                "policy.condition": condition,
            },
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def get(
        self,
        policy: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Policy:
        """Answers one policy.

        `GET /v1/policies/{policy}` · `IamAdminService.GetPolicy`. Needs the permission `policies.read`.

        Args:
            policy: Its id.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `policies.read` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "iam",
            "GetPolicy",
            Policy,
            {"policy": policy},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def update(
        self,
        policy: str,
        *,
        name: str | NotGiven = NOT_GIVEN,
        description: str | NotGiven = NOT_GIVEN,
        effect: Effect | NotGiven = NOT_GIVEN,
        roles: Sequence[str] | NotGiven = NOT_GIVEN,
        permissions: Sequence[str] | NotGiven = NOT_GIVEN,
        condition: str | NotGiven = NOT_GIVEN,
        etag: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Policy:
        """Changes the fields named in `update_mask`.

        `PATCH /v1/policies/{policy.id}` · `IamAdminService.UpdatePolicy`. Needs the permission
        `policies.update`.

        Args:
            policy: the id or key.
            name: The name, unique in the organization.
            description: What it is for.
            effect: Grant or refuse.
            roles: The names of the roles it is about; empty for everyone.
            permissions: Permissions such as `tasks.update`, `tasks.*` or `*`.
            condition: A CEL expression over `principal`, `resource` and `now`; empty for always.
            etag: Changes with every change.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `policies.update` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            AbortedError: it changed since `etag` was read.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "iam",
            "UpdatePolicy",
            Policy,
            {"policy.id": policy, "policy.etag": etag},
            changes={
                "policy.name": name,
                "policy.description": description,
                "policy.effect": effect,
                "policy.roles": roles,
                "policy.permissions": permissions,
                "policy.condition": condition,
            },
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def delete(
        self,
        policy: str,
        *,
        etag: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> DeletePolicyResponse:
        """Deletes a policy.

        `DELETE /v1/policies/{policy}` · `IamAdminService.DeletePolicy`. Needs the permission `policies.delete`.

        Args:
            policy: Its id.
            etag: Delete only if the policy still has this etag.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `policies.delete` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            AbortedError: it changed since `etag` was read.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "iam",
            "DeletePolicy",
            DeletePolicyResponse,
            {"policy": policy, "etag": etag},
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
    ) -> AsyncPager[ListPoliciesResponse, Policy]:
        """Lists the policies of the organization.

        `GET /v1/policies` · `IamAdminService.ListPolicies`. Needs the permission `policies.read`.

        Args:
            page_size: At most this many; 50 when 0, more than 1000 are cut to 1000 (AIP-158).
            page_token: `next_page_token` of the page before.
            filter: A CEL expression over `name`, `system` and `effect`.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `policies.read` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._pages(
            "iam",
            "ListPolicies",
            ListPoliciesResponse,
            "policies",
            {"page_size": page_size, "page_token": page_token, "filter": filter},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )
