"""Requests for every RPC, made from the contract, and the ways in which each of them can be wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from protobuf import (
    DescField,
    DescFieldValueEnum,
    DescFieldValueList,
    DescFieldValueMessage,
    DescFieldValueScalar,
    DescMessage,
    ScalarType,
)
from protovalidate._gen.buf.validate.validate_pb import FieldRules
from protovalidate._gen.buf.validate.validate_pb import ext_field as ext_validate

from taskman_sdk import contract

__all__ = ["ROUTED", "Wrong", "body_fields", "request_for", "wrong_bodies", "wrong_queries"]

Json = dict[str, Any]
ROUTED = [method for method in contract.methods() if method.route is not None]
UNKNOWN = "thing_01j00000000000000000000000"

# One request of each RPC that has a body, in which nothing is wrong but that what it names is not there.
_REQUESTS: dict[str, Json] = {
    "AuthenticationService.Register": {"email": "x@example.com", "password": "a-stapled-otter-91", "display_name": "X"},
    "AuthenticationService.Login": {"email": "x@example.com", "password": "a-stapled-otter-91"},
    "AuthenticationService.Refresh": {"refresh_token": "tmr_unknown"},
    "AuthenticationService.ChangePassword": {"current_password": "wrong-otter", "new_password": "a-new-otter-is-here"},
    "AuthenticationService.RequestPasswordReset": {"email": "x@example.com"},
    "AuthenticationService.ResetPassword": {"token": "tmx_unknown", "password": "a-new-otter-is-here"},
    "AuthenticationService.SetUp": {
        "token": "tms_unknown",
        "email": "x@example.com",
        "password": "a-new-otter-is-here",
    },
    "AuthorizationService.Check": {"permission": "tasks.read", "resource": {"id": "x"}},
    "AuthorizationService.PlanResources": {"permission": "tasks.read"},
    "UserService.CreateUser": {"user": {"email": "x@example.com", "display_name": "X"}},
    "UserService.UpdateUser": {"user": {"id": UNKNOWN, "display_name": "X"}},
    "IamAdminService.CreateRole": {"role": {"name": "sample", "permissions": ["tasks.read"]}},
    "IamAdminService.UpdateRole": {"role": {"id": UNKNOWN, "description": "x"}},
    "IamAdminService.CreatePolicy": {
        "policy": {"name": "sample", "effect": "EFFECT_ALLOW", "permissions": ["tasks.read"], "condition": "true"}
    },
    "IamAdminService.UpdatePolicy": {"policy": {"id": UNKNOWN, "description": "x"}},
    "IamAdminService.CreateAssignment": {"assignment": {"principal": UNKNOWN, "role": "viewer"}},
    "TaskService.CreateProject": {"project": {"key": "SAMPLE", "display_name": "X"}},
    "TaskService.UpdateProject": {"project": {"id": UNKNOWN, "display_name": "X"}},
    "TaskService.AddProjectMember": {"project": UNKNOWN, "user": UNKNOWN, "role": "editor"},
    "TaskService.CreateTask": {"task": {"project": UNKNOWN, "title": "X", "labels": ["a"]}},
    "TaskService.UpdateTask": {"task": {"id": UNKNOWN, "title": "X"}},
    "TaskService.AssignTask": {"task": UNKNOWN, "assignees": [UNKNOWN]},
    "TaskService.UnassignTask": {"task": UNKNOWN, "assignees": [UNKNOWN]},
    "TaskService.TransitionTask": {"task": UNKNOWN, "state": "done"},
    "TaskService.ImportTasks": {"project": UNKNOWN, "tasks": [{"title": "X"}]},
    "TaskService.SearchTasks": {"query": "x"},
    "NotificationService.CreateWebhook": {"webhook": {"url": "https://example.com/hook"}},
    "NotificationService.UpdateWebhook": {"webhook": {"id": UNKNOWN, "description": "x"}},
}


def request_for(method: contract.Method) -> Json:
    """A request that is right in form; what it names is not there."""
    request: Json = json.loads(json.dumps(_REQUESTS.get(method.operation_id, {})))
    for parameter in method.route.parameters if method.route is not None else ():
        if "." not in parameter:
            request.setdefault(parameter, UNKNOWN)
    return request


@dataclass(frozen=True, slots=True)
class Wrong:
    """Something wrong: what, the request with it, and the field that an answer must name (any of them)."""

    what: str
    request: Json
    fields: tuple[str, ...]


def rules_of(field: DescField) -> FieldRules:
    """The contract's rules of a field."""
    options = field.proto.options
    return options[ext_validate] if options is not None and ext_validate in options else FieldRules()


def body_fields(method: contract.Method) -> tuple[str, list[DescField]]:
    """The field that the body fills (empty for the message itself) and the fields in the body."""
    route = method.route
    assert route is not None
    desc = method.input.desc()
    taken = {parameter.rpartition(".")[2] for parameter in route.parameters}
    if route.body not in ("", "*"):
        value = next(field for field in desc.fields if field.name == route.body).value
        assert isinstance(value, DescFieldValueMessage)
        return route.body, [field for field in value.message.fields if field.name not in taken]
    return "", [field for field in desc.fields if field.name not in taken] if route.body else []


def _wrong_types(field: DescField) -> list[Any]:
    value = field.value
    if isinstance(value, DescFieldValueList):
        return ["text", 7, {"a": 1}, [None]]
    if isinstance(value, DescFieldValueEnum):
        return ["NO_SUCH_VALUE", {"a": 1}, [1], True]
    if isinstance(value, DescFieldValueMessage):
        if value.message.type_name == "google.protobuf.Timestamp":
            return ["yesterday", "2031-13-01T00:00:00Z", 7, True, {"seconds": 1}, [1]]
        return ["text", 7, [1]]
    if isinstance(value, DescFieldValueScalar) and value.scalar is ScalarType.STRING:
        return [7, True, {"a": 1}, ["x"]]
    if isinstance(value, DescFieldValueScalar) and value.scalar is ScalarType.BOOL:
        return ["yes", 7, {"a": 1}]
    return ["many", True, {"a": 1}, 1.5, 2**40]


def _wrong_values(field: DescField) -> Iterator[tuple[str, Any]]:
    rules = rules_of(field)
    kind: Any = rules.type.value if rules.type is not None else None
    value = field.value
    if isinstance(value, DescFieldValueList):
        if kind is not None and kind.max_items:
            messages = isinstance(value.element, DescMessage)
            yield "too many", [{} if messages else f"a{number}.b" for number in range(kind.max_items + 1)]
        if kind is not None and kind.min_items:
            yield "too few", []
        return
    if isinstance(value, DescFieldValueScalar) and value.scalar is ScalarType.STRING and kind is not None:
        if kind.max_len:
            yield "too long", "é" * (kind.max_len + 1)
        if kind.min_len:
            yield "missing", ""
        if kind.pattern or kind.in_:
            yield "of no known form", "§ no such thing §"


def wrong_bodies(method: contract.Method) -> Iterator[Wrong]:
    """Every field of the body with a wrong type, or a value that the rules forbid; and one field too many."""
    outer, fields = body_fields(method)
    good = request_for(method)

    def put(name: str, value: Any) -> Json:
        request = json.loads(json.dumps(good))
        (request.setdefault(outer, {}) if outer else request)[name] = value
        return dict(request)

    for field in fields:
        path = f"{outer}.{field.name}" if outer else field.name
        for value in _wrong_types(field):
            yield Wrong(f"{field.name}: {json.dumps(value)[:30]}", put(field.name, value), (path, field.name, "body"))
        for what, value in _wrong_values(field):
            yield Wrong(f"{field.name} {what}", put(field.name, value), (path, f"{path}[0]"))
    yield Wrong("an unknown field", put("no_such_field", 1), ("no_such_field",))


def wrong_queries(method: contract.Method) -> Iterator[tuple[str, str, str]]:
    """What is wrong, a query string, and the field that an answer must name."""
    route = method.route
    assert route is not None
    if route.body == "*":
        yield "a query where there is none", "no_such_parameter=1", "no_such_parameter"
        return
    taken = {parameter.split(".")[0] for parameter in route.parameters} | {route.body}
    yield "an unknown parameter", "no_such_parameter=1", "no_such_parameter"
    for field in method.input.desc().fields:
        if field.name in taken or not isinstance(field.value, DescFieldValueScalar):
            continue
        kind: Any = rules_of(field).type
        kind = kind.value if kind is not None else None
        if field.value.scalar is ScalarType.INT32:
            yield "no number", f"{field.name}=many", field.name
            yield "too large a number", f"{field.name}={2**40}", field.name
            yield "a negative number", f"{field.name}=-1", field.name
        elif field.value.scalar is ScalarType.BOOL:
            yield "no truth", f"{field.name}=perhaps", field.name
        else:
            yield "no UTF-8", f"{field.name}=%ff%fe", field.name
            if kind is not None and kind.max_len:
                yield "too long", f"{field.name}={'x' * (kind.max_len + 1)}", field.name
        yield "twice", f"{field.name}=1&{field.name}=0", field.name
        if field.name == "page_token":
            yield "a bad cursor", "page_token=nonsense", "page_token"
        if field.name == "filter":
            yield "a bad filter", "filter=a%20%3D%3D", "filter"
        if field.name == "order_by":
            yield "a bad order", "order_by=colour", "order_by"
