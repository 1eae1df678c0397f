"""OpenAPI 3.1 from the contract: routes, schemas, permissions and rules, with the contract's comments (GATE-1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from protobuf import (
    DescEnum,
    DescField,
    DescFieldValueEnum,
    DescFieldValueList,
    DescFieldValueMap,
    DescFieldValueMessage,
    DescFieldValueScalar,
    DescMessage,
    ScalarType,
)
from protovalidate._gen.buf.validate.validate_pb import FieldRules, Ignore
from protovalidate._gen.buf.validate.validate_pb import ext_field as ext_validate

from taskman_sdk import contract
from taskman_sdk._version import __version__
from taskman_sdk.comments import comment
from taskman_sdk.proto.google.api.field_behavior_pb import FieldBehavior, ext_field_behavior

__all__ = ["document"]

_SERVER_SET: Final = frozenset({FieldBehavior.OUTPUT_ONLY, FieldBehavior.IDENTIFIER})
_INTEGERS: Final = {ScalarType.INT32, ScalarType.UINT32, ScalarType.SINT32}
_LONG: Final = {ScalarType.INT64, ScalarType.UINT64, ScalarType.SINT64}
_WELL_KNOWN: Final[Mapping[str, Mapping[str, Any]]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.FieldMask": {"type": "string", "description": "Field names, separated by commas."},
}
_PROBLEM: Final = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "required": ["type", "title", "status", "detail", "code", "reason"],
    "properties": {
        "type": {"type": "string", "description": "A stable URN of the reason."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was wrong, where, and what to do."},
        "instance": {"type": "string", "description": "The path that was called."},
        "code": {"type": "string", "description": "The canonical code, as in gRPC."},
        "reason": {"type": "string", "description": "The reason, for programs; stable."},
        "request_id": {"type": "string"},
        "retry_after": {"type": "number", "description": "Seconds."},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "field": {"type": "string"},
                    "detail": {"type": "string"},
                    "reason": {"type": "string"},
                },
            },
        },
    },
}


class _Schemas:
    def __init__(self) -> None:
        self.found: dict[str, Any] = {"Problem": _PROBLEM}

    def message(self, desc: DescMessage) -> dict[str, Any]:
        if desc.type_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[desc.type_name])
        if desc.name not in self.found:
            self.found[desc.name] = {}  # a message may hold itself
            self.found[desc.name] = self._object(desc)
        return {"$ref": f"#/components/schemas/{desc.name}"}

    def _object(self, desc: DescMessage) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "object", "description": comment(desc.type_name)}
        schema["properties"] = {field.name: self.field(desc, field) for field in desc.fields}
        required = [field.name for field in desc.fields if _rules(field).required]
        if required:
            schema["required"] = required
        return schema

    def field(self, owner: DescMessage, field: DescField) -> dict[str, Any]:
        schema = self._value(field)
        text = comment(f"{owner.type_name}.{field.name}")
        if _server_set(field):
            schema = {**schema, "readOnly": True}
        # Beside a $ref other keywords are allowed since 3.1.
        return {**schema, "description": text} if text else schema

    def _value(self, field: DescField) -> dict[str, Any]:
        value, rules = field.value, _rules(field)
        if isinstance(value, DescFieldValueList):
            kind: Any = rules.type.value if rules.type is not None else None
            items = getattr(kind, "items", None)
            schema: dict[str, Any] = {"type": "array", "items": self._element(value.element, items)}
            for name, keyword in (("min_items", "minItems"), ("max_items", "maxItems")):
                if kind is not None and getattr(kind, name):
                    schema[keyword] = getattr(kind, name)
            if kind is not None and kind.unique:
                schema["uniqueItems"] = True
            return schema
        if isinstance(value, DescFieldValueMap):
            return {"type": "object", "additionalProperties": self._element(value.value, None)}
        if isinstance(value, DescFieldValueMessage):
            return self._element(value.message, rules)
        if isinstance(value, DescFieldValueEnum):
            return self._element(value.enum, rules)
        assert isinstance(value, DescFieldValueScalar)
        return self._element(value.scalar, rules)

    def _element(self, kind: Any, rules: FieldRules | None) -> dict[str, Any]:
        if isinstance(kind, DescMessage):
            return self.message(kind)
        if isinstance(kind, DescEnum):
            return {"type": "string", "enum": [value.name for value in kind.values]}
        return _scalar(kind, rules)


def _rules(field: DescField) -> FieldRules:
    options = field.proto.options
    return options[ext_validate] if options is not None and ext_validate in options else FieldRules()


def _server_set(field: DescField) -> bool:
    """Whether no client gives the field (AIP-203)."""
    if field.proto.options is None:
        return False
    behavior: list[FieldBehavior] = field.proto.options[ext_field_behavior]
    return not _SERVER_SET.isdisjoint(behavior)


def _scalar(kind: ScalarType, rules: FieldRules | None) -> dict[str, Any]:
    if kind is ScalarType.BOOL:
        return {"type": "boolean"}
    if kind in _LONG:
        return {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"}
    if kind in (ScalarType.DOUBLE, ScalarType.FLOAT):
        return {"type": "number"}
    if kind is ScalarType.BYTES:
        return {"type": "string", "contentEncoding": "base64"}
    found: Any = rules.type.value if rules is not None and rules.type is not None else None
    if kind in _INTEGERS:
        schema: dict[str, Any] = {"type": "integer", "format": "int32"}
        lower = getattr(found, "greater_than", None)
        if lower is not None and lower.field == "gte":
            schema["minimum"] = lower.value
        return schema
    schema = {"type": "string"}
    if found is not None:
        for name, keyword in (("min_len", "minLength"), ("max_len", "maxLength"), ("pattern", "pattern")):
            if getattr(found, name, None):
                schema[keyword] = getattr(found, name)
        if getattr(found, "in_", None):
            schema["enum"] = list(found.in_)
        known = getattr(found, "well_known", None)
        if known is not None and known.field in ("email", "uri"):
            schema["format"] = known.field
    return _or_empty(schema) if rules is not None and rules.ignore is Ignore.IF_ZERO_VALUE else schema


def _or_empty(schema: dict[str, Any]) -> dict[str, Any]:
    """A text whose rules do not hold for the empty one, as answers may have it."""
    if "format" in schema:
        return {"type": "string", "anyOf": [{"const": ""}, {k: v for k, v in schema.items() if k != "type"}]}
    if "pattern" in schema:
        schema["pattern"] = f"^$|{schema['pattern']}"
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], ""]
    return schema


def document(server_url: str, services: Iterable[contract.Service] | None = None) -> dict[str, Any]:
    """The whole document.

    Args:
        server_url: where the API is.
        services: what it describes; all of the contract when None.
    """
    described = list(contract.services().values() if services is None else services)
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for method in (method for service in described for method in service.methods.values()):
        if method.route is not None:
            operations = paths.setdefault(_path(method.route), {})
            operations[method.route.verb.lower()] = _operation(method, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "TaskMan",
            "version": __version__,
            "description": "Tasks, people, rights, audit and notifications. The same calls go over gRPC.",
            "license": {"name": "Proprietary - TaskMan v2"},
        },
        "servers": [{"url": server_url}],
        "tags": [{"name": each.name, "description": comment(each.full_name)} for each in described],
        "paths": paths,
        "components": {
            "schemas": schemas.found,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "responses": {
                "Problem": {
                    "description": "What went wrong (RFC 9457).",
                    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
                }
            },
        },
    }


def _path(route: contract.Route) -> str:
    """The path as OpenAPI has it: `/v1/users/{user.id}` and `/v1/users/{user}` must be one path there."""
    return re.sub(r"\{(\w+)\.[\w.]+\}", r"{\1}", route.template)


def _operation(method: contract.Method, schemas: _Schemas) -> dict[str, Any]:
    route = method.route
    assert route is not None
    desc = method.input.desc()
    text = comment(method.path[1:].replace("/", "."))
    needs = f" Needs the permission `{method.permission}`." if method.permission else ""
    operation: dict[str, Any] = {
        "operationId": method.operation_id,
        "tags": [method.service],
        "summary": re.split(r"(?<=[.;])\s", text, maxsplit=1)[0].rstrip(".;"),
        "description": text + needs,
        "security": [] if method.access == "public" else [{"bearer": []}],
        "parameters": _parameters(method, desc, schemas),
        "responses": _responses(method, schemas),
    }
    if method.permission:
        operation["x-permission"] = method.permission
    if method.events:
        operation["x-events"] = list(method.events)
    if route.body:
        body = desc
        if route.body != "*":
            value = next(field for field in desc.fields if field.name == route.body).value
            assert isinstance(value, DescFieldValueMessage)
            body = value.message
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas.message(body)}},
        }
    return operation


def _parameters(method: contract.Method, desc: DescMessage, schemas: _Schemas) -> list[dict[str, Any]]:
    route = method.route
    assert route is not None
    found: list[dict[str, Any]] = []
    for path in route.parameters:
        owner, field = _find(desc, path)
        schema = schemas.field(owner, field)
        text = schema.pop("description", "")
        found.append(
            {"name": path.split(".")[0], "in": "path", "required": True, "description": text, "schema": schema}
        )
    taken = {path.split(".")[0] for path in route.parameters} | {route.body}
    if route.body != "*":
        for field in desc.fields:
            if field.name not in taken:
                schema = schemas.field(desc, field)
                text = schema.pop("description", "")
                found.append({"name": field.name, "in": "query", "description": text, "schema": schema})
    if not method.read_only and not method.sensitive:
        found.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Repeating the request with the same key within 24 hours answers the same, and does "
                "nothing twice.",
                "schema": {"type": "string", "maxLength": 255},
            }
        )
    return found


def _find(desc: DescMessage, path: str) -> tuple[DescMessage, DescField]:
    first, _, rest = path.partition(".")
    field = next(each for each in desc.fields if each.name == first)
    if not rest:
        return desc, field
    assert isinstance(field.value, DescFieldValueMessage)
    return _find(field.value.message, rest)


def _responses(method: contract.Method, schemas: _Schemas) -> dict[str, Any]:
    kind = "application/x-ndjson" if method.streaming else "application/json"
    status = "201" if method.name.startswith("Create") else "200"
    text = comment(method.output.desc().type_name) or "The answer."
    answer = {"description": text, "content": {kind: {"schema": schemas.message(method.output.desc())}}}
    return {status: answer, "default": {"$ref": "#/components/responses/Problem"}}
