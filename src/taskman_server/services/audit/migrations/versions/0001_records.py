"""Records and chains."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from taskman_server.kit.db import UtcTimestamp
from taskman_server.kit.db.schema import compare_by_code_point
from taskman_server.kit.outbox import create_event_tables, drop_event_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


# The categories that are kept for different times; `audit.expired` is never removed.
_CATEGORY = """CASE WHEN type = 'audit.expired' THEN 'kept'
    WHEN substr(type, 1, 5) = 'auth.' OR substr(type, 1, 4) = 'iam.'
        OR substr(type, 1, 6) = 'authz.' OR substr(type, 1, 6) = 'audit.' THEN 'security'
    ELSE 'activity' END"""
_COLUMNS = """CREATE TABLE records (
    organization text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    actor text COLLATE "C" NOT NULL,
    target_type text COLLATE "C" NOT NULL,
    target_id text COLLATE "C" NOT NULL,
    result text COLLATE "C" NOT NULL,
    time timestamptz NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    ip_address text COLLATE "C" NOT NULL,
    data text COLLATE "C" NOT NULL,
    previous text COLLATE "C" NOT NULL,
    hash text COLLATE "C" NOT NULL
)"""
_PARTITIONS = (
    "CREATE TABLE records_kept PARTITION OF records FOR VALUES IN ('kept')",
    "CREATE TABLE records_security PARTITION OF records FOR VALUES IN ('security') PARTITION BY RANGE (time)",
    "CREATE TABLE records_activity PARTITION OF records FOR VALUES IN ('activity') PARTITION BY RANGE (time)",
    "CREATE TABLE records_security_default PARTITION OF records_security DEFAULT",
    "CREATE TABLE records_activity_default PARTITION OF records_activity DEFAULT",
)


def upgrade() -> None:
    """Makes the tables: on PostgreSQL a hypertable where TimescaleDB is installed, else partitions."""
    if op.get_bind().dialect.name == "postgresql":
        _records_by_time()
    else:
        _records()
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
    compare_by_code_point(op)


def _records() -> None:
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


def _records_by_time() -> None:
    if not _hypertable():
        op.execute(f"{_COLUMNS} PARTITION BY LIST (({_CATEGORY}))")
        for statement in _PARTITIONS:
            op.execute(statement)
    # What is unique in a partition is not so in all: that is for record_keys.
    op.create_index("records_sequence", "records", ["organization", "sequence"])
    op.create_table(
        "record_keys",
        sa.Column("organization", sa.Text, primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("time", UtcTimestamp, nullable=False),
    )
    op.create_index("record_keys_id", "record_keys", ["id"], unique=True)


def _hypertable() -> bool:
    """Whether `records` could be made as a hypertable. What TimescaleDB refuses leaves no trace.

    Never run on a TimescaleDB: the statements are those of its documentation, seen to reach functions of that name.
    """
    connection = op.get_bind()
    if connection.exec_driver_sql("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'").first() is None:
        return False
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(_COLUMNS)
            connection.exec_driver_sql(
                "SELECT create_hypertable('records', 'time', chunk_time_interval => INTERVAL '7 days',"
                " create_default_indexes => FALSE)"
            )
    except sa.exc.DBAPIError:
        return False
    return True


def downgrade() -> None:
    """Drops them."""
    drop_event_tables(op)
    op.drop_table("chains")
    if op.get_bind().dialect.name == "postgresql":
        op.drop_table("record_keys")
    op.drop_table("records")
