"""What the handlers of projects and of tasks share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from taskman_sdk.errors import AbortedError, FieldViolation, InvalidArgumentError
from taskman_sdk.proto.taskman.task.v1.task_pb import Task, TaskEvent
from taskman_server.kit.db import Row, Transaction
from taskman_server.kit.guard import Scope
from taskman_server.kit.rpc import Call, Runtime
from taskman_server.kit.rpc.call import not_found
from taskman_server.services.tasks import convert, rules
from taskman_server.services.tasks.active_users import ActiveUsers
from taskman_server.services.tasks.messages import TaskMessages
from taskman_server.services.tasks.store import (
    Fts5,
    ProjectCache,
    ProjectStore,
    TaskCache,
    TaskReads,
    TaskStore,
    TsVector,
)

__all__ = ["Base", "actor", "still_allowed"]

_CACHED: Final = 10_000  # tasks, some 2 KB each
_CACHED_PROJECTS: Final = 1000  # with up to some hundred members each


def actor(call: Call) -> str:
    """Who does it: the principal, or the one that a service calls for."""
    return call.principal.actor or call.principal.id


def _moved(before: Row, now: Row) -> bool:
    """Whether anything changed that a decision looks at; a task's version says nothing of its project's members."""
    return (before.version, before.members, before.visibility) != (now.version, now.members, now.visibility)


def still_allowed(scope: Scope, resource: convert.Resource, kind: str, key: str) -> None:
    """Decides again inside a transaction, on what is there now and by the plan that was fetched before it began.

    A member who was removed meanwhile does not write once more. The attempt is refused as one to be made again: that
    one gets the true answer, and its denial is put on record, which asks a peer and cannot be done here.

    Raises:
        AbortedError: the scope does not allow it any more.
    """
    program = scope.program
    allowed = not scope.denied if program is None else program.test({"resource": resource, **scope.constants})
    if not allowed:
        raise AbortedError(
            f"The {kind} {key} was changed by somebody else at this moment; nothing was done. Try again.",
            reason=f"{kind.upper()}_CHANGED_MEANWHILE",
            retry_after=0,
        )


class Base:
    """The stores, and loading with the decision."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        db = runtime.db
        cache = projects = reads = None
        postgresql, use = db.dialect.name == "postgresql", runtime.telemetry.cache("tasks")
        if postgresql:
            reads = TaskReads(db, _CACHED, use)
        if not db.shared:
            cache = TaskCache(_CACHED, use, db.elsewhere)
            projects = ProjectCache(_CACHED_PROJECTS, runtime.telemetry.cache("projects"), db.elsewhere)
        # A task is read with its project's members: a change of these makes every one of them another.
        self.projects = ProjectStore(db, projects, cache.clear if cache is not None else None)
        self.tasks = TaskStore(db, TsVector() if postgresql else Fts5(), cache, reads)
        self.active_users = ActiveUsers(runtime.beside.get("users"), runtime.telemetry.cache("active users"))
        self.messages = TaskMessages(self.tasks, runtime.telemetry.cache("task messages"))

    async def _project(self, name: str, call: Call, permission: str = "") -> Row:
        """A project for which the call's permission (or the one given) holds.

        Raises:
            NotFoundError: there is none, or it is not the caller's to see.
            PermissionDeniedError: the caller may see it, but not do this.
        """
        row = await self.projects.get(call.principal.organization, name)
        if row is None:
            raise not_found("project", name)
        await call.authorize(
            convert.project_resource(row),
            permission=permission,
            hidden=not_found("project", name),
            read_permission="projects.read",
        )
        return row

    async def _task(self, name: str, call: Call) -> Row:
        """A task for which the call's permission holds, with its project's `visibility` and `members`.

        Raises:
            NotFoundError: there is none, or it is not the caller's to see.
            PermissionDeniedError: the caller may see it, but not do this.
        """
        row = await self.tasks.get(call.principal.organization, name)
        if row is None:
            raise not_found("task", name)
        await call.authorize(convert.task_resource(row), hidden=not_found("task", name), read_permission="tasks.read")
        return row

    async def _open(self, call: Call, row: Row, etag: str = "", *, trash: bool = False) -> tuple[Transaction, Row]:
        """Begins the transaction of a change, with the task as it is inside, fit to be changed.

        Args:
            call: the call, which was authorized for `row`.
            row: the task as it was read before.
            etag: the one the caller saw; empty for any.
            trash: the task may be in the trash.

        Raises:
            FailedPreconditionError: it is in the trash.
            AbortedError: it has another etag than the one given, or the call may not change it as it is now.
        """
        scope = await call.scope()
        tx = await call.begin()
        current = await self.tasks.get_for_update(tx, row.organization, row.id)
        assert current is not None, "a task is never deleted for good"
        if _moved(row, current):
            still_allowed(scope, convert.task_resource(current), "task", current.key)
        if not trash:
            rules.check_deleted(current.key, current.delete_time)
        call.check_etag(etag, convert.etag(current), f"The task {current.key}")
        return tx, current

    async def _open_project(self, call: Call, row: Row, etag: str = "") -> tuple[Transaction, Row]:
        """The same for a project.

        Raises:
            AbortedError: it has another etag than the one given, or the call may not change it as it is now.
        """
        scope = await call.scope()
        tx = await call.begin()
        current = await self.projects.get_for_update(tx, row.organization, row.id)
        assert current is not None, "a project is never deleted"
        if _moved(row, current):
            still_allowed(scope, convert.project_resource(current), "project", current.key)
        call.check_etag(etag, convert.etag(current), f"The project {current.key}")
        return tx, current

    async def _change(
        self,
        call: Call,
        tx: Transaction,
        before: Row,
        events: Iterable[tuple[str, Sequence[str]]],
        **changes: Any,
    ) -> Task:
        """Writes a change of a task with its events.

        Args:
            call: the call.
            tx: its transaction.
            before: the task as it is.
            events: names, each with the users who came or left.
            changes: columns with their new values; those that are as before are passed over.

        Returns:
            The task as it is now: the old one, with the old etag and no event, when nothing changes.
        """
        changes = {name: value for name, value in changes.items() if getattr(before, name) != value}
        if not changes:
            return convert.task_message(before)
        after: Row = before._replace(**changes, version=before.version + 1, update_time=call.now)
        await self.tasks.update(tx, before, after)
        old, new = convert.task_message(before), convert.task_message(after)
        for name, users in events:
            payload = TaskEvent(task=new, before=old, changed_fields=list(changes), users=list(users))
            await call.emit(tx, name, payload, subject=before.id)
        return new

    async def _require_active(self, call: Call, users: Sequence[str], field: str) -> None:
        """Refuses users who do not exist or are shut out.

        Args:
            call: the call.
            users: their ids.
            field: where they stand in the request; `{}` in it becomes their place.

        Raises:
            InvalidArgumentError: with a field violation for each of them.
        """
        active = await self.active_users.among(call, users)
        wrong = [
            FieldViolation(field.format(index), f"there is no active user {user!r} in your organization", "user")
            for index, user in enumerate(users)
            if user not in active
        ]
        if wrong:
            raise InvalidArgumentError(
                f"{wrong[0].field}: {wrong[0].description}. Use the id of an active user (GET /v1/users).",
                reason="USER_UNKNOWN",
                metadata={"users": ",".join(user for user in users if user not in active)},
                field_violations=wrong,
            )
