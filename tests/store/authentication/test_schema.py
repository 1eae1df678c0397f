"""The schemas of the Authentication and the Users service."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from taskman_server.kit.db.migrate import upgrade
from taskman_server.kit.rpc import ServiceDefinition
from taskman_server.services.authentication import SERVICE as AUTHENTICATION
from taskman_server.services.users import SERVICE as USERS
from tests.store.authentication.harness import TABLES


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
