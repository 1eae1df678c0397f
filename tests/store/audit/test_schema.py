"""The schema that the migrations make is the one that the queries are written for."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from taskman_server.kit.db.migrate import downgrade, upgrade
from taskman_server.services import audit, notifications
from taskman_server.services.audit.store import METADATA as AUDIT
from taskman_server.services.notifications.tables import METADATA as NOTIFICATIONS


@pytest.mark.parametrize(("package", "metadata"), [(audit, AUDIT), (notifications, NOTIFICATIONS)])
def test_migrations_and_metadata_agree_and_lead_back(package: object, metadata: sa.MetaData, tmp_path: Path) -> None:
    """Forward there is no difference, back nothing is left, and forward again works."""
    folder = Path(str(getattr(package, "__file__", ""))).parent / "migrations"
    file = tmp_path / "service.db"
    assert upgrade(file, folder)
    engine = sa.create_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = [d for d in compare_metadata(context, metadata) if "alembic_version" not in str(d)]
    assert differences == []
    assert downgrade(file, folder, "base")
    with engine.connect() as connection:
        assert set(sa.inspect(connection).get_table_names()) <= {"alembic_version"}
    engine.dispose()
    assert upgrade(file, folder)
