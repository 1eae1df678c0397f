"""Import: many tasks at once, each judged by itself (TASK-9)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any, Final

import protovalidate

from taskman_sdk.errors import FailedPreconditionError
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    ImportResult,
    ImportTasksRequest,
    ImportTasksResponse,
    Task,
)
from taskman_server.kit.db import Row
from taskman_server.kit.rpc import Call
from taskman_server.kit.rpc.call import not_found
from taskman_server.services.tasks import convert, rules
from taskman_server.services.tasks.handlers.base import actor
from taskman_server.services.tasks.handlers.tasks import TaskHandlers, new_task

__all__ = ["ImportHandlers"]

_validator: Final = protovalidate.Validator()
_TURN: Final = 50  # tasks judged or told of between two turns of the event loop


class ImportHandlers(TaskHandlers):
    """The RPC that takes over tasks of another system."""

    async def import_tasks(self, request: ImportTasksRequest, call: Call) -> ImportTasksResponse:
        """See the contract. The tasks that are good land in one commit."""
        organization = call.principal.organization
        project = await self.projects.get(organization, request.project)
        if project is None:
            raise not_found("project", request.project)
        creator = actor(call)
        await call.authorize(
            convert.Resource(
                project.members,
                id="",
                project=project.id,
                state="",
                priority="",
                labels=[],
                assignees=[],
                creator=creator,
                visibility=project.visibility,
            ),
            hidden=not_found("project", request.project),
            read_permission="tasks.read",
        )
        results = [ImportResult() for _ in request.tasks]
        drafts = await self._judge(request.tasks, project, results)
        users = {user for draft in drafts.values() for user in draft.assignees}
        active = await self._active(call, users)

        tx = await call.begin()
        project = await self.projects.get(organization, project.id, tx)
        assert project is not None
        known = await self.tasks.external(tx, project, {d.external_id for d in drafts.values() if d.external_id})
        fresh: list[tuple[int, rules.Draft]] = []
        twins: dict[int, str] = {}  # tasks whose external id this call has made, or is about to make
        coming: set[str] = set()
        for index, draft in drafts.items():
            if draft.external_id and (draft.external_id in known or draft.external_id in coming):
                twins[index] = draft.external_id
            elif problem := _assignees_problem(draft, active, project):
                results[index].error = problem
            else:
                fresh.append((index, draft))
                coming.add(draft.external_id)
        if fresh:
            await self._land(call, tx, project, fresh, results)
            known |= {draft.external_id: (results[index].task, results[index].key) for index, draft in fresh}
        for index, external_id in twins.items():
            results[index].task, results[index].key = known[external_id]
        return ImportTasksResponse(results=results)

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
            result.task, result.key, result.created = task.id, task.key, True

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
            following = itertools.count(await self.projects.allot(tx, project, without))
            own = [number or next(following) for number in own]
        return own


def _shape_problem(task: Task) -> str:
    """What the contract's rules of a task have against it; empty for nothing."""
    for violation in _validator.collect_violations(task):
        elements = violation.proto.field.elements if violation.proto.field is not None else []
        return f"{elements[0].field_name if elements else 'task'}: {violation.proto.message}"
    return ""


def _assignees_problem(draft: rules.Draft, active: set[str], project: Row) -> str:
    if unknown := [user for user in draft.assignees if user not in active]:
        return f"assignees: there is no active user {unknown[0]!r} in your organization"
    try:
        rules.check_may_see(draft.assignees, project.members, project.visibility, project.key)
    except FailedPreconditionError as error:
        return f"assignees: {error.message}"
    return ""
