"""What expressions can name, made from the contract's messages: list filters (TASK-6) and policies (AUTHZ-2)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from protobuf import DescField, DescFieldValueList, DescFieldValueMessage, DescFieldValueScalar, ScalarType
from sqlalchemy import ColumnElement

from taskman_sdk import codec
from taskman_sdk.errors import FieldViolation, InvalidArgumentError
from taskman_server.kit.cel import (
    BOOL,
    INT,
    STRING,
    TIMESTAMP,
    CelError,
    CelType,
    Environment,
    Limits,
    Program,
    list_of,
    nullable,
    record,
)

__all__ = ["PRINCIPAL", "bad_expression", "compile_filter", "list_environment", "plan_filter", "policy_environment"]

PRINCIPAL = record({"id": STRING, "type": STRING, "organization": STRING, "roles": list_of(STRING)})
# A plan is all conditions about a permission in one text; each of them was checked by itself against the defaults.
_COMBINED = Limits(text_length=262_144, nodes=20_000)
_SCALARS = {ScalarType.STRING: STRING, ScalarType.BOOL: BOOL, ScalarType.INT32: INT, ScalarType.INT64: INT}


def _type(field: DescField) -> CelType | None:
    value = field.value
    if isinstance(value, DescFieldValueList):
        return list_of(STRING) if value.element is ScalarType.STRING else None
    if isinstance(value, DescFieldValueScalar):
        return _SCALARS.get(value.scalar)
    if isinstance(value, DescFieldValueMessage) and value.message.type_name == "google.protobuf.Timestamp":
        return nullable(TIMESTAMP)
    return None


def _fields(message: type[codec.Message[Any]], exclude: Collection[str] = ()) -> dict[str, CelType]:
    types = {field.name: _type(field) for field in message.desc().fields if field.name not in exclude}
    return {name: kind for name, kind in types.items() if kind is not None}


def list_environment(message: type[codec.Message[Any]], *, exclude: Collection[str] = ("etag",)) -> Environment:
    """The fields of a resource as bare names, for `filter`; and `now`."""
    return Environment({**_fields(message, exclude), "now": TIMESTAMP})


def policy_environment(message: type[codec.Message[Any]]) -> Environment:
    """`principal`, `resource` with the fields of the message, and `now`, for policies."""
    variables = {"principal": PRINCIPAL, "resource": record(_fields(message)), "now": TIMESTAMP}
    return Environment(variables, limits=_COMBINED)


def compile_filter(environment: Environment, text: str) -> Program | None:
    """The program of a list's `filter`; None for an empty one.

    Raises:
        InvalidArgumentError: it is not a valid expression; the position is named.
    """
    if not text.strip():
        return None
    try:
        return environment.compile(text)
    except CelError as error:
        raise bad_expression(error, "filter") from None


def plan_filter(program: Program, columns: Mapping[str, Any], now: datetime) -> ColumnElement[bool]:
    """The WHERE of a filter that was compiled.

    Raises:
        InvalidArgumentError: a database cannot search by it; the position is named.
    """
    try:
        return program.plan(columns, {"now": now})
    except CelError as error:
        raise bad_expression(error, "filter") from None


def bad_expression(error: CelError, field: str) -> InvalidArgumentError:
    """The error for an expression that cannot be used, with the field it stood in and the position."""
    position = error.position
    where = {} if position is None else {"line": str(position.line), "column": str(position.column)}
    return InvalidArgumentError(
        f"{field} cannot be used: {error}",
        reason="EXPRESSION_INVALID",
        metadata=where,
        field_violations=[FieldViolation(field, str(error), "cel")],
    )
