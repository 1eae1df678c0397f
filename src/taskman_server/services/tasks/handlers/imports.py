"""Import: many tasks at once, each judged by itself (TASK-9)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import protovalidate

from taskman_sdk.errors import FailedPreconditionError
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    ImportResult,
    ImportTasksRequest,
    ImportTasksResponse,
    Task,
)
from taskman_server.kit.db import Row, Transaction
from taskman_server.kit.rpc import Call
from taskman_server.kit.rpc.call import not_found
from taskman_server.services.tasks import convert, rules
from taskman_server.services.tasks.handlers.base import actor, still_allowed
from taskman_server.services.tasks.handlers.tasks import TaskHandlers, new_task

__all__ = ["ImportHandlers"]

_validator: Final = protovalidate.Validator()
_TURN: Final = 50  # tasks judged or told of between two turns of the event loop


class ImportHandlers(TaskHandlers):
    """The RPC that takes over tasks of another system."""

    async def import_tasks(self, request: ImportTasksRequest, call: Call) -> ImportTasksResponse:
        """See the contract. The tasks that are good land in one commit; with `validate_only` there is none."""
        organization = call.principal.organization
        project = await self.projects.get(organization, request.project)
        if project is None:
            raise not_found("project", request.project)
        await call.authorize(
            _resource(project, actor(call)),
            hidden=not_found("project", request.project),
            read_permission="tasks.read",
        )
        results = [ImportResult() for _ in request.tasks]
        drafts = await self._judge(request.tasks, project, results)
        users = {user for draft in drafts.values() for user in draft.assignees}
        active = await self.active_users.among(call, users)

        if request.validate_only:
            await self._sort(project, None, drafts, active, results)
            return ImportTasksResponse(results=results)
        scope = await call.scope()
        tx = await call.begin()
        before, project = project, await self.projects.get_for_update(tx, organization, project.id)
        assert project is not None, "a project is never deleted"
        if (before.members, before.visibility) != (project.members, project.visibility):
            still_allowed(scope, _resource(project, actor(call)), "project", project.key)
        fresh, twins = await self._sort(project, tx, drafts, active, results)
        if fresh:
            await self._land(call, tx, project, fresh, results)
        for index, first in twins.items():
            results[index].task, results[index].key = results[first].task, results[first].key
        return ImportTasksResponse(results=results)

    async def _sort(
        self,
        project: Row,
        tx: Transaction | None,
        drafts: Mapping[int, rules.Draft],
        active: set[str],
        results: Sequence[ImportResult],
    ) -> tuple[list[tuple[int, rules.Draft]], dict[int, int]]:
        """Parts the drafts: those to be made, and those that repeat one to be made, with its place.

        The results tell of what is wrong with one, of those that are there already, and which are to be made.
        """
        known = await self.tasks.external(project, {d.external_id for d in drafts.values() if d.external_id}, tx)
        fresh: list[tuple[int, rules.Draft]] = []
        twins: dict[int, int] = {}
        coming: dict[str, int] = {}
        for index, draft in drafts.items():
            result = results[index]
            if draft.external_id in known:
                result.task, result.key = known[draft.external_id]
            elif draft.external_id in coming:
                twins[index] = coming[draft.external_id]
            elif problem := _assignees_problem(draft, active, project):
                result.error = problem
            else:
                result.created = True
                fresh.append((index, draft))
                if draft.external_id:
                    coming[draft.external_id] = index
        return fresh, twins

    async def _judge(
        self, tasks: Sequence[Task], project: Row, results: Sequence[ImportResult]
    ) -> dict[int, rules.Draft]:
        """The tasks that are good in themselves, by their place; of the others, what is wrong goes into the result."""
        workflow = rules.Workflow.from_value(project.workflow)
        drafts: dict[int, rules.Draft] = {}
        for index, task in enumerate(tasks):
            if index % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            problem = _shape_problem(task)
            if not problem and task.project not in ("", project.id) and task.project.upper() != project.key:
                problem = f"project: is {task.project!r}, but this import is into {project.key}: leave it empty"
            if not problem:
                draft, wrong = rules.draft(task, workflow)
                if not wrong:
                    drafts[index] = draft
                    continue
                problem = f"{wrong[0].field}: {wrong[0].description}"
            results[index].error = problem
        return drafts

    async def _land(
        self,
        call: Call,
        tx: Any,
        project: Row,
        fresh: Sequence[tuple[int, rules.Draft]],
        results: Sequence[ImportResult],
    ) -> None:
        """Makes the tasks, with their events in the order of their keys."""
        numbers = await self._numbers(tx, project, [draft for _, draft in fresh])
        creator, now = actor(call), call.now
        rows = [
            new_task(project, number, draft, creator, now) for number, (_, draft) in zip(numbers, fresh, strict=True)
        ]
        await self.tasks.insert(tx, rows)
        for place, ((index, _), values) in enumerate(zip(fresh, rows, strict=True)):
            if place % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            task = await self._tell_created(call, tx, values)
            result = results[index]
            result.task, result.key = task.id, task.key

    async def _numbers(self, tx: Any, project: Row, drafts: Sequence[rules.Draft]) -> list[int]:
        """A number for each task: its own where it brings one that is free, else the next."""
        own = [rules.number_of(draft.key, project.key) for draft in drafts]
        taken = await self.tasks.taken(
            tx, project.organization, {f"{project.key}-{number}" for number in own if number}
        )
        used: set[int] = set()
        for place, number in enumerate(own):
            if number in used or f"{project.key}-{number}" in taken:
                own[place] = 0
            used.add(number)
        if max(own):
            await self.projects.reserve(tx, project, max(own))
        if without := own.count(0):
            first, _ = await self.projects.allot(tx, project, without)
            following = itertools.count(first)
            own = [number or next(following) for number in own]
        return own


def _shape_problem(task: Task) -> str:
    """What the contract's rules of a task have against it; empty for nothing."""
    for violation in _validator.collect_violations(task):
        elements = violation.proto.field.elements if violation.proto.field is not None else []
        return f"{elements[0].field_name if elements else 'task'}: {violation.proto.message}"
    return ""


def _resource(project: Row, creator: str) -> convert.Resource:
    """Any task of the project to be, as policies see it."""
    return convert.Resource(
        project.members,
        id="",
        project=project.id,
        state="",
        priority="",
        labels=[],
        assignees=[],
        creator=creator,
        visibility=project.visibility,
    )


def _assignees_problem(draft: rules.Draft, active: set[str], project: Row) -> str:
    if unknown := [user for user in draft.assignees if user not in active]:
        return f"assignees: there is no active user {unknown[0]!r} in your organization"
    try:
        rules.check_may_see(draft.assignees, project.members, project.visibility, project.key)
    except FailedPreconditionError as error:
        return f"assignees: {error.message}"
    return ""
