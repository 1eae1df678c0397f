"""The descriptor image as plain data: areas, messages, fields, enums and public methods, each with its comment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from keyword import iskeyword
from typing import Literal

from protobuf.wkt.google.protobuf.descriptor_pb import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FieldOptions,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)
from protovalidate._gen.buf.validate.validate_pb import FieldRules
from protovalidate._gen.buf.validate.validate_pb import ext_field as ext_validate

from taskman_sdk.proto.google.api.annotations_pb import ext_http
from taskman_sdk.proto.google.api.field_behavior_pb import FieldBehavior, ext_field_behavior
from taskman_sdk.proto.taskman.options.v1.options_pb import Access, MethodRule, ext_field, ext_rule

Kind = Literal[
    "str", "int", "float", "bool", "bytes", "enum", "message", "timestamp", "struct", "mask", "map", "unknown"
]
_KINDS: Mapping[str, Kind] = {
    "STRING": "str", "BOOL": "bool", "BYTES": "bytes", "ENUM": "enum", "MESSAGE": "message", "DOUBLE": "float",
    "FLOAT": "float", "INT32": "int", "INT64": "int", "UINT32": "int", "UINT64": "int", "SINT32": "int",
    "SINT64": "int", "FIXED32": "int", "FIXED64": "int", "SFIXED32": "int", "SFIXED64": "int",
}  # fmt: skip
_WELL_KNOWN: Mapping[str, Kind] = {
    "google.protobuf.Timestamp": "timestamp",
    "google.protobuf.Struct": "struct",
    "google.protobuf.FieldMask": "mask",
}
_SERVER_SET = frozenset({FieldBehavior.OUTPUT_ONLY, FieldBehavior.IDENTIFIER})
_FILE = re.compile(r"taskman/(\w+)/v1/\1\.proto")
_ACCESS: Mapping[Access, str] = {Access.PUBLIC: "public", Access.AUTHENTICATED: "authenticated"}


class GenerationError(Exception):
    """The contract holds something that the generator does not know; the message names the place."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field; `type` is the full name of its message or enum, `server_set` that no client gives it (AIP-203)."""

    name: str
    comment: str
    kind: Kind
    type: str
    repeated: bool
    optional: bool
    secret: bool
    server_set: bool
    rules: FieldRules


@dataclass(frozen=True, slots=True)
class Message:
    """A message of one area."""

    name: str
    full_name: str
    area: str
    comment: str
    fields: tuple[Field, ...]

    def field(self, name: str) -> Field | None:
        """The field of that name."""
        return next((each for each in self.fields if each.name == name), None)


@dataclass(frozen=True, slots=True)
class Enum:
    """An enum of one area with the names of its values."""

    name: str
    area: str
    comment: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Method:
    """A public RPC."""

    name: str
    service: str
    area: str
    comment: str
    input: str
    output: str
    access: str
    rule: MethodRule
    streaming: bool
    verb: str
    template: str
    body: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """The fields that the path fills, for example `task.id`."""
        return tuple(re.findall(r"\{([^}]+)\}", self.template))


@dataclass(frozen=True, slots=True)
class Image:
    """Everything that the generators need."""

    messages: Mapping[str, Message]
    enums: Mapping[str, Enum]
    methods: tuple[Method, ...]


def read(data: bytes) -> Image:
    """Reads a descriptor image that holds source comments.

    Raises:
        GenerationError: it holds something that the SDK cannot say.
    """
    messages: dict[str, Message] = {}
    enums: dict[str, Enum] = {}
    methods: list[Method] = []
    for file in FileDescriptorSet.from_binary(data).file:
        if (found := _FILE.fullmatch(file.name)) is None:
            continue
        area, comments = found.group(1), _comments(file)
        for index, message in enumerate(file.message_type):
            full_name = f"{file.package}.{message.name}"
            messages[full_name] = _message(area, full_name, message, (4, index), comments)
        for index, enum in enumerate(file.enum_type):
            enums[f"{file.package}.{enum.name}"] = _enum(area, enum, comments.get((5, index), ""))
        for place, service in enumerate(file.service):
            for index, method in enumerate(service.method):
                comment = comments.get((6, place, 2, index), "")
                methods.extend(_method(area, service.name, method, comment))
    return Image(messages, enums, tuple(methods))


def _comments(file: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    info = file.source_code_info
    if info is None:
        raise GenerationError(f"{file.name}: the image holds no source comments")
    return {tuple(each.path): _text(each.leading_comments) for each in info.location if each.leading_comments}


def _text(comment: str) -> str:
    return " ".join(line.strip() for line in comment.strip().splitlines())


def _message(
    area: str, full_name: str, proto: DescriptorProto, path: tuple[int, ...], comments: Mapping[tuple[int, ...], str]
) -> Message:
    maps = {
        f".{full_name}.{entry.name}": _KINDS[entry.field[1].type.name]
        for entry in proto.nested_type
        if entry.options is not None and entry.options.map_entry and entry.field[0].type.name == "STRING"
    }
    fields = tuple(_field(field, comments.get((*path, 2, index), ""), maps) for index, field in enumerate(proto.field))
    return Message(proto.name, full_name, area, comments.get(path, ""), fields)


def _field(proto: FieldDescriptorProto, comment: str, maps: Mapping[str, Kind]) -> Field:
    """A field; what the SDK has no words for is `unknown`, which matters only where a public RPC reaches it."""
    kind: Kind = _KINDS.get(proto.type.name, "unknown")
    type_name = proto.type_name.removeprefix(".")
    repeated = proto.label == FieldDescriptorProto.Label.REPEATED
    if kind == "message" and maps.get(proto.type_name) in ("str", "int", "float", "bool"):
        kind, type_name, repeated = "map", maps[proto.type_name], False
    elif kind == "message":
        kind = _WELL_KNOWN.get(type_name, kind)
    if iskeyword(proto.name) or (kind in ("message", "enum") and not re.fullmatch(r"taskman(\.\w+){3}", type_name)):
        kind = "unknown"
    options = proto.options
    return Field(
        name=proto.name,
        comment=comment,
        kind=kind,
        type=type_name,
        repeated=repeated,
        optional=proto.proto3_optional or bool(proto.has_field("oneof_index")),
        secret=options is not None and ext_field in options and options[ext_field].secret,
        server_set=_server_set(options),
        rules=options[ext_validate] if options is not None and ext_validate in options else FieldRules(),
    )


def _server_set(options: FieldOptions | None) -> bool:
    if options is None:
        return False
    behavior: list[FieldBehavior] = options[ext_field_behavior]
    return not _SERVER_SET.isdisjoint(behavior)


def _enum(area: str, proto: EnumDescriptorProto, comment: str) -> Enum:
    return Enum(proto.name, area, comment, tuple(value.name for value in proto.value))


def _method(area: str, service: str, proto: MethodDescriptorProto, comment: str) -> Iterator[Method]:
    options = proto.options
    if options is None or ext_http not in options or ext_rule not in options:
        return
    http, rule = options[ext_http], options[ext_rule]
    if http.pattern is None or not isinstance(http.pattern.value, str):
        raise GenerationError(f"{service}.{proto.name}: google.api.http needs get, post, put, patch or delete")
    if proto.client_streaming:
        raise GenerationError(f"{service}.{proto.name}: the SDK cannot say client streaming yet")
    yield Method(
        name=proto.name,
        service=service,
        area=area,
        comment=comment,
        input=proto.input_type.removeprefix("."),
        output=proto.output_type.removeprefix("."),
        access="permission" if rule.permission else _ACCESS[rule.access],
        rule=rule,
        streaming=proto.server_streaming,
        verb=http.pattern.field.upper(),
        template=http.pattern.value,
        body=http.body,
    )
