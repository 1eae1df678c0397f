"""Whose deliveries are due, by organization and by webhook."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
survives = "0002"  # the code before it never left this house
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the indexes."""
    op.create_index("deliveries_turns", "deliveries", ["state", "channel", "organization", "next_attempt_time"])
    op.create_index("deliveries_webhook", "deliveries", ["state", "webhook", "next_attempt_time"])


def downgrade() -> None:
    """Drops them."""
    op.drop_index("deliveries_webhook", "deliveries")
    op.drop_index("deliveries_turns", "deliveries")
