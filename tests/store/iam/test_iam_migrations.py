"""Migrations make what the stores describe, forward and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from taskman_server.kit.db.migrate import downgrade, upgrade
from taskman_server.services import authorization, iam
from taskman_server.services.authorization.store import METADATA as AUTHORIZATION
from taskman_server.services.iam.store import METADATA as IAM


@pytest.mark.parametrize(
    ("module", "metadata"), [(iam, IAM), (authorization, AUTHORIZATION)], ids=["iam", "authorization"]
)
def test_the_migrated_schema_is_the_described_one(tmp_path: Path, module: object, metadata: sa.MetaData) -> None:
    """No difference after the last step; nothing left after the way back."""
    file = tmp_path / "service.db"
    migrations = Path(str(module.__file__)).parent / "migrations"  # type: ignore[attr-defined]
    assert upgrade(file, migrations)
    engine = sa.create_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()
    assert downgrade(file, migrations, "base")
    with engine.connect() as connection:
        assert set(sa.inspect(connection).get_table_names()) <= {"alembic_version"}
    engine.dispose()
