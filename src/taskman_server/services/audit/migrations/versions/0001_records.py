"""Records and chains."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from taskman_server.kit.db import UtcTimestamp
from taskman_server.kit.outbox import create_event_tables, drop_event_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "records",
        sa.Column("organization", sa.Text, primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("target_type", sa.Text, nullable=False),
        sa.Column("target_id", sa.Text, nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("time", UtcTimestamp, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("ip_address", sa.Text, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("previous", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
    )
    op.create_index("records_id", "records", ["id"], unique=True)
    op.create_index("records_actor", "records", ["organization", "actor", "sequence"])
    op.create_index("records_target", "records", ["organization", "target_id", "sequence"])
    op.create_index("records_type", "records", ["organization", "type", "sequence"])
    op.create_index("records_time", "records", ["organization", "time"])
    op.create_index("records_request", "records", ["organization", "request_id"])
    op.create_table(
        "chains",
        sa.Column("organization", sa.Text, primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("update_time", UtcTimestamp, nullable=False),
    )
    create_event_tables(op)


def downgrade() -> None:
    """Drops them."""
    drop_event_tables(op)
    op.drop_table("chains")
    op.drop_table("records")
