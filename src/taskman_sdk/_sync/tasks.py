# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""What one does with task, sync."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from taskman_sdk._sync._base import Resource
from taskman_sdk.models.task import (
    ExportTasksResponse,
    ImportTasksResponse,
    ListTasksResponse,
    SearchTasksResponse,
    Task,
)
from taskman_sdk.resources._base import NOT_GIVEN, NotGiven
from taskman_sdk.resources._pages import Pager
from taskman_sdk.resources.tasks import AsyncTasks

__all__ = ["Tasks"]


class Tasks(Resource[AsyncTasks]):
    """`client.tasks`: the verbs of `TaskService`."""

    def create(
        self,
        *,
        project: str | NotGiven = NOT_GIVEN,
        title: str | NotGiven = NOT_GIVEN,
        description: str | NotGiven = NOT_GIVEN,
        state: str | NotGiven = NOT_GIVEN,
        priority: Literal["low", "medium", "high", "urgent"] | str | NotGiven = NOT_GIVEN,
        labels: Sequence[str] | NotGiven = NOT_GIVEN,
        assignees: Sequence[str] | NotGiven = NOT_GIVEN,
        start_time: datetime | NotGiven | None = NOT_GIVEN,
        due_time: datetime | NotGiven | None = NOT_GIVEN,
        external_id: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Task:
        """Creates a task.

        `POST /v1/tasks` · `TaskService.CreateTask`. Needs the permission `tasks.create`.

        Args:
            project: The project: an id or a key when creating, always the id in answers.
            title: One line.
            description: Details, in Markdown.
            state: A state of the project's workflow; the default one has `todo`, `in_progress`, `done`.
            priority: `low`, `medium` (the default), `high` or `urgent`.
            labels: Words to find it by.
            assignees: The users who are to do it; may be given on creation, then changed by AssignTask and
                UnassignTask.
            start_time: When work may begin.
            due_time: When it is due.
            external_id: What the system that it was imported from calls it; unique in the project.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `tasks.create` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.create(
                project=project,
                title=title,
                description=description,
                state=state,
                priority=priority,
                labels=labels,
                assignees=assignees,
                start_time=start_time,
                due_time=due_time,
                external_id=external_id,
                idempotency_key=idempotency_key,
                timeout=timeout,
                extra_headers=extra_headers,
            )
        )

    def get(
        self,
        task: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Task:
        """Answers one task by id or key.

        `GET /v1/tasks/{task}` · `TaskService.GetTask`. Needs the permission `tasks.read`.

        Args:
            task: An id or a key.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `tasks.read` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.get(task, idempotency_key=idempotency_key, timeout=timeout, extra_headers=extra_headers)
        )

    def update(
        self,
        task: str,
        *,
        title: str | NotGiven = NOT_GIVEN,
        description: str | NotGiven = NOT_GIVEN,
        priority: Literal["low", "medium", "high", "urgent"] | str | NotGiven = NOT_GIVEN,
        labels: Sequence[str] | NotGiven = NOT_GIVEN,
        start_time: datetime | NotGiven | None = NOT_GIVEN,
        due_time: datetime | NotGiven | None = NOT_GIVEN,
        etag: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Task:
        """Changes the fields named in `update_mask`. The state changes by TransitionTask, assignees by AssignTask.

        `PATCH /v1/tasks/{task.id}` · `TaskService.UpdateTask`. Needs the permission `tasks.update`.

        Args:
            task: the id or key.
            title: One line.
            description: Details, in Markdown.
            priority: `low`, `medium` (the default), `high` or `urgent`.
            labels: Words to find it by.
            start_time: When work may begin.
            due_time: When it is due.
            etag: Changes with every change; send it back to change only what you saw (AIP-154).
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `tasks.update` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            AbortedError: it changed since `etag` was read.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.update(
                task,
                title=title,
                description=description,
                priority=priority,
                labels=labels,
                start_time=start_time,
                due_time=due_time,
                etag=etag,
                idempotency_key=idempotency_key,
                timeout=timeout,
                extra_headers=extra_headers,
            )
        )

    def delete(
        self,
        task: str,
        *,
        etag: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Task:
        """Moves a task to the trash.

        `DELETE /v1/tasks/{task}` · `TaskService.DeleteTask`. Needs the permission `tasks.delete`.

        Args:
            task: An id or a key.
            etag: Delete only if the task still has this etag.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `tasks.delete` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            AbortedError: it changed since `etag` was read.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.delete(
                task, etag=etag, idempotency_key=idempotency_key, timeout=timeout, extra_headers=extra_headers
            )
        )

    def restore(
        self,
        task: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Task:
        """Takes a task out of the trash.

        `POST /v1/tasks/{task}:restore` · `TaskService.RestoreTask`. Needs the permission `tasks.delete`.

        Args:
            task: An id (a key too, while no other task took it).
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `tasks.delete` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.restore(
                task, idempotency_key=idempotency_key, timeout=timeout, extra_headers=extra_headers
            )
        )

    def assign(
        self,
        task: str,
        *,
        assignees: Sequence[str],
        etag: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Task:
        """Adds assignees. They must be members of the task's project, or the project open to the organization.

        `POST /v1/tasks/{task}:assign` · `TaskService.AssignTask`. Needs the permission `tasks.assign`.

        Args:
            task: An id or a key.
            assignees: Users' ids.
            etag: Assign only if the task still has this etag.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `tasks.assign` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            AbortedError: it changed since `etag` was read.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.assign(
                task,
                assignees=assignees,
                etag=etag,
                idempotency_key=idempotency_key,
                timeout=timeout,
                extra_headers=extra_headers,
            )
        )

    def unassign(
        self,
        task: str,
        *,
        assignees: Sequence[str],
        etag: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Task:
        """Removes assignees.

        `POST /v1/tasks/{task}:unassign` · `TaskService.UnassignTask`. Needs the permission `tasks.assign`.

        Args:
            task: An id or a key.
            assignees: Users' ids.
            etag: Unassign only if the task still has this etag.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `tasks.assign` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            AbortedError: it changed since `etag` was read.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.unassign(
                task,
                assignees=assignees,
                etag=etag,
                idempotency_key=idempotency_key,
                timeout=timeout,
                extra_headers=extra_headers,
            )
        )

    def transition(
        self,
        task: str,
        *,
        state: str,
        etag: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Task:
        """Moves a task to another state of its workflow. A move that the workflow has not names those it has
        (TASK-3).

        `POST /v1/tasks/{task}:transition` · `TaskService.TransitionTask`. Needs the permission
        `tasks.transition`.

        Args:
            task: An id or a key.
            state: The state to move to.
            etag: Move only if the task still has this etag.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `tasks.transition` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            AbortedError: it changed since `etag` was read.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.transition(
                task,
                state=state,
                etag=etag,
                idempotency_key=idempotency_key,
                timeout=timeout,
                extra_headers=extra_headers,
            )
        )

    def list(
        self,
        *,
        page_size: int | NotGiven = NOT_GIVEN,
        page_token: str | NotGiven = NOT_GIVEN,
        filter: str | NotGiven = NOT_GIVEN,
        order_by: str | NotGiven = NOT_GIVEN,
        project: str | NotGiven = NOT_GIVEN,
        show_deleted: bool | NotGiven = NOT_GIVEN,
        include_total_size: bool | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Pager[ListTasksResponse, Task]:
        """Lists the tasks that the caller may see. Policy and filter are one WHERE (AUTHZ-5).

        `GET /v1/tasks` · `TaskService.ListTasks`. Needs the permission `tasks.read`.

        Args:
            page_size: At most this many; 50 when 0, more than 1000 are cut to 1000 (AIP-158).
            page_token: `next_page_token` of the page before; filter and order must be those of that page.
            filter: A CEL expression over the fields of a task, for example `"fix" in labels && state ==
                "todo"`.
            order_by: `create_time` (the default), `update_time`, `due_time`, `priority` or `title`, with `
                desc` if wanted.
            project: Only tasks of this project: an id or a key.
            show_deleted: Also tasks in the trash.
            include_total_size: Count all that match, into `total_size`.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `tasks.read` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._pages(
            lambda: self._aio.list(
                page_size=page_size,
                page_token=page_token,
                filter=filter,
                order_by=order_by,
                project=project,
                show_deleted=show_deleted,
                include_total_size=include_total_size,
                idempotency_key=idempotency_key,
                timeout=timeout,
                extra_headers=extra_headers,
            )
        )

    def search(
        self,
        *,
        query: str,
        page_size: int | NotGiven = NOT_GIVEN,
        page_token: str | NotGiven = NOT_GIVEN,
        filter: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Pager[SearchTasksResponse, Task]:
        """Finds tasks by the words in title, description, labels and key, best match first (TASK-6).

        `GET /v1/tasks:search` · `TaskService.SearchTasks`. Needs the permission `tasks.read`.

        Args:
            query: Words, all of which must occur; the last one may be the beginning of a word.
            page_size: At most this many; 50 when 0, more than 1000 are cut to 1000 (AIP-158).
            page_token: `next_page_token` of the page before.
            filter: A CEL expression that narrows the answer further.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `tasks.read` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._pages(
            lambda: self._aio.search(
                query=query,
                page_size=page_size,
                page_token=page_token,
                filter=filter,
                idempotency_key=idempotency_key,
                timeout=timeout,
                extra_headers=extra_headers,
            )
        )

    def import_(
        self,
        *,
        project: str,
        tasks: Sequence[Task | Mapping[str, Any]],
        validate_only: bool | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> ImportTasksResponse:
        """Takes over tasks of another system, each by itself: a bad one is reported, the good ones land, and one
        that landed before is not made again (TASK-9).

        `POST /v1/tasks:import` · `TaskService.ImportTasks`. Needs the permission `tasks.import`.

        Args:
            project: The project: an id or a key.
            tasks: The tasks, in the order that their keys are to have. `state`, `create_time` and `external_id`
                are taken over, and `key` too where it is one of the project's and free; else the task gets the
                next one.
            validate_only: Judge everything as an import would, known external ids included, but change nothing
                (AIP-163).
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `tasks.import` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.import_(
                project=project,
                tasks=tasks,
                validate_only=validate_only,
                idempotency_key=idempotency_key,
                timeout=timeout,
                extra_headers=extra_headers,
            )
        )

    def export(
        self,
        *,
        project: str | NotGiven = NOT_GIVEN,
        filter: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Iterator[ExportTasksResponse]:
        """Streams the tasks that the caller may see, oldest first; over REST one JSON object a line (TASK-9).

        `GET /v1/tasks:export` · `TaskService.ExportTasks`. Needs the permission `tasks.export`.

        Args:
            project: Only tasks of this project: an id or a key.
            filter: A CEL expression over the fields of a task.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `tasks.export` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._stream(
            lambda: self._aio.export(
                project=project,
                filter=filter,
                idempotency_key=idempotency_key,
                timeout=timeout,
                extra_headers=extra_headers,
            )
        )
