"""The tables of projects and tasks.

A task's labels and assignees stand twice, written in one transaction: as JSON in its row, which is what pages are read
from, and as rows of their own, which is what conditions are looked up in (TASK-10). The members of a project likewise.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
)

from taskman_server.kit.db import BigSerial, JsonText, UtcTimestamp
from taskman_server.kit.db.schema import OrderedJson
from taskman_server.kit.outbox import add_event_tables

__all__ = ["MEMBERS", "METADATA", "PROJECTS", "TASKS", "TASK_ASSIGNEES", "TASK_LABELS", "of_tenant"]

METADATA = MetaData()
add_event_tables(METADATA)


def _text(name: str) -> Column[Any]:
    return Column(name, Text, nullable=False)


def _id(name: str) -> Column[Any]:
    return Column(name, String(100), nullable=False)


PROJECTS = Table(
    "projects",
    METADATA,
    Column("id", String(100), primary_key=True),
    _id("organization"),
    Column("key", String(10), nullable=False),
    _text("display_name"),
    Column("visibility", String(20), nullable=False),
    Column("members", OrderedJson, nullable=False),
    Column("workflow", OrderedJson, nullable=False),
    # the number of the last task key that was given out
    Column("last_number", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("create_time", UtcTimestamp, nullable=False),
    Column("update_time", UtcTimestamp, nullable=False),
    _text("description"),
    UniqueConstraint("organization", "key", name="projects_key"),
    Index("projects_visibility", "organization", "visibility", "id"),
)

MEMBERS = Table(
    "project_members",
    METADATA,
    Column("project", String(100), ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("user", String(100), primary_key=True),
    _id("organization"),
    Column("role", String(20), nullable=False),
    Index("project_members_user", "organization", "user", "project", "role"),
    sqlite_with_rowid=False,
)

TASKS = Table(
    "tasks",
    METADATA,
    Column("seq", BigSerial, primary_key=True),
    _id("id"),
    _id("organization"),
    Column("project", String(100), ForeignKey("projects.id"), nullable=False),
    Column("key", String(40), nullable=False),
    _text("title"),
    # what titles are sorted by: see `search.fold`
    _text("title_order"),
    Column("state", String(40), nullable=False),
    Column("priority", String(20), nullable=False),
    Column("priority_order", SmallInteger, nullable=False),
    Column("labels", JsonText, nullable=False),
    Column("assignees", JsonText, nullable=False),
    Column("creator", String(100), nullable=False),
    Column("external_id", String(200), nullable=False),
    Column("version", Integer, nullable=False),
    Column("start_time", UtcTimestamp),
    Column("due_time", UtcTimestamp),
    Column("create_time", UtcTimestamp, nullable=False),
    Column("update_time", UtcTimestamp, nullable=False),
    Column("complete_time", UtcTimestamp),
    Column("delete_time", UtcTimestamp),
    # last: SQLite need not read a long one to reach the columns before it
    _text("description"),
    UniqueConstraint("id", name="tasks_id"),
    UniqueConstraint("organization", "key", name="tasks_key"),
    # with what most filters and policies ask for, so that a task which is passed over is not read for that
    Index("tasks_created", "organization", "create_time", "seq", "delete_time", "state", "project"),
    Index("tasks_updated", "organization", "update_time", "seq", "delete_time", "state", "project"),
    Index("tasks_project_created", "organization", "project", "create_time", "seq", "delete_time", "state"),
    Index("tasks_project_updated", "organization", "project", "update_time", "seq", "delete_time", "state"),
    Index("tasks_project_state", "organization", "project", "state", "create_time", "seq"),
    Index("tasks_due", "organization", "due_time", "seq"),
)
Index(
    "tasks_external",
    TASKS.c.project,
    TASKS.c.external_id,
    unique=True,
    sqlite_where=TASKS.c.external_id != "",
    postgresql_where=TASKS.c.external_id != "",
)

TASK_LABELS = Table(
    "task_labels",
    METADATA,
    Column("task", BigInteger, ForeignKey("tasks.seq", ondelete="CASCADE"), primary_key=True),
    Column("label", String(50), primary_key=True),
    _id("organization"),
    Index("task_labels_label", "organization", "label", "task"),
    sqlite_with_rowid=False,
)

TASK_ASSIGNEES = Table(
    "task_assignees",
    METADATA,
    Column("task", BigInteger, ForeignKey("tasks.seq", ondelete="CASCADE"), primary_key=True),
    Column("user", String(100), primary_key=True),
    _id("organization"),
    Index("task_assignees_user", "organization", "user", "task"),
    sqlite_with_rowid=False,
)


def of_tenant(table: Table) -> ColumnElement[bool]:
    """That a row is of the organization that the parameter of this name has, for conditions."""
    organization = table.c.organization
    return organization == bindparam("organization", type_=organization.type)
