"""The table of routes (GATE-1)."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskman_sdk import contract
from taskman_sdk.contract import ContractError
from taskman_server.gateway.routes import MethodNotAllowed, Router

ROUTER = Router(contract.methods())
ROUTED = [method for method in contract.methods() if method.route is not None]


@pytest.mark.parametrize("method", ROUTED, ids=lambda method: method.operation_id)
def test_every_route_of_the_contract_leads_to_its_rpc(method: contract.Method) -> None:
    """GATE-1: with its parameters in order, percent-decoded."""
    assert method.route is not None
    path, values = method.route.template, []
    for index, parameter in enumerate(method.route.parameters):
        values.append(f"v {index}/ß")
        path = path.replace("{" + parameter + "}", f"v%20{index}%2F%C3%9F")
    found = ROUTER.match(method.route.verb, path)
    assert found is not None
    assert (found.method.operation_id, found.values) == (method.operation_id, tuple(values))


def test_a_literal_wins_over_a_parameter() -> None:
    """GATE-1: `me` is no user's id; and yet another verb of the parameter's is found."""
    found = ROUTER.match("GET", "/v1/users/me")
    assert found is not None
    assert found.method.operation_id == "UserService.GetMe"
    found = ROUTER.match("PATCH", "/v1/users/me")
    assert found is not None
    assert (found.method.operation_id, found.values) == ("UserService.UpdateUser", ("me",))


def test_a_custom_method_wins_over_a_parameter() -> None:
    """AIP-136: the last colon divides; what stands before it may hold others."""
    found = ROUTER.match("POST", "/v1/tasks/a:b:assign")
    assert found is not None
    assert (found.method.operation_id, found.values) == ("TaskService.AssignTask", ("a:b",))
    found = ROUTER.match("GET", "/v1/tasks/a:b")
    assert found is not None
    assert (found.method.operation_id, found.values) == ("TaskService.GetTask", ("a:b",))


def test_a_known_path_with_another_verb_names_those_it_takes() -> None:
    """RFC 9110 section 15.5.6."""
    with pytest.raises(MethodNotAllowed) as caught:
        ROUTER.match("PUT", "/v1/tasks/x")
    assert caught.value.allowed == ("DELETE", "GET", "PATCH")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/nothing",
        "/v1",
        "/v1/tasks/x/y",
        "/v2/tasks",
        "/v1/tasks//members",
        "//",
        "/v1/tasks/:assign",
    ],
)
def test_nothing_is_where_the_contract_has_nothing(path: str) -> None:
    """GATE-1: no RPC by accident; an empty parameter is none."""
    with contextlib.suppress(MethodNotAllowed):
        assert ROUTER.match("POST", path) is None


@given(st.text(max_size=60), st.sampled_from(["GET", "POST", "PATCH", "DELETE"]))
def test_no_path_breaks_the_router(path: str, verb: str) -> None:
    """GATE-4: whatever it looks like."""
    try:
        found = ROUTER.match(verb, f"/v1/{path}")
        takes = [] if found is None or found.method.route is None else [found.method.route.verb]
    except MethodNotAllowed as error:
        takes = [other for other in error.allowed if other == verb] and ["itself"]
    assert takes in ([], [verb])


def test_two_rpcs_with_one_route_do_not_start() -> None:
    """IAM-3, GATE-1: the second would never be called."""
    get = contract.method("TaskService.GetTask")
    twin = dataclasses.replace(get, name="Twin", path="/x/Twin")
    with pytest.raises(ContractError, match=r"GetTask and TaskService\.Twin both have GET"):
        Router([get, twin])


def test_a_slash_at_the_end_is_no_other_path() -> None:
    """GATE-1: as most clients expect."""
    found = ROUTER.match("GET", "/v1/users/")
    assert found is not None
    assert found.method.operation_id == "UserService.ListUsers"
