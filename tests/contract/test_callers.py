"""Which service calls what as itself is said in the contract, and nothing else goes through (GATE-2)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import taskman_server
from taskman_sdk import contract
from taskman_sdk.contract import CALLERS, ContractError
from taskman_sdk.errors import PermissionDeniedError, TaskManError
from taskman_server.app import Application
from taskman_server.kit.rpc import CallOptions, service_principal
from tests.contract.probe import compile_proto

CALLED = re.compile(r'"([A-Z]\w+Service\.[A-Z]\w+)"')
PAIRS = [(method.operation_id, caller) for method in contract.methods() for caller in CALLERS]
DECLARED = {pair for pair in PAIRS if pair[1] in contract.method(pair[0]).callers}

RULE = """
syntax = "proto3";
package taskman.{area}.v1;
import "taskman/options/v1/options.proto";
service CalledService {{
  rpc Look(LookRequest) returns (LookResponse) {{
    option (taskman.options.v1.rule) = {{access: ACCESS_INTERNAL {callers}}};
  }}
}}
message LookRequest {{}}
message LookResponse {{}}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house() -> AsyncIterator[Application]:
    async with taskman_server.embedded(rate_limit="off") as application:
        yield application


async def refused(house: Application, operation: str, caller: str) -> bool:
    """Whether a call by the service is refused because of who calls; an empty request may well be wrong otherwise."""
    method = contract.method(operation)
    options = CallOptions(caller=service_principal(caller, "default"))
    try:
        if method.streaming:
            async for _ in house.channels.stream(method, method.input(), options):
                break
        else:
            await house.channels.unary(method, method.input(), options)
    except TaskManError as error:
        return error.reason == "CALLER_NOT_ALLOWED"
    return False


async def test_every_pair_that_is_not_declared_is_refused(house: Application) -> None:
    """GATE-2: all RPCs × eight services; what is refused is exactly what the contract does not name."""
    found = {pair for pair in PAIRS if not await refused(house, *pair)}
    assert found == DECLARED
    assert len(PAIRS) == 8 * len(list(contract.methods()))


async def test_a_refusal_names_who_may(house: Application) -> None:
    """GATE-2, GATE-1: what was wrong and where it is said."""
    method = contract.method("NotificationService.SendMail")
    options = CallOptions(caller=service_principal("tasks", "default"))
    with pytest.raises(PermissionDeniedError, match=r"'tasks' may .*; authentication may") as caught:
        await house.channels.unary(method, method.input(), options)
    assert caught.value.reason == "CALLER_NOT_ALLOWED"


def test_a_service_is_declared_where_it_calls_and_nowhere_else(repo: Path) -> None:
    """GATE-2: no right is left over from a call that is no longer made."""
    server = repo / "src" / "taskman_server"
    called = {
        (operation, service)
        for service in CALLERS[:-1]
        for file in (server / "services" / service).rglob("*.py")
        for operation in CALLED.findall(file.read_text())
    }
    everyone = {
        (operation, service)
        for name in ("guard.py", "identity.py")
        for operation in CALLED.findall((server / "kit" / name).read_text())
        for service in CALLERS
    }
    assert everyone
    assert called | everyone == DECLARED


@pytest.mark.parametrize(
    ("area", "callers", "problem"),
    [
        ("misspelt", 'callers: ["task"]', r"'task' in `callers` is no service"),
        ("uncalled", "", r"CalledService\.Look is internal and names nobody who calls it"),
    ],
)
def test_callers_that_cannot_be_meant_do_not_start(area: str, callers: str, problem: str, tmp_path: Path) -> None:
    """GATE-2, IAM-3: a slip of the pen is an error at start, not a refusal at night."""
    (desc,) = compile_proto(RULE.format(area=area, callers=callers), area, tmp_path).services
    with pytest.raises(ContractError, match=problem):
        contract.read_service(area, desc)
