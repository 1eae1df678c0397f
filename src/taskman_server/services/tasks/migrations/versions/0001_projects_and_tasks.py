"""Projects, tasks, and the search in them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

from taskman_server.kit.db import BigSerial, JsonText, UtcTimestamp
from taskman_server.kit.db.schema import OrderedJson, compare_by_code_point
from taskman_server.kit.outbox import create_event_tables, drop_event_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "projects",
        sa.Column("id", sa.String(100), primary_key=True),
        sa.Column("organization", sa.String(100), nullable=False),
        sa.Column("key", sa.String(10), nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("visibility", sa.String(20), nullable=False),
        sa.Column("members", OrderedJson, nullable=False),
        sa.Column("workflow", OrderedJson, nullable=False),
        sa.Column("last_number", sa.BigInteger, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("create_time", UtcTimestamp, nullable=False),
        sa.Column("update_time", UtcTimestamp, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.UniqueConstraint("organization", "key", name="projects_key"),
    )
    op.create_index("projects_visibility", "projects", ["organization", "visibility", "id"])
    op.create_table(
        "project_members",
        sa.Column("project", sa.String(100), sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("user", sa.String(100), primary_key=True),
        sa.Column("organization", sa.String(100), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("project_members_user", "project_members", ["organization", "user", "project", "role"])
    op.create_table(
        "tasks",
        sa.Column("seq", BigSerial, primary_key=True),
        sa.Column("id", sa.String(100), nullable=False),
        sa.Column("organization", sa.String(100), nullable=False),
        sa.Column("project", sa.String(100), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("key", sa.String(40), nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("title_order", sa.Text, nullable=False),
        sa.Column("state", sa.String(40), nullable=False),
        sa.Column("priority", sa.String(20), nullable=False),
        sa.Column("priority_order", sa.SmallInteger, nullable=False),
        sa.Column("labels", JsonText, nullable=False),
        sa.Column("assignees", JsonText, nullable=False),
        sa.Column("creator", sa.String(100), nullable=False),
        sa.Column("external_id", sa.String(200), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("start_time", UtcTimestamp),
        sa.Column("due_time", UtcTimestamp),
        sa.Column("create_time", UtcTimestamp, nullable=False),
        sa.Column("update_time", UtcTimestamp, nullable=False),
        sa.Column("complete_time", UtcTimestamp),
        sa.Column("delete_time", UtcTimestamp),
        sa.Column("description", sa.Text, nullable=False),
        sa.UniqueConstraint("id", name="tasks_id"),
        sa.UniqueConstraint("organization", "key", name="tasks_key"),
    )
    op.create_index("tasks_created", "tasks", ["organization", "create_time", "seq", "delete_time", "state", "project"])
    op.create_index("tasks_updated", "tasks", ["organization", "update_time", "seq", "delete_time", "state", "project"])
    op.create_index(
        "tasks_project_created", "tasks", ["organization", "project", "create_time", "seq", "delete_time", "state"]
    )
    op.create_index(
        "tasks_project_updated", "tasks", ["organization", "project", "update_time", "seq", "delete_time", "state"]
    )
    op.create_index("tasks_project_state", "tasks", ["organization", "project", "state", "create_time", "seq"])
    op.create_index("tasks_due", "tasks", ["organization", "due_time", "seq"])
    known = sa.text("external_id != ''")
    op.create_index(
        "tasks_external",
        "tasks",
        ["project", "external_id"],
        unique=True,
        sqlite_where=known,
        postgresql_where=known,
    )
    op.create_table(
        "task_labels",
        sa.Column("task", sa.BigInteger, sa.ForeignKey("tasks.seq", ondelete="CASCADE"), primary_key=True),
        sa.Column("label", sa.String(50), primary_key=True),
        sa.Column("organization", sa.String(100), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("task_labels_label", "task_labels", ["organization", "label", "task"])
    op.create_table(
        "task_assignees",
        sa.Column("task", sa.BigInteger, sa.ForeignKey("tasks.seq", ondelete="CASCADE"), primary_key=True),
        sa.Column("user", sa.String(100), primary_key=True),
        sa.Column("organization", sa.String(100), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("task_assignees_user", "task_assignees", ["organization", "user", "task"])
    _create_search(op.get_bind().dialect.name)
    create_event_tables(op)
    compare_by_code_point(op)


def downgrade() -> None:
    """Drops them."""
    drop_event_tables(op)
    op.execute("DROP TABLE task_search")
    for name in ("task_assignees", "task_labels", "tasks", "project_members", "projects"):
        op.drop_table(name)


def _create_search(dialect: str) -> None:
    if dialect == "sqlite":
        op.execute(
            "CREATE VIRTUAL TABLE task_search USING"
            " fts5(title, description, labels, key, tokenize='ascii', prefix='2 3')"
        )
        return
    op.create_table(
        "task_search",
        sa.Column("seq", sa.BigInteger, sa.ForeignKey("tasks.seq", ondelete="CASCADE"), primary_key=True),
        sa.Column("document", TSVECTOR, nullable=False),
    )
    # Without `fastupdate` no search goes through a list of what was not yet sorted in.
    op.create_index(
        "task_search_document",
        "task_search",
        ["document"],
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
    )
