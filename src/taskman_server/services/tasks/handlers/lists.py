"""Lists, search and export (TASK-6, TASK-9, AUTHZ-5)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from taskman_sdk.errors import FieldViolation, InvalidArgumentError, PermissionDeniedError
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    ExportTasksRequest,
    ExportTasksResponse,
    ListProjectsRequest,
    ListProjectsResponse,
    ListTasksRequest,
    ListTasksResponse,
    Project,
    SearchTasksRequest,
    SearchTasksResponse,
    Task,
)
from taskman_server.kit import filters
from taskman_server.kit.cel import CelUnplannable, Environment
from taskman_server.kit.db import Executor
from taskman_server.kit.paging import Value, page_size, parse_order_by
from taskman_server.kit.rpc import Call, Runtime
from taskman_server.services.tasks import convert
from taskman_server.services.tasks.handlers.base import Base
from taskman_server.services.tasks.store import ORDERS, Found, Lists, PolicyUnplannable, Query, phrases

__all__ = ["ListHandlers"]

_PROJECTS: Final = filters.list_environment(Project)
_TASKS: Final = filters.list_environment(Task)
_EXPORT_SIZE: Final = 500
_MAX_COUNT: Final = 2**31 - 1


class ListHandlers(Base):
    """The RPCs about many projects or tasks."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.lists = Lists(self.tasks.index, runtime.db.dialect, counted=runtime.db.shared)

    async def list_projects(self, request: ListProjectsRequest, call: Call) -> ListProjectsResponse:
        """See the contract. In the order of their keys."""
        query = await self._query(call, _PROJECTS, request.filter)
        if query is None:
            return ListProjectsResponse()
        asked = {"filter": request.filter}
        after = self._after(call, request.page_token, asked)
        source = await self._source(call)
        found = await _planned(call, lambda: self.lists.projects(source, query, page_size(request.page_size), after))
        return ListProjectsResponse(
            projects=[convert.project_message(row) for row in found.rows],
            next_page_token=self._next(call, found, asked),
        )

    async def list_tasks(self, request: ListTasksRequest, call: Call) -> ListTasksResponse:
        """See the contract."""
        order, descending = parse_order_by(request.order_by, ORDERS)
        project = await self._project_id(request.project, call)
        query = await self._query(
            call,
            _TASKS,
            request.filter,
            project=project,
            show_deleted=request.show_deleted,
            order=order,
            descending=descending,
        )
        if query is None:
            return ListTasksResponse(total_size=0 if request.include_total_size else None)
        asked = {
            "filter": request.filter,
            "order": [order, descending],
            "project": project,
            "deleted": request.show_deleted,
        }
        after = self._after(call, request.page_token, asked)
        source = await self._source(call)
        size = page_size(request.page_size)
        found, tasks = await self._page(call, source, lambda: self.lists.tasks(source, query, size, after))
        total = await self.lists.count(source, query) if request.include_total_size else None
        return ListTasksResponse(
            tasks=tasks,
            next_page_token=self._next(call, found, asked),
            total_size=None if total is None else min(total, _MAX_COUNT),
        )

    async def search_tasks(self, request: SearchTasksRequest, call: Call) -> SearchTasksResponse:
        """See the contract."""
        words = phrases(request.query)
        if not words:
            raise InvalidArgumentError(
                "query: there is no letter or digit to search for. Write at least one word, for example `kanban`.",
                reason="SEARCH_QUERY_EMPTY",
                field_violations=[FieldViolation("query", "holds no letter and no digit", "words")],
            )
        query = await self._query(call, _TASKS, request.filter)
        if query is None:
            return SearchTasksResponse()
        asked = {"query": words, "filter": request.filter}
        after = self._after(call, request.page_token, asked)
        source = await self._source(call)
        size = page_size(request.page_size)
        found, tasks = await self._page(call, source, lambda: self.lists.search(source, words, query, size, after))
        return SearchTasksResponse(
            tasks=tasks,
            next_page_token=self._next(call, found, asked),
        )

    async def export_tasks(self, request: ExportTasksRequest, call: Call) -> AsyncIterator[ExportTasksResponse]:
        """See the contract. Read page by page: the rights are asked for again before each."""
        project = await self._project_id(request.project, call)
        after: Sequence[Value] | None = None
        while True:
            query = await self._query(call, _TASKS, request.filter, project=project)
            if query is None:
                return
            found, tasks = await self._export_page(call, query, after)
            for task in tasks:
                yield ExportTasksResponse(task=task)
            after = found.place
            if after is None:
                return

    async def _export_page(self, call: Call, query: Query, after: Sequence[Value] | None) -> tuple[Found, list[Task]]:
        source = await self._source(call)
        return await self._page(call, source, lambda: self.lists.tasks(source, query, _EXPORT_SIZE, after))

    async def _page(
        self, call: Call, source: Executor, read: Callable[[], Awaitable[Found]]
    ) -> tuple[Found, list[Task]]:
        """Reads a page of tasks. One of which a task changes meanwhile is read again."""
        while True:
            found = await _planned(call, read)
            tasks = await self.messages.page(source, call.principal.organization, found.rows)
            if tasks is not None:
                call.kept = True
                return found, tasks

    async def _source(self, call: Call) -> Executor:
        """Where a list is read from: a replica, once it has what the caller wrote (TASK-10)."""
        return await self.runtime.db.reader(call.principal.id)

    async def _project_id(self, name: str, call: Call) -> str:
        """The id of the project that a list is narrowed to; empty for none.

        Raises:
            NotFoundError: there is none, or the caller may not see it.
        """
        return (await self._project(name, call, "projects.read")).id if name else ""

    async def _query(self, call: Call, environment: Environment, text: str, **wanted: Any) -> Query | None:
        """What to ask the store; None when the caller may see nothing at all."""
        program = filters.compile_filter(environment, text)
        scope = await call.scope()
        if scope.denied:
            return None
        return Query(
            call.principal.organization,
            call.now,
            policy=scope.program,
            constants=scope.constants,
            filter=program,
            **wanted,
        )

    def _after(self, call: Call, token: str, asked: Mapping[str, Any]) -> Sequence[Value] | None:
        if not token:
            return None
        return self.runtime.pager.decode(token, _token_query(call, asked))

    def _next(self, call: Call, found: Found, asked: Mapping[str, Any]) -> str:
        if found.place is None:
            return ""
        return self.runtime.pager.encode(_token_query(call, asked), found.place)


def _token_query(call: Call, asked: Mapping[str, Any]) -> dict[str, Any]:
    return {**asked, "method": call.method.operation_id, "organization": call.principal.organization}


async def _planned(call: Call, read: Callable[[], Awaitable[Found]]) -> Found:
    """Reads a page, with the store's refusals as errors of the call."""
    try:
        return await read()
    except CelUnplannable as error:
        raise filters.bad_expression(error, "filter") from None
    except PolicyUnplannable as error:
        raise PermissionDeniedError(
            f"Your rights to {call.method.permission!r} hang on a condition that cannot be searched by ({error}). "
            "Ask an administrator to change the policy.",
            reason="POLICY_NOT_SEARCHABLE",
            metadata={"permission": call.method.permission},
        ) from None
