"""A new RPC is one entry in the contract and one handler; all else follows (DESIGN "The contract is the source")."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from starlette.applications import Starlette

from taskman_sdk import contract
from taskman_sdk.contract import ContractError
from taskman_sdk.errors import NotFoundError, UnauthenticatedError
from taskman_server.gateway.app import Gateway
from taskman_server.gateway.openapi import document
from taskman_server.kit.rpc import LocalChannel, Pipeline
from tests.contract.probe import PROBE, Probe, ProbeHandlers, compile_proto, probe_service, running_probe
from tests.contract.wires import problem_error

WITHOUT_RULE = """
syntax = "proto3";
package taskman.{area}.v1;
import "google/api/annotations.proto";
import "taskman/options/v1/options.proto";
service OpenService {{
  rpc Look(LookRequest) returns (LookResponse) {{ {options} }}
}}
message LookRequest {{ string name = 1; }}
message LookResponse {{}}
"""


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> contract.Service:
    return probe_service(tmp_path_factory.mktemp("probe"))


@pytest_asyncio.fixture(loop_scope="session")
async def probe(service: contract.Service, tmp_path: Path) -> AsyncIterator[Probe]:
    async with running_probe(service, tmp_path) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def http(probe: Probe) -> AsyncIterator[httpx.AsyncClient]:
    """The gateway over the probe alone."""
    runtime = probe.runtime
    runtime.channels.add("probe", LocalChannel(probe.pipeline))
    gateway = Gateway(
        runtime.channels, runtime.authenticator, runtime.guard, runtime.settings, runtime.clock, runtime.telemetry,
        Starlette(), probe.service.methods.values(),
    )  # fmt: skip
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://probe") as client:
        yield client


async def test_the_route_the_fields_and_the_rules_come_from_the_contract(http: httpx.AsyncClient) -> None:
    """GATE-1: path, query and body reach the handler; the contract's rules hold."""
    answer = await http.post("/v1/probes/p%2F1:echo", json={"text": "ab", "times": 2}, headers={"x-request-id": "r1"})
    assert answer.status_code == 200
    assert answer.json() == {"text": "abab", "request_id": "r1", "metadata": ["x-request-id=r1"]}
    refused = await http.post("/v1/probes/p:echo", json={"text": "x" * 21})
    assert refused.status_code == 400
    assert [each.field for each in problem_error(refused).field_violations] == ["text"]


async def test_a_permission_is_asked_for_because_the_contract_says_so(http: httpx.AsyncClient) -> None:
    """IAM-3, GATE-2: nothing but the option stands between a caller and the handler."""
    error = problem_error(await http.post("/v1/probes/p:poke", json={}))
    assert isinstance(error, UnauthenticatedError)


async def test_a_stream_is_one_json_object_a_line(http: httpx.AsyncClient) -> None:
    """SDK-5: streaming over REST follows from `stream` in the contract."""
    answer = await http.get("/v1/probes/p:count", params={"to": 3})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.text == '{"number":1}\n{"number":2}\n{"number":3}\n'


async def test_what_the_contract_does_not_have_is_not_there(http: httpx.AsyncClient) -> None:
    """GATE-1: the table of routes is the contract's."""
    assert isinstance(problem_error(await http.get("/v1/tasks")), NotFoundError)
    assert isinstance(problem_error(await http.post("/v1/probes/p:unknown", json={})), NotFoundError)


def test_openapi_describes_it(service: contract.Service) -> None:
    """GATE-1: the document is made from the contract."""
    found = document("http://probe", [service])
    operation = found["paths"]["/v1/probes/{name}:echo"]["post"]
    assert operation["operationId"] == "ProbeService.Echo"
    assert operation["security"] == []
    schema = found["components"]["schemas"]["EchoRequest"]
    assert schema["properties"]["text"]["maxLength"] == 20
    assert schema["properties"]["times"] == {"type": "integer", "format": "int32", "minimum": 0}
    poke = found["paths"]["/v1/probes/{name}:poke"]["post"]
    assert poke["x-permission"] == "tasks.import"
    assert poke["security"] == [{"bearer": []}]


@pytest.mark.parametrize(
    ("area", "options"),
    [
        ("bare", ""),
        ("routed", 'option (google.api.http) = {get: "/v1/looks/{name}"};'),
        ("unspecified", 'option (google.api.http) = {get: "/v1/looks/{name}"}; '
                        "option (taskman.options.v1.rule) = {read_only: true};"),
        ("both", 'option (google.api.http) = {get: "/v1/looks/{name}"}; '
                 'option (taskman.options.v1.rule) = {access: ACCESS_PUBLIC permission: "tasks.read"};'),
    ],
)  # fmt: skip
def test_an_rpc_that_declares_no_permission_does_not_start(area: str, options: str, tmp_path: Path) -> None:
    """IAM-3: forgetting to say who may call is an error at start, which names the RPC and the remedy."""
    (desc,) = compile_proto(WITHOUT_RULE.format(area=area, options=options), area, tmp_path).services
    with pytest.raises(ContractError, match=rf"taskman\.{area}\.v1\.OpenService\.Look declares no permission"):
        contract.read_service(area, desc)


@pytest.mark.parametrize(
    ("area", "options", "problem"),
    [
        ("routeless", "option (taskman.options.v1.rule) = {access: ACCESS_PUBLIC};", "route exactly when"),
        ("exposed", 'option (google.api.http) = {get: "/v1/x"}; '
                    "option (taskman.options.v1.rule) = {access: ACCESS_INTERNAL};", "route exactly when"),
        ("misnamed", 'option (google.api.http) = {get: "/v1/x/{nothing}"}; '
                     "option (taskman.options.v1.rule) = {access: ACCESS_PUBLIC};", "names 'nothing'"),
    ],
)  # fmt: skip
def test_a_route_that_contradicts_its_rpc_does_not_start(area: str, options: str, problem: str, tmp_path: Path) -> None:
    """IAM-3, GATE-1: a public RPC has a route, an internal one has none, and its fields exist."""
    (desc,) = compile_proto(WITHOUT_RULE.format(area=area, options=options), area, tmp_path).services
    with pytest.raises(ContractError, match=problem):
        contract.read_service(area, desc)


async def test_a_missing_handler_is_refused_at_start(probe: Probe) -> None:
    """IAM-3: every RPC is answered, or nothing starts."""

    class Forgetful:
        echo = wait = fail = count = look = hold = ProbeHandlers.echo

    with pytest.raises(ContractError, match=r"Forgetful has no poke\(\) for ProbeService\.Poke"):
        Pipeline(probe.service, Forgetful(), probe.runtime)


async def test_a_handler_that_no_rpc_asks_for_is_refused_at_start(probe: Probe) -> None:
    """IAM-3: what the contract does not name cannot be called by a slip of the pen."""

    class Talkative(ProbeHandlers):
        async def shout(self, request: Any, call: Any) -> None: ...

    with pytest.raises(ContractError, match=r"Talkative\.shout\(\) answers no RPC"):
        Pipeline(probe.service, Talkative(probe.service), probe.runtime)


def test_the_probe_is_no_part_of_the_released_contract() -> None:
    """The contract that is served is the one in the package."""
    assert "probe" not in contract.AREAS
    assert "ProbeService" in PROBE
    assert "ProbeService" not in contract.services()
