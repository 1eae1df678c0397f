# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""What one does with project, async."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from taskman_sdk.models.task import ListProjectsResponse, Project
from taskman_sdk.resources._base import NOT_GIVEN, AsyncResource, NotGiven
from taskman_sdk.resources._pages import AsyncPager

__all__ = ["AsyncProjects"]


class AsyncProjects(AsyncResource):
    """`client.projects`: the verbs of `TaskService`."""

    async def create(
        self,
        *,
        key: str | NotGiven = NOT_GIVEN,
        display_name: str | NotGiven = NOT_GIVEN,
        description: str | NotGiven = NOT_GIVEN,
        visibility: Literal["private", "organization"] | str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Project:
        """Creates a project. The caller becomes its first admin.

        `POST /v1/projects` · `TaskService.CreateProject`. Needs the permission `projects.create`.

        Args:
            key: The short name that task keys begin with, for example `WEB`. Unique in the organization; does
                not change.
            display_name: The name.
            description: What it is for, in Markdown.
            visibility: `private` (the default: members alone) or `organization` (everyone in it may read).
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `projects.create` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "task",
            "CreateProject",
            Project,
            {
                "project.key": key,
                "project.display_name": display_name,
                "project.description": description,
                "project.visibility": visibility,
            },
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def get(
        self,
        project: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Project:
        """Answers one project.

        `GET /v1/projects/{project}` · `TaskService.GetProject`. Needs the permission `projects.read`.

        Args:
            project: An id or a key.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `projects.read` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "task",
            "GetProject",
            Project,
            {"project": project},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def update(
        self,
        project: str,
        *,
        display_name: str | NotGiven = NOT_GIVEN,
        description: str | NotGiven = NOT_GIVEN,
        visibility: Literal["private", "organization"] | str | NotGiven = NOT_GIVEN,
        etag: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Project:
        """Changes the fields named in `update_mask`.

        `PATCH /v1/projects/{project.id}` · `TaskService.UpdateProject`. Needs the permission `projects.update`.

        Args:
            project: the id or key.
            display_name: The name.
            description: What it is for, in Markdown.
            visibility: `private` (the default: members alone) or `organization` (everyone in it may read).
            etag: Changes with every change; send it back to change only what you saw (AIP-154).
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `projects.update` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            AbortedError: it changed since `etag` was read.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "task",
            "UpdateProject",
            Project,
            {"project.id": project, "project.etag": etag},
            changes={
                "project.display_name": display_name,
                "project.description": description,
                "project.visibility": visibility,
            },
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
    ) -> AsyncPager[ListProjectsResponse, Project]:
        """Lists the projects that the caller may see.

        `GET /v1/projects` · `TaskService.ListProjects`. Needs the permission `projects.read`.

        Args:
            page_size: At most this many; 50 when 0, more than 1000 are cut to 1000 (AIP-158).
            page_token: `next_page_token` of the page before.
            filter: A CEL expression over the fields of a project, for example `key == "WEB"`.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `projects.read` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._pages(
            "task",
            "ListProjects",
            ListProjectsResponse,
            "projects",
            {"page_size": page_size, "page_token": page_token, "filter": filter},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def add_member(
        self,
        project: str,
        *,
        user: str,
        role: Literal["viewer", "editor", "admin"] | str,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Project:
        """Adds a member to a project, or changes a member's role.

        `POST /v1/projects/{project}/members` · `TaskService.AddProjectMember`. Needs the permission
        `projects.manage_members`.

        Args:
            project: The project: an id or a key.
            user: The user's id.
            role: `viewer`, `editor` or `admin`.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `projects.manage_members` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "task",
            "AddProjectMember",
            Project,
            {"project": project, "user": user, "role": role},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def remove_member(
        self,
        project: str,
        user: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Project:
        """Removes a member. A project keeps at least one admin.

        `DELETE /v1/projects/{project}/members/{user}` · `TaskService.RemoveProjectMember`. Needs the permission
        `projects.manage_members`.

        Args:
            project: The project: an id or a key.
            user: The user's id.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `projects.manage_members` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "task",
            "RemoveProjectMember",
            Project,
            {"project": project, "user": user},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )
