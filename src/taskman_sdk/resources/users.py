# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""What one does with user, async."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskman_sdk.models.user import BatchGetUsersResponse, ListUsersResponse, User
from taskman_sdk.resources._base import NOT_GIVEN, AsyncResource, NotGiven
from taskman_sdk.resources._pages import AsyncPager

__all__ = ["AsyncUsers"]


class AsyncUsers(AsyncResource):
    """`client.users`: the verbs of `UserService`."""

    async def create(
        self,
        *,
        email: str | NotGiven = NOT_GIVEN,
        display_name: str | NotGiven = NOT_GIVEN,
        locale: str | NotGiven = NOT_GIVEN,
        time_zone: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> User:
        """Creates a user. Their welcome mail says how to get a link to choose a password with.  Where each sign-up
        has an organization of its own (`TASKMAN_SIGNUP=organization`) only the organization `default` creates
        users; elsewhere it is refused with `INVITATIONS_NEEDED`. Addresses are unique everywhere, so it would
        tell one organization who is in another, and keep addresses from those they belong to.

        `POST /v1/users` · `UserService.CreateUser`. Needs the permission `users.create`.

        Args:
            email: The address, unique everywhere, in its normal form.
            display_name: The name that others see.
            locale: BCP 47 language tag, for example `en`.
            time_zone: IANA time zone, for example `Europe/Berlin`.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `users.create` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "user",
            "CreateUser",
            User,
            {
                "user.email": email,
                "user.display_name": display_name,
                "user.locale": locale,
                "user.time_zone": time_zone,
            },
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def get_me(
        self,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> User:
        """Answers the caller's own user.

        `GET /v1/users/me` · `UserService.GetMe`. For everyone who is signed in.

        Args:
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "user",
            "GetMe",
            User,
            {},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def get(
        self,
        user: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> User:
        """Answers one user; `me` is the caller.

        `GET /v1/users/{user}` · `UserService.GetUser`. Needs the permission `users.read`.

        Args:
            user: An id, or `me`.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `users.read` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "user",
            "GetUser",
            User,
            {"user": user},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def update(
        self,
        user: str,
        *,
        display_name: str | NotGiven = NOT_GIVEN,
        locale: str | NotGiven = NOT_GIVEN,
        time_zone: str | NotGiven = NOT_GIVEN,
        etag: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> User:
        """Changes the fields named in `update_mask`.

        `PATCH /v1/users/{user.id}` · `UserService.UpdateUser`. Needs the permission `users.update`.

        Args:
            user: the id or key.
            display_name: The name that others see.
            locale: BCP 47 language tag, for example `en`.
            time_zone: IANA time zone, for example `Europe/Berlin`.
            etag: Changes with every change; send it back to change only what you saw (RFC 9110, AIP-154).
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `users.update` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            AbortedError: it changed since `etag` was read.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "user",
            "UpdateUser",
            User,
            {"user.id": user, "user.etag": etag},
            changes={"user.display_name": display_name, "user.locale": locale, "user.time_zone": time_zone},
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
        order_by: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> AsyncPager[ListUsersResponse, User]:
        """Lists the users of the caller's organization.

        `GET /v1/users` · `UserService.ListUsers`. Needs the permission `users.read`.

        Args:
            page_size: At most this many; 50 when 0, more than 1000 are cut to 1000 (AIP-158).
            page_token: `next_page_token` of the page before.
            filter: A CEL expression over the fields of a user, for example `state == "active"`.
            order_by: `create_time` (the default), `display_name` or `email`, each with ` desc` if wanted.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `users.read` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._pages(
            "user",
            "ListUsers",
            ListUsersResponse,
            "users",
            {"page_size": page_size, "page_token": page_token, "filter": filter, "order_by": order_by},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def batch_get(
        self,
        *,
        users: Sequence[str] | NotGiven = NOT_GIVEN,
        emails: Sequence[str] | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> BatchGetUsersResponse:
        """Answers several users by id or by address, in the order asked; unknown ones are left out.

        `GET /v1/users:batchGet` · `UserService.BatchGetUsers`. Needs the permission `users.read`.

        Args:
            users: Ids.
            emails: Addresses.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `users.read` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "user",
            "BatchGetUsers",
            BatchGetUsersResponse,
            {"users": users, "emails": emails},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def deactivate(
        self,
        user: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> User:
        """Shuts a user out: sessions end, sign-in is refused, the record stays. An administrator is shut out by
        another administrator only, and never the last one who stays (`LAST_ADMIN`).

        `POST /v1/users/{user}:deactivate` · `UserService.DeactivateUser`. Needs the permission
        `users.deactivate`.

        Args:
            user: An id.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `users.deactivate` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "user",
            "DeactivateUser",
            User,
            {"user": user},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def activate(
        self,
        user: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> User:
        """Lets a user who was shut out sign in again. An administrator is let in by another administrator only.

        `POST /v1/users/{user}:activate` · `UserService.ActivateUser`. Needs the permission `users.deactivate`.

        Args:
            user: An id.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `users.deactivate` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "user",
            "ActivateUser",
            User,
            {"user": user},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )
