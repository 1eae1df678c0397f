"""The only door to the message library: bytes and JSON in and out of messages.

Everything else imports the generated classes and these functions, so that the library below can be replaced.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, TypeVar

from protobuf import Message, message_from_json_value, message_to_json_value
from protobuf.wkt.google.protobuf.field_mask_pb import FieldMask
from protobuf.wkt.google.protobuf.struct_pb import Struct
from protobuf.wkt.google.protobuf.timestamp_pb import Timestamp

__all__ = [
    "MAX_JSON_DEPTH",
    "DecodeError",
    "FieldMask",
    "Message",
    "Struct",
    "Timestamp",
    "from_binary",
    "from_json",
    "from_value",
    "to_binary",
    "to_json",
    "to_value",
]

M = TypeVar("M", bound="Message[Any]")
MAX_JSON_DEPTH: Final = 64
_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_FIELD: Final = re.compile(r"for field (?:[\w.]*?[A-Z]\w*\.)?([a-z_][\w.]*)|key: '([^']*)' is unknown")


class DecodeError(ValueError):
    """The bytes are not a message of the wanted type.

    Attributes:
        field: the field that is wrong, where it is known.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


def _guard_depth(body: bytes) -> None:
    """Refuses JSON that nests deeper than `MAX_JSON_DEPTH`: the decoder below overflows its stack at some 10,000."""
    if body.count(b"[") + body.count(b"{") <= MAX_JSON_DEPTH:
        return
    depth = deepest = 0
    for byte in _STRINGS.sub(b"", body):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    if deepest > MAX_JSON_DEPTH:
        raise DecodeError(f"the JSON nests {deepest} levels deep; at most {MAX_JSON_DEPTH} are allowed")


def _decode_error(error: Exception) -> DecodeError:
    text = str(error)
    if isinstance(error, json.JSONDecodeError):
        return DecodeError(f"not valid JSON: {error.msg.split(' at ')[0]} (line {error.lineno}, column {error.colno})")
    if isinstance(error, UnicodeDecodeError):
        return DecodeError(f"not UTF-8: byte {error.start} cannot be decoded")
    if isinstance(error, RecursionError):
        return DecodeError("the message nests too deep")
    found = _FIELD.search(text)
    field = (found.group(1) or found.group(2)) if found else None
    if found and found.group(2) is not None:
        return DecodeError(f"there is no field {field!r}", field)
    return DecodeError(_LIBRARY_NAMES.sub(r"\1", text).strip() or text, field)


_LIBRARY_NAMES: Final = re.compile(r"<class '([^']*)'>|taskman\.\w+\.v1\.|cannot decode [\w.]*?\w+ from JSON: (?=\D)")


def from_json(kind: type[M], body: bytes | str, *, ignore_unknown: bool = False) -> M:
    """Decodes ProtoJSON.

    Args:
        kind: the message class.
        body: UTF-8 JSON.
        ignore_unknown: skip fields that the class does not know (a client reading a newer server, SDK-4).

    Raises:
        DecodeError: with the field where it is known.
    """
    raw = body.encode() if isinstance(body, str) else body
    _guard_depth(raw)
    try:
        return kind.from_json(raw.decode(), ignore_unknown_fields=ignore_unknown)
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise _decode_error(error) from None


def to_json(message: Message[Any]) -> bytes:
    """Encodes ProtoJSON with the field names of the contract; empty lists and strings are written too."""
    return message.to_json(use_proto_field_name=True, always_emit_implicit=True).encode()


def from_value(kind: type[M], value: Any, *, ignore_unknown: bool = False) -> M:
    """Like `from_json` for a value that is parsed already.

    Raises:
        DecodeError: with the field where it is known.
    """
    try:
        return message_from_json_value(kind, value, ignore_unknown_fields=ignore_unknown)
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise _decode_error(error) from None


def to_value(message: Message[Any], *, implicit: bool = True) -> Any:
    """The ProtoJSON of a message as Python values; without `implicit`, empty fields are left out."""
    return message_to_json_value(message, use_proto_field_name=True, always_emit_implicit=implicit)


def from_binary(kind: type[M], data: bytes) -> M:
    """Decodes the binary form; unknown fields are kept.

    Raises:
        DecodeError: the bytes are not such a message.
    """
    try:
        return kind.from_binary(data)
    except (ValueError, TypeError, RecursionError, EOFError, OverflowError) as error:
        raise _decode_error(error) from None


def to_binary(message: Message[Any]) -> bytes:
    """Encodes the binary form."""
    return message.to_binary()
