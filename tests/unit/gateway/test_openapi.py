"""The OpenAPI document (GATE-1)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from taskman_sdk import contract
from taskman_server.gateway.openapi import document

DOCUMENT = document("http://taskman.example")
ROUTED = [method for method in contract.methods() if method.route is not None]


def operation_of(method: contract.Method) -> dict[str, Any]:
    assert method.route is not None
    path = re.sub(r"\{(\w+)\.id\}", r"{\1}", method.route.template)
    found: dict[str, Any] = DOCUMENT["paths"][path][method.route.verb.lower()]
    return found


@pytest.mark.parametrize("method", ROUTED, ids=lambda method: method.operation_id)
def test_every_rpc_is_described(method: contract.Method) -> None:
    """GATE-1, IAM-3: what it does, who may, what it takes, how it fails."""
    operation = operation_of(method)
    assert operation["operationId"] == method.operation_id
    assert operation["summary"]
    assert not operation["summary"].endswith(".")
    assert operation["security"] == ([] if method.access == "public" else [{"bearer": []}])
    assert operation.get("x-permission", "") == method.permission
    assert "default" in operation["responses"]
    assert method.route is not None
    in_path = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
    assert in_path == [parameter.removesuffix(".id") for parameter in method.route.parameters]
    assert ("requestBody" in operation) == bool(method.route.body)
    names = [each["name"] for each in operation["parameters"]]
    assert ("Idempotency-Key" in names) == (not method.read_only and not method.sensitive)
    assert len(names) == len(set(names))


def test_no_two_paths_differ_in_the_names_of_their_parameters_alone() -> None:
    """GATE-1: OpenAPI 3.1 takes them for one, and many tools for an error; names are words."""
    shapes = [re.sub(r"\{\w+\}", "{}", path) for path in DOCUMENT["paths"]]
    assert len(shapes) == len(set(shapes))
    assert not [shape for shape in shapes if re.search(r"\{[^}]", shape)]


def test_internal_rpcs_are_not_in_it() -> None:
    """GATE-2."""
    text = json.dumps(DOCUMENT)
    for method in contract.methods():
        if method.access == "internal":
            assert method.operation_id not in text


def test_every_reference_leads_somewhere() -> None:
    """GATE-1: and nothing is described that nothing refers to."""
    refs: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                refs.add(value["$ref"])
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(DOCUMENT)
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    known |= {f"#/components/responses/{name}" for name in DOCUMENT["components"]["responses"]}
    assert refs == known


def test_rules_of_the_contract_are_in_the_schemas() -> None:
    """GATE-1, GATE-4."""
    schemas = DOCUMENT["components"]["schemas"]
    task = schemas["Task"]["properties"]
    assert task["title"]["maxLength"] == 500
    assert task["priority"]["enum"] == ["low", "medium", "high", "urgent", ""]
    assert (task["labels"]["maxItems"], task["labels"]["uniqueItems"]) == (50, True)
    assert task["due_time"]["format"] == "date-time"
    assert schemas["RegisterRequest"]["properties"]["email"]["format"] == "email"
    assert schemas["Project"]["properties"]["key"]["pattern"] == "^$|^[A-Z][A-Z0-9]{0,9}$"
    url = schemas["Webhook"]["properties"]["url"]
    assert url["anyOf"] == [{"const": ""}, {"maxLength": 2000, "format": "uri"}]


def test_it_is_json_that_a_browser_reads() -> None:
    """GATE-1: OpenAPI 3.1."""
    assert DOCUMENT["openapi"].startswith("3.1")
    assert DOCUMENT["servers"] == [{"url": "http://taskman.example"}]
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT
