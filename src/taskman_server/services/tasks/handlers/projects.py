"""Projects and their members (TASK-1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from taskman_sdk.errors import AlreadyExistsError, FieldViolation
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    AddProjectMemberRequest,
    CreateProjectRequest,
    GetProjectRequest,
    Project,
    ProjectEvent,
    ProjectMember,
    RemoveProjectMemberRequest,
    UpdateProjectRequest,
)
from taskman_server.kit.db import Row, Transaction, UniqueViolation
from taskman_server.kit.ids import new_id
from taskman_server.kit.masks import changed_paths
from taskman_server.kit.rpc import Call
from taskman_server.kit.rpc.call import not_found
from taskman_server.services.tasks import convert, rules
from taskman_server.services.tasks.handlers.base import Base, actor

__all__ = ["ProjectHandlers"]

_MUTABLE: Final = ("display_name", "description", "visibility")
_CLEAN: Final[Mapping[str, Any]] = {
    "display_name": rules.clean_line,
    "description": rules.clean_text,
    "visibility": lambda value: value or "private",
}


class ProjectHandlers(Base):
    """The RPCs about one project."""

    async def create_project(self, request: CreateProjectRequest, call: Call) -> Project:
        """See the contract."""
        assert request.project is not None
        given = request.project
        values = _read(given, _MUTABLE, ["key"] if not given.key else [])
        await call.authorize(
            convert.Resource({}, id="", key=given.key, visibility=values["visibility"]),
        )
        now = call.now
        values |= {
            "id": new_id("project"),
            "organization": call.principal.organization,
            "key": given.key,
            "members": {actor(call): "admin"},
            "workflow": rules.DEFAULT_WORKFLOW.to_value(),
            "last_number": 0,
            "version": 1,
            "create_time": now,
            "update_time": now,
        }
        tx = await call.begin()
        try:
            row = await self.projects.insert(tx, values)
        except UniqueViolation:
            raise AlreadyExistsError(
                f"Your organization has a project {given.key!r} already. Choose another key.",
                reason="PROJECT_KEY_TAKEN",
                metadata={"key": given.key},
            ) from None
        project = convert.project_message(row)
        await call.emit(tx, "project.created", ProjectEvent(project=project), subject=row.id)
        return project

    async def get_project(self, request: GetProjectRequest, call: Call) -> Project:
        """See the contract."""
        return convert.project_message(await self._project(request.project, call))

    async def update_project(self, request: UpdateProjectRequest, call: Call) -> Project:
        """See the contract."""
        assert request.project is not None
        given = request.project
        if not given.id:
            raise rules.invalid([FieldViolation("project.id", "must be an id or a key", "required")])
        row = await self._project(given.id, call)
        changes = _read(given, changed_paths(given, request.update_mask, _MUTABLE, "project"))
        tx, row = await self._open_project(call, row, given.etag)
        return await self._change_project(call, tx, row, "project.updated", None, **changes)

    async def add_project_member(self, request: AddProjectMemberRequest, call: Call) -> Project:
        """See the contract."""
        row = await self._project(request.project, call)
        await self._require_active(call, [request.user], "user")
        tx, row = await self._open_project(call, row)
        members = {**row.members, request.user: request.role}
        rules.check_last_admin(row.members, members)
        member = ProjectMember(user=request.user, role=request.role)
        return await self._change_project(call, tx, row, "project.member_added", member, members=members)

    async def remove_project_member(self, request: RemoveProjectMemberRequest, call: Call) -> Project:
        """See the contract."""
        row = await self._project(request.project, call)
        tx, row = await self._open_project(call, row)
        members = dict(row.members)
        role = members.pop(request.user, None)
        if role is None:
            raise not_found("member", request.user)
        rules.check_last_admin(row.members, members)
        member = ProjectMember(user=request.user, role=role)
        return await self._change_project(call, tx, row, "project.member_removed", member, members=members)

    async def _change_project(
        self, call: Call, tx: Transaction, before: Row, event: str, member: ProjectMember | None, **changes: Any
    ) -> Project:
        changes = {name: value for name, value in changes.items() if getattr(before, name) != value}
        if not changes:
            return convert.project_message(before)
        after: Row = before._replace(**changes, version=before.version + 1, update_time=call.now)
        await self.projects.update(tx, before, after)
        project = convert.project_message(after)
        payload = ProjectEvent(
            project=project, before=convert.project_message(before), changed_fields=list(changes), member=member
        )
        await call.emit(tx, event, payload, subject=before.id)
        return project


def _read(project: Project, fields: Iterable[str], missing: Iterable[str] = ()) -> dict[str, Any]:
    """The fields of a project, fit to be stored; or an error that names all that are wrong."""
    wrong = [FieldViolation(f"project.{name}", "must not be empty", "required") for name in missing]
    values: dict[str, Any] = {}
    for name in fields:
        try:
            values[name] = _CLEAN[name](getattr(project, name))
        except ValueError as error:
            wrong.append(FieldViolation(f"project.{name}", str(error), "value"))
    if wrong:
        raise rules.invalid(wrong)
    return values
