"""The served OpenAPI document against its own server, with requests that nobody thought of (GATE-1, GATE-4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from taskman_sdk.errors import TaskManError
from taskman_server.settings import SERVICES
from tests.contract.receivers import MailServer
from tests.contract.servers import ClusterProcess, ServerProcess
from tests.contract.waiting import eventually
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


@pytest_asyncio.fixture(loop_scope="session")
async def server(
    request: pytest.FixtureRequest, shape: str, mail: MailServer, tmp_path: Path
) -> AsyncIterator[ServerProcess]:
    """A server of its own: the requests create what they like."""
    settings = {
        "admin_email": ADMIN_EMAIL, "admin_password": ADMIN_PASSWORD, "smtp_url": mail.url, "rate_limit": "off",
        "password_hash": "fast", "log_format": "json",
    }  # fmt: skip
    if shape == "cluster":
        process: ServerProcess = ClusterProcess(
            tmp_path,
            database_url=request.getfixturevalue("postgresql").family(SERVICES),
            broker_url=request.getfixturevalue("rabbitmq").vhost("openapi"),
            redis_url=request.getfixturevalue("redis_server").database(),
            **settings,
        )
    else:
        process = ServerProcess(tmp_path, sqlite_synchronous="normal", **settings)
    try:
        await process.ready()
        yield process
    finally:
        process.stop()
    assert process.faults() == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("shape", ["embedded", "cluster"])
async def test_answers_are_what_the_document_says(server: ServerProcess) -> None:
    """GATE-1, GATE-4: no 5xx, no status, type or field that is not in the document."""
    wire = RestWire(server.url)

    async def sign_in() -> str:
        login = {"email": ADMIN_EMAIL, "password": ADMIN_PASSWORD}
        return str((await wire.call("AuthenticationService.Login", login))["access_token"])

    token = await eventually(sign_in, "the administrator", seconds=60, ignore=(TaskManError,))
    await wire.close()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        document = (await http.get("/openapi.json")).json()
    assert document["servers"] == [{"url": server.url}]
    assert await asyncio.to_thread(violations, document, server.url, token) == []
