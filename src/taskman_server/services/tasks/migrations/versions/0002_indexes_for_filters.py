"""The indexes by which tasks are listed hold what most filters and policies ask for."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
survives = "0001"
branch_labels = None
depends_on = None

_INDEXES = {
    "tasks_created": (["organization", "create_time", "seq"], ["delete_time", "state", "project"]),
    "tasks_updated": (["organization", "update_time", "seq"], ["delete_time", "state", "project"]),
    "tasks_project_created": (["organization", "project", "create_time", "seq"], ["delete_time", "state"]),
    "tasks_project_updated": (["organization", "project", "update_time", "seq"], ["delete_time", "state"]),
}


def upgrade() -> None:
    """Makes them anew, with more columns."""
    for name, (columns, more) in _INDEXES.items():
        op.drop_index(name, "tasks")
        op.create_index(name, "tasks", columns + more)


def downgrade() -> None:
    """Makes them as they were."""
    for name, (columns, _) in _INDEXES.items():
        op.drop_index(name, "tasks")
        op.create_index(name, "tasks", columns)
