"""The schemas of the Authentication and the Users service."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from taskman_server.kit.db.migrate import current, downgrade, upgrade
from taskman_server.kit.rpc import ServiceDefinition
from taskman_server.services.authentication import SERVICE as AUTHENTICATION
from taskman_server.services.users import SERVICE as USERS
from tests.store.authentication.harness import TABLES


@pytest.mark.parametrize("definition", [AUTHENTICATION, USERS], ids=lambda each: each.name)
def test_the_migrated_schema_is_the_one_the_store_describes(definition: ServiceDefinition, tmp_path: Path) -> None:
    """OPS-4: forward, back to nothing, and forward again; no difference to the tables in code."""
    path = tmp_path / "service.db"
    assert upgrade(path, definition.migrations)
    assert downgrade(path, definition.migrations, "base")
    assert upgrade(path, definition.migrations)
    assert current(path) is not None
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, TABLES[definition.name]) == []
    engine.dispose()


def test_the_file_that_holds_the_keys_is_for_its_owner_alone(tmp_path: Path) -> None:
    """AUTHN-3: 0600."""
    path = tmp_path / "authentication.db"
    upgrade(path, AUTHENTICATION.migrations)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("definition", [AUTHENTICATION, USERS], ids=lambda each: each.name)
def test_every_row_of_a_tenant_names_its_organization(definition: ServiceDefinition) -> None:
    """USER-1: but for what has no tenant yet, or belongs to the deployment."""
    without = {name for name, table in TABLES[definition.name].tables.items() if "organization" not in table.c}
    assert without - {"inbox", "idempotency"} <= {"registrations", "signing_keys", "throttles", "mail_requests"}
