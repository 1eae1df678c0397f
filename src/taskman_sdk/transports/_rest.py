"""A message as a REST request: path, query and body after google.api.http."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

from taskman_sdk import codec
from taskman_sdk.contract import Method
from taskman_sdk.errors import FieldViolation, InvalidArgumentError, UnimplementedError

__all__ = ["rest_request"]


def rest_request(method: Method, request: codec.Message[Any]) -> tuple[str, str, bytes | None]:
    """Verb, target (path and query) and body of a call.

    Raises:
        InvalidArgumentError: a field that belongs into the path cannot stand there.
        UnimplementedError: the RPC has no REST route.
    """
    route = method.route
    if route is None:
        raise UnimplementedError(f"{method.operation_id} is internal: it has no REST route")
    value: dict[str, Any] = codec.to_value(request, implicit=False)
    for name in value:
        field = getattr(request, name)
        if isinstance(field, codec.FieldMask) and route.body != "*":  # ProtoJSON would say it in lowerCamelCase
            value[name] = ",".join(field.paths)
    path = route.template
    for parameter in route.parameters:
        path = path.replace("{" + parameter + "}", _segment(parameter, _take(value, parameter)))
    body: bytes | None = None
    if route.body == "*":
        body, value = _dump(value), {}
    elif route.body:
        body = _dump(value.pop(route.body, {}))
    pairs = list(_query(value, ""))
    return route.verb, f"{path}?{urlencode(pairs, quote_via=quote)}" if pairs else path, body


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _take(value: dict[str, Any], path: str) -> str:
    *parents, leaf = path.split(".")
    for parent in parents:
        value = value.get(parent, {})
    return str(value.pop(leaf, ""))


def _segment(name: str, text: str) -> str:
    if text in ("", ".", ".."):
        problem = f"{text!r} cannot be an id or a key"
        field = name.removesuffix(".id")
        raise InvalidArgumentError(f"Not sent: {field} is wrong.", field_violations=[FieldViolation(field, problem)])
    return quote(text, safe="")


def _query(value: dict[str, Any], prefix: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, each in value.items():
        if isinstance(each, dict):
            pairs += _query(each, f"{prefix}{name}.")
        else:
            pairs += [(f"{prefix}{name}", _text(one)) for one in (each if isinstance(each, list) else [each])]
    return pairs


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
