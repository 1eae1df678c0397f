"""Rows to messages, and to what policies look at."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final

from taskman_sdk.codec import Timestamp
from taskman_sdk.proto.taskman.task.v1.task_pb import Project, ProjectMember, Task
from taskman_server.kit.db import Row
from taskman_server.services.tasks.rules import users_with

__all__ = ["Resource", "etag", "project_message", "project_resource", "task_message", "task_resource", "timestamp"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ROLES: Final[Mapping[str, tuple[str, ...]]] = {"editors": ("editor", "admin"), "admins": ("admin",)}


def timestamp(time: datetime | None) -> Timestamp | None:
    """A time as a message."""
    if time is None:
        return None
    since = time - _EPOCH
    return Timestamp(seconds=since.days * 86400 + since.seconds, nanos=since.microseconds * 1000)


def etag(row: Row | SimpleNamespace) -> str:
    """Another one for every version of a row (AIP-154)."""
    return hashlib.blake2b(f"{row.id}/{row.version}".encode(), digest_size=8).hexdigest()


def task_message(row: Row | SimpleNamespace) -> Task:
    """A row of `tasks` as the contract's message."""
    return Task(
        id=row.id,
        key=row.key,
        project=row.project,
        title=row.title,
        description=row.description,
        state=row.state,
        priority=row.priority,
        labels=[*row.labels],  # a message keeps the very list, and the row may be asked for again
        assignees=[*row.assignees],
        start_time=timestamp(row.start_time),
        due_time=timestamp(row.due_time),
        creator=row.creator,
        create_time=timestamp(row.create_time),
        update_time=timestamp(row.update_time),
        complete_time=timestamp(row.complete_time),
        delete_time=timestamp(row.delete_time),
        etag=etag(row),
        external_id=row.external_id,
    )


def project_message(row: Row) -> Project:
    """A row of `projects` as the contract's message."""
    return Project(
        id=row.id,
        key=row.key,
        display_name=row.display_name,
        description=row.description,
        visibility=row.visibility,
        members=[ProjectMember(user=user, role=role) for user, role in row.members.items()],
        create_time=timestamp(row.create_time),
        update_time=timestamp(row.update_time),
        etag=etag(row),
    )


class Resource(dict[str, Any]):
    """What a policy can look at. The users of a project by role are worked out only when a policy asks for them."""

    def __init__(self, members: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(attributes)
        self._members = members

    def __missing__(self, name: str) -> list[str]:
        if name != "members" and name not in _ROLES:
            raise KeyError(name)
        users = self[name] = users_with(self._members, *_ROLES.get(name, ()))
        return users


def project_resource(row: Row) -> Resource:
    """A project as the contract's `ProjectResource`."""
    return Resource(row.members, id=row.id, key=row.key, visibility=row.visibility)


def task_resource(row: Row) -> Resource:
    """A task, read with its project's `visibility` and `members`, as the contract's `TaskResource`."""
    return Resource(
        row.members,
        id=row.id,
        project=row.project,
        state=row.state,
        priority=row.priority,
        labels=row.labels,
        assignees=row.assignees,
        creator=row.creator,
        visibility=row.visibility,
    )
