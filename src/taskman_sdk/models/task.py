# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""Models of the area `task`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from taskman_sdk.models._base import Model

__all__ = [
    "ExportTasksResponse",
    "ImportResult",
    "ImportTasksResponse",
    "ListProjectsResponse",
    "ListTasksResponse",
    "Project",
    "ProjectMember",
    "SearchTasksResponse",
    "Task",
]


class ProjectMember(Model):
    """A user's part in a project.

    Attributes:
        user: The user's id.
        role: `viewer` (reads), `editor` (works on tasks) or `admin` (also manages the project).
    """

    user: str = Field(default="", description="The user's id.")
    role: str = Field(
        default="", description="`viewer` (reads), `editor` (works on tasks) or `admin` (also manages the project)."
    )


class Project(Model):
    """A set of tasks with members and a workflow.

    Attributes:
        id: The id, `project_…`.
        key: The short name that task keys begin with, for example `WEB`. Unique in the organization; does not
            change.
        display_name: The name.
        description: What it is for, in Markdown.
        visibility: `private` (the default: members alone) or `organization` (everyone in it may read).
        members: Who belongs to it; changed by AddProjectMember and RemoveProjectMember.
        create_time: When the record was made.
        update_time: When it last changed.
        etag: Changes with every change; send it back to change only what you saw (AIP-154).
    """

    id: str = Field(default="", description="The id, `project_…`.")
    key: str = Field(
        default="",
        pattern="^$|^[A-Z][A-Z0-9]{0,9}$",
        description="The short name that task keys begin with, for example `WEB`. Unique in the organization; "
        "does not change.",
    )
    display_name: str = Field(default="", max_length=200, description="The name.")
    description: str = Field(default="", max_length=20000, description="What it is for, in Markdown.")
    visibility: Literal["private", "organization"] | str = Field(
        default="", description="`private` (the default: members alone) or `organization` (everyone in it may read)."
    )
    members: list[ProjectMember] = Field(
        default_factory=list, description="Who belongs to it; changed by AddProjectMember and RemoveProjectMember."
    )
    create_time: datetime | None = Field(default=None, description="When the record was made.")
    update_time: datetime | None = Field(default=None, description="When it last changed.")
    etag: str = Field(
        default="",
        max_length=64,
        description="Changes with every change; send it back to change only what you saw (AIP-154).",
    )


class ListProjectsResponse(Model):
    """A page of projects.

    Attributes:
        projects: The projects.
        next_page_token: Empty on the last page.
    """

    projects: list[Project] = Field(default_factory=list, description="The projects.")
    next_page_token: str = Field(default="", description="Empty on the last page.")


class Task(Model):
    """A piece of work.

    Attributes:
        id: The id, `task_…`.
        key: The key people say, for example `WEB-42`.
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
        creator: The user who created it.
        create_time: When it was created.
        update_time: When it last changed.
        complete_time: When it reached a final state.
        delete_time: When it was moved to the trash.
        etag: Changes with every change; send it back to change only what you saw (AIP-154).
        external_id: What the system that it was imported from calls it; unique in the project.
    """

    id: str = Field(default="", description="The id, `task_…`.")
    key: str = Field(default="", description="The key people say, for example `WEB-42`.")
    project: str = Field(
        default="", max_length=100, description="The project: an id or a key when creating, always the id in answers."
    )
    title: str = Field(default="", max_length=500, description="One line.")
    description: str = Field(default="", max_length=100000, description="Details, in Markdown.")
    state: str = Field(
        default="",
        max_length=40,
        description="A state of the project's workflow; the default one has `todo`, `in_progress`, `done`.",
    )
    priority: Literal["low", "medium", "high", "urgent"] | str = Field(
        default="", description="`low`, `medium` (the default), `high` or `urgent`."
    )
    labels: list[str] = Field(default_factory=list, max_length=50, description="Words to find it by.")
    assignees: list[str] = Field(
        default_factory=list,
        max_length=50,
        description="The users who are to do it; may be given on creation, then changed by AssignTask and "
        "UnassignTask.",
    )
    start_time: datetime | None = Field(default=None, description="When work may begin.")
    due_time: datetime | None = Field(default=None, description="When it is due.")
    creator: str = Field(default="", description="The user who created it.")
    create_time: datetime | None = Field(default=None, description="When it was created.")
    update_time: datetime | None = Field(default=None, description="When it last changed.")
    complete_time: datetime | None = Field(default=None, description="When it reached a final state.")
    delete_time: datetime | None = Field(default=None, description="When it was moved to the trash.")
    etag: str = Field(
        default="",
        max_length=64,
        description="Changes with every change; send it back to change only what you saw (AIP-154).",
    )
    external_id: str = Field(
        default="",
        max_length=200,
        description="What the system that it was imported from calls it; unique in the project.",
    )


class ListTasksResponse(Model):
    """A page of tasks.

    Attributes:
        tasks: The tasks.
        next_page_token: Empty on the last page.
        total_size: How many match on all pages; only when asked for.
    """

    tasks: list[Task] = Field(default_factory=list, description="The tasks.")
    next_page_token: str = Field(default="", description="Empty on the last page.")
    total_size: int | None = Field(default=None, description="How many match on all pages; only when asked for.")


class SearchTasksResponse(Model):
    """A page of what was found.

    Attributes:
        tasks: The tasks, best match first.
        next_page_token: Empty on the last page.
    """

    tasks: list[Task] = Field(default_factory=list, description="The tasks, best match first.")
    next_page_token: str = Field(default="", description="Empty on the last page.")


class ImportResult(Model):
    """What became of one task.

    Attributes:
        task: Its id, when it exists now.
        key: Its key, when it exists now.
        created: True when this call made it, or would without `validate_only` (it has no id and key then);
            false when an earlier one did, or it is bad.
        error: Which field is bad and why; empty when none is.
    """

    task: str = Field(default="", description="Its id, when it exists now.")
    key: str = Field(default="", description="Its key, when it exists now.")
    created: bool = Field(
        default=False,
        description="True when this call made it, or would without `validate_only` (it has no id and key then);"
        " false when an earlier one did, or it is bad.",
    )
    error: str = Field(default="", description="Which field is bad and why; empty when none is.")


class ImportTasksResponse(Model):
    """What became of the tasks, in the order given.

    Attributes:
        results: One result a task.
    """

    results: list[ImportResult] = Field(default_factory=list, description="One result a task.")


class ExportTasksResponse(Model):
    """A piece of an export.

    Attributes:
        task: The next task.
    """

    task: Task | None = Field(default=None, description="The next task.")
