"""The served OpenAPI document against its own server, with requests that nobody thought of (GATE-1, GATE-4)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.receivers import MailServer
from tests.contract.servers import ServerProcess
from tests.contract.wires import RestWire
from tests.contract.world import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.parts import missing_part

EXAMPLES = 10
"""Requests made up for each operation."""
# It would end the session that the others need.
LEFT_OUT = {"AuthenticationService.Logout"}


def violations(document: dict[str, Any], url: str, token: str) -> list[str]:
    """What of the answers does not conform to the document, or is a fault of the server."""
    try:
        import schemathesis
        from schemathesis.checks import not_a_server_error
        from schemathesis.specs.openapi.checks import (
            content_type_conformance,
            response_schema_conformance,
            status_code_conformance,
        )
    except ImportError:
        missing_part("schemathesis", "pip install schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_dict(document)
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    found: list[str] = []
    tried = 0
    # Policies last: a made-up one may deny what the others try.
    operations = [result.ok() for result in schema.get_all_operations()]
    for operation in sorted(operations, key=lambda each: "policies" in each.path):
        identifier = operation.definition.raw["operationId"]
        if identifier in LEFT_OUT:
            continue

        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def conforms(case: Any) -> None:
            nonlocal tried
            tried += 1
            response = case.call(base_url=url, headers={"authorization": f"Bearer {token}"})
            case.validate_response(response, checks=checks)

        try:
            conforms()
        except BaseExceptionGroup as group:
            found += [f"{identifier}: {str(error)[:800]}" for error in group.exceptions]
        except Exception as error:
            found.append(f"{identifier}: {str(error)[:800]}")
    assert tried >= EXAMPLES * 30, f"only {tried} requests were tried"
    return found


@pytest.mark.timeout(180)
async def test_answers_are_what_the_document_says(mail: MailServer, tmp_path: Path) -> None:
    """GATE-1, GATE-4: no 5xx, no status, type or field that is not in the document. On a server of its own: the
    requests create what they like."""
    server = ServerProcess(
        tmp_path, admin_email=ADMIN_EMAIL, admin_password=ADMIN_PASSWORD, smtp_url=mail.url, rate_limit="off",
        password_hash="fast", sqlite_synchronous="normal", log_format="json",
    )  # fmt: skip
    try:
        await server.ready()
        wire = RestWire(server.url)
        login = {"email": ADMIN_EMAIL, "password": ADMIN_PASSWORD}
        token = (await wire.call("AuthenticationService.Login", login))["access_token"]
        await wire.close()
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            document = (await http.get("/openapi.json")).json()
        assert document["servers"] == [{"url": server.url}]
        found = await asyncio.to_thread(violations, document, server.url, token)
    finally:
        server.stop()
    assert found == []
    assert server.faults() == []
