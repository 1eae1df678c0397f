"""One task: create, read, change, trash, assignees, state (TASK-1, TASK-2, TASK-3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any, Final

from taskman_sdk.errors import AlreadyExistsError, FieldViolation
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    AssignTaskRequest,
    CreateTaskRequest,
    DeleteTaskRequest,
    GetTaskRequest,
    RestoreTaskRequest,
    Task,
    TaskEvent,
    TransitionTaskRequest,
    UnassignTaskRequest,
    UpdateTaskRequest,
)
from taskman_server.kit.db import Row, Transaction, UniqueViolation
from taskman_server.kit.ids import new_id
from taskman_server.kit.masks import changed_paths
from taskman_server.kit.rpc import Call
from taskman_server.kit.rpc.call import not_found, precondition
from taskman_server.services.tasks import convert, rules
from taskman_server.services.tasks.handlers.base import Base, actor, still_allowed

__all__ = ["TaskHandlers", "new_task"]

_MUTABLE: Final = ("title", "description", "priority", "labels", "start_time", "due_time")
_MAX_ASSIGNEES: Final = 50
_CLEAN: Final[Mapping[str, Any]] = {
    "title": rules.clean_line,
    "description": rules.clean_text,
    "priority": lambda value: value or rules.DEFAULT_PRIORITY,
    "labels": rules.clean_labels,
    "start_time": rules.time_of,
    "due_time": rules.time_of,
}


class TaskHandlers(Base):
    """The RPCs about one task."""

    async def create_task(self, request: CreateTaskRequest, call: Call) -> Task:
        """See the contract."""
        assert request.task is not None
        given = request.task
        if not given.project:
            missing = [FieldViolation("task.project", "must be the id or key of a project", "required")]
            _, wrong = rules.draft(given, rules.DEFAULT_WORKFLOW)
            raise rules.invalid(missing + [_in_task(v) for v in wrong if v.field != "state"])
        project = await self.projects.get(call.principal.organization, given.project)
        if project is None:
            raise not_found("project", given.project)
        draft, wrong = rules.draft(given, rules.Workflow.from_value(project.workflow))
        await call.authorize(
            _resource(project, draft, actor(call)),
            hidden=not_found("project", given.project),
            read_permission="tasks.read",
        )
        if wrong:
            raise rules.invalid([_in_task(violation) for violation in wrong])
        draft.create_time = draft.complete_time = None  # for imports alone
        if draft.assignees:
            await self._require_active(call, draft.assignees, "task.assignees[{}]")
        scope = await call.scope()
        tx = await call.begin()
        before = project
        number, project = await self.projects.allot(tx, before, 1)
        if (before.members, before.visibility) != (project.members, project.visibility):
            still_allowed(scope, _resource(project, draft, actor(call)), "project", project.key)
        if draft.assignees:
            rules.check_may_see(draft.assignees, project.members, project.visibility, project.key)
        values = new_task(project, number, draft, actor(call), call.now)
        try:
            await self.tasks.insert(tx, [values])
        except UniqueViolation:
            raise AlreadyExistsError(
                f"The project {project.key} has a task with the external_id {draft.external_id!r} already.",
                reason="TASK_EXTERNAL_ID_TAKEN",
                metadata={"external_id": draft.external_id},
            ) from None
        return await self._tell_created(call, tx, values)

    async def get_task(self, request: GetTaskRequest, call: Call) -> Task:
        """See the contract."""
        row = await self._task(request.task, call)
        if (unchanged := self.tasks.unchanged(row.organization, request.task, row)) is not None:
            call.lasts(convert.task_resource(row), unchanged)
        return convert.task_message(row)

    async def update_task(self, request: UpdateTaskRequest, call: Call) -> Task:
        """See the contract."""
        assert request.task is not None
        given = request.task
        if not given.id:
            raise rules.invalid([FieldViolation("task.id", "must be an id or a key", "required")])
        row = await self._task(given.id, call)
        changes = _read(given, changed_paths(given, request.update_mask, _MUTABLE, "task"))
        tx, row = await self._open(call, row, given.etag)
        if "start_time" in changes or "due_time" in changes:
            try:
                rules.check_times(changes.get("start_time", row.start_time), changes.get("due_time", row.due_time))
            except ValueError as error:
                raise rules.invalid([FieldViolation("task.due_time", str(error), "value")]) from None
        return await self._change(call, tx, row, [("task.updated", ())], **changes)

    async def delete_task(self, request: DeleteTaskRequest, call: Call) -> Task:
        """See the contract."""
        row = await self._task(request.task, call)
        tx, row = await self._open(call, row, request.etag)
        return await self._change(call, tx, row, [("task.deleted", ())], delete_time=call.now)

    async def restore_task(self, request: RestoreTaskRequest, call: Call) -> Task:
        """See the contract. A task that is not in the trash stays as it is."""
        row = await self._task(request.task, call)
        tx, row = await self._open(call, row, trash=True)
        return await self._change(call, tx, row, [("task.restored", ())], delete_time=None)

    async def assign_task(self, request: AssignTaskRequest, call: Call) -> Task:
        """See the contract."""
        row = await self._task(request.task, call)
        await self._require_active(call, request.assignees, "assignees[{}]")
        tx, row = await self._open(call, row, request.etag)
        coming = [user for user in request.assignees if user not in row.assignees]
        rules.check_may_see(coming, row.members, row.visibility, row.key.rpartition("-")[0])
        assignees = [*row.assignees, *coming]
        if len(assignees) > _MAX_ASSIGNEES:
            raise precondition(
                f"The task {row.key} would have {len(assignees)} assignees; at most {_MAX_ASSIGNEES} are possible. "
                "Unassign some first.",
                "TASK_ASSIGNEES_TOO_MANY",
                task=row.key,
            )
        return await self._change(call, tx, row, [("task.assigned", coming)], assignees=assignees)

    async def unassign_task(self, request: UnassignTaskRequest, call: Call) -> Task:
        """See the contract. Users who are not assigned are passed over."""
        row = await self._task(request.task, call)
        tx, row = await self._open(call, row, request.etag)
        leaving = [user for user in row.assignees if user in request.assignees]
        assignees = [user for user in row.assignees if user not in leaving]
        return await self._change(call, tx, row, [("task.unassigned", leaving)], assignees=assignees)

    async def transition_task(self, request: TransitionTaskRequest, call: Call) -> Task:
        """See the contract."""
        row = await self._task(request.task, call)
        tx, row = await self._open(call, row, request.etag)
        project = await self.projects.get(row.organization, row.project, tx)
        assert project is not None
        move = rules.move(rules.Workflow.from_value(project.workflow), row.state, request.state)
        changes: dict[str, Any] = {"state": request.state}
        events: list[tuple[str, Sequence[str]]] = [("task.transitioned", ())]
        if move.completes:
            changes["complete_time"] = call.now
            events.append(("task.completed", ()))
        if move.reopens:
            changes["complete_time"] = None
        return await self._change(call, tx, row, events, **changes)

    async def _tell_created(self, call: Call, tx: Transaction, values: Mapping[str, Any]) -> Task:
        """Emits the events of a new task: created, and assigned where somebody is (open point 9)."""
        task = convert.task_message(SimpleNamespace(**values))
        await call.emit(tx, "task.created", TaskEvent(task=task), subject=task.id)
        if task.assignees:
            await call.emit(tx, "task.assigned", TaskEvent(task=task, users=task.assignees), subject=task.id)
        return task


def new_task(project: Row, number: int, draft: rules.Draft, creator: str, now: datetime) -> dict[str, Any]:
    """The columns of a new task. Times that the draft has stay; a final state without one was reached now."""
    return {
        "id": new_id("task"),
        "organization": project.organization,
        "project": project.id,
        "key": f"{project.key}-{number}",
        "title": draft.title,
        "description": draft.description,
        "state": draft.state,
        "priority": draft.priority,
        "labels": draft.labels,
        "assignees": draft.assignees,
        "creator": creator,
        "external_id": draft.external_id,
        "version": 1,
        "start_time": draft.start_time,
        "due_time": draft.due_time,
        "create_time": draft.create_time or now,
        "update_time": now,
        "complete_time": (draft.complete_time or now) if draft.final else None,
        "delete_time": None,
    }


def _resource(project: Row, draft: rules.Draft, creator: str) -> convert.Resource:
    """The task to be, as policies see it."""
    return convert.Resource(
        project.members,
        id="",
        project=project.id,
        state=draft.state or "",
        priority=draft.priority,
        labels=draft.labels or [],
        assignees=draft.assignees,
        creator=creator,
        visibility=project.visibility,
    )


def _in_task(violation: FieldViolation) -> FieldViolation:
    return FieldViolation(f"task.{violation.field}", violation.description, violation.reason)


def _read(task: Task, fields: Sequence[str]) -> dict[str, Any]:
    """The fields of a task, fit to be stored; or an error that names all that are wrong."""
    values: dict[str, Any] = {}
    wrong: list[FieldViolation] = []
    for name in fields:
        try:
            values[name] = _CLEAN[name](getattr(task, name))
        except ValueError as error:
            wrong.append(FieldViolation(f"task.{name}", str(error), "value"))
    if wrong:
        raise rules.invalid(wrong)
    return values
