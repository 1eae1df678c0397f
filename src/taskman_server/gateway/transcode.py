"""HTTP to message: path, query and body fill the request, as `google.api.http` says (AIP-127)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl

from protobuf import (
    DescField,
    DescFieldValueEnum,
    DescFieldValueList,
    DescFieldValueMessage,
    DescFieldValueScalar,
    DescMessage,
    ScalarType,
)

from taskman_sdk import codec
from taskman_sdk.contract import Method
from taskman_sdk.errors import FieldViolation, InvalidArgumentError

__all__ = ["Transcoder"]

_MASK: Final = "google.protobuf.FieldMask"
_TIMESTAMP: Final = "google.protobuf.Timestamp"
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False, "": True}


def _refuse(field: str, problem: str, reason: str = "FIELD_INVALID") -> NoReturn:
    raise InvalidArgumentError(
        f"{field}: {problem}", reason=reason, field_violations=[FieldViolation(field, problem, reason.lower())]
    )


def _boolean(name: str, text: str) -> bool:
    value = _BOOLEANS.get(text.lower())
    if value is None:
        _refuse(name, f"must be true or false, not {text[:50]!r}")
    return value


def _integer(name: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        _refuse(name, f"must be a whole number, not {text[:50]!r}")
    if not -(2**31) <= value < 2**31:
        _refuse(name, f"is out of range: {text[:50]}")
    return value


def _string(name: str, text: str) -> str:
    # What is not UTF-8 in the query arrives as lone surrogates, which no message can hold.
    if not text.isprintable() and any("\ud800" <= c <= "\udfff" for c in text):
        _refuse(name, "is not UTF-8")
    return text


def _timestamp(name: str, text: str) -> codec.Timestamp:
    try:
        return codec.from_value(codec.Timestamp, text)
    except ValueError:
        _refuse(name, f"must be a time like 2030-01-31T09:00:00Z, not {text[:50]!r}")


_SCALARS: Final[Mapping[ScalarType, Callable[[str, str], Any]]] = {
    ScalarType.STRING: _string,
    ScalarType.BOOL: _boolean,
    ScalarType.INT32: _integer,
}


class _QueryField:
    """How one field is read from the query."""

    __slots__ = ("name", "put", "repeated")

    def __init__(self, field: DescField) -> None:
        self.name = field.name
        self.repeated = False
        value = field.value
        if isinstance(value, DescFieldValueList) and value.element is ScalarType.STRING:
            self.repeated = True
            self.put: Callable[[str, str], Any] = _string
        elif isinstance(value, DescFieldValueScalar) and value.scalar in _SCALARS:
            self.put = _SCALARS[value.scalar]
        elif isinstance(value, DescFieldValueMessage) and value.message.type_name == _MASK:
            self.put = lambda _, text: codec.FieldMask(paths=[p.strip() for p in text.split(",") if p.strip()])
        elif isinstance(value, DescFieldValueMessage) and value.message.type_name == _TIMESTAMP:
            self.put = _timestamp
        else:
            raise TypeError(f"{field.name}: a query parameter of this type has no form")


def _simple(field: DescField) -> bool:
    value = field.value
    if isinstance(value, DescFieldValueEnum):
        return False
    return not isinstance(value, DescFieldValueMessage) or value.message.type_name in (_MASK, _TIMESTAMP)


def _names(desc: DescMessage) -> set[str]:
    return {field.name for field in desc.fields}


class Transcoder:
    """Makes the request message of one RPC."""

    def __init__(self, method: Method) -> None:
        route = method.route
        assert route is not None
        self._input = method.input
        self._parameters = tuple(tuple(path.split(".")) for path in route.parameters)
        desc = method.input.desc()
        fields = {field.name: field for field in desc.fields}
        self._body = route.body
        self._body_type: type[codec.Message[Any]] | None = None
        if route.body == "*":
            self._body_type = method.input
        elif route.body:
            value = fields[route.body].value
            assert isinstance(value, DescFieldValueMessage)
            self._body_type = value.message.type
        taken = {path[0] for path in self._parameters} | {route.body}
        self._query = (
            {}
            if route.body == "*"
            else {name: _QueryField(field) for name, field in fields.items() if name not in taken and _simple(field)}
        )
        self._mask = "update_mask" if route.body not in ("", "*") and "update_mask" in fields else ""
        self._etag = self._etag_path(desc, route.body)
        body_desc = self._body_type.desc() if self._body_type is not None else None
        # ProtoJSON reads both forms of a field's name.
        self._names = (
            {key: f.name for f in body_desc.fields for key in (f.name, f.json_name)} if body_desc is not None else {}
        )
        self._identity = {path[1] for path in self._parameters if len(path) == 2} | {"etag"}

    @staticmethod
    def _etag_path(desc: DescMessage, body: str) -> tuple[str, ...]:
        for field in desc.fields:
            if field.name == "etag":
                return ("etag",)
            value = field.value
            if field.name == body and isinstance(value, DescFieldValueMessage) and "etag" in _names(value.message):
                return (body, "etag")
        return ()

    @property
    def takes_body(self) -> bool:
        """Whether the RPC reads a body."""
        return self._body_type is not None

    def request(self, values: tuple[str, ...], query: bytes, body: bytes, if_match: str) -> codec.Message[Any]:
        """The request message.

        Args:
            values: the path parameters' values.
            query: the query string as sent.
            body: the body.
            if_match: the header `If-Match`, an etag (RFC 9110).

        Raises:
            InvalidArgumentError: naming the field.
        """
        message = self._from_body(body)
        for path, value in zip(self._parameters, values, strict=True):
            target = message if len(path) == 1 else self._inner(message, path[0])
            setattr(target, path[-1], _string(path[-1], value))
        if query:
            self._from_query(message, query)
        if self._mask and getattr(message, self._mask) is None:
            setattr(message, self._mask, self._mask_of(body))
        if if_match and if_match != "*" and self._etag:
            owner: Any = message if len(self._etag) == 1 else self._inner(message, self._etag[0])
            if not owner.etag:
                owner.etag = if_match.removeprefix("W/").strip('"')
        return message

    def _inner(self, message: codec.Message[Any], name: str) -> Any:
        inner = getattr(message, name)
        if inner is None:
            field = next(f for f in message.desc().fields if f.name == name)
            assert isinstance(field.value, DescFieldValueMessage)
            inner = field.value.message.type()
            setattr(message, name, inner)
        return inner

    def _from_body(self, body: bytes) -> codec.Message[Any]:
        if self._body_type is None:
            if body.strip():
                _refuse("body", "this call takes no body", "BODY_NOT_ALLOWED")
            return self._input()
        if not body and self._body == "*":
            return self._input()
        try:
            decoded: codec.Message[Any] = codec.from_json(self._body_type, body)
        except codec.DecodeError as error:
            raise InvalidArgumentError(
                f"The body cannot be read: {error}. It must be a JSON object of the fields in /docs.",
                reason="FIELD_UNKNOWN" if "no field" in str(error) else "BODY_INVALID",
                field_violations=[FieldViolation(error.field or "body", str(error), "decode")],
            ) from None
        if self._body == "*":
            return decoded
        message = self._input()
        setattr(message, self._body, decoded)
        return message

    def _from_query(self, message: codec.Message[Any], query: bytes) -> None:
        try:
            text = query.decode("ascii")
            pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=False, errors="surrogateescape",
                              max_num_fields=200)  # fmt: skip
        except ValueError as error:
            _refuse("query", f"cannot be read: {error}", "QUERY_INVALID")
        seen: set[str] = set()
        for name, value in pairs:
            field = self._query.get(name)
            if field is None:
                known = ", ".join(sorted(self._query)) or "none"
                _refuse(name[:100], f"is no query parameter of this call; it takes: {known}", "FIELD_UNKNOWN")
            if field.repeated:
                getattr(message, name).append(field.put(name, value))
            elif name in seen:
                _refuse(name, "is given more than once")
            else:
                setattr(message, name, field.put(name, value))
            seen.add(name)

    def _mask_of(self, body: bytes) -> codec.FieldMask:
        keys = json.loads(body) if body else {}
        return codec.FieldMask(paths=[name for key in keys if (name := self._names[key]) not in self._identity])
