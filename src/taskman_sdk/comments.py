"""The comments of the contract, which are its reference: read from the descriptor image when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files

from protobuf.wkt.google.protobuf.descriptor_pb import DescriptorProto, FileDescriptorProto, FileDescriptorSet

__all__ = ["comment", "comments"]

Path = tuple[int, ...]


def comment(name: str) -> str:
    """The comment of a service, RPC, message, field, enum or value by full name; empty where there is none."""
    return comments().get(name, "")


@cache
def comments() -> Mapping[str, str]:
    """All comments by full name, for example `taskman.task.v1.Task.title`, each as one line."""
    image = files("taskman_sdk.proto").joinpath("descriptors.binpb").read_bytes()
    found: dict[str, str] = {}
    for file in FileDescriptorSet.from_binary(image).file:
        if not file.package.startswith("taskman.") or file.source_code_info is None:
            continue
        text = {tuple(at.path): at.leading_comments for at in file.source_code_info.location if at.leading_comments}
        for path, name in _names(file):
            if path in text:
                found[name] = " ".join(text[path].split())
    return found


def _names(file: FileDescriptorProto) -> Iterator[tuple[Path, str]]:
    for index, message in enumerate(file.message_type):
        yield from _message_names(message, (4, index), file.package)
    for index, enum in enumerate(file.enum_type):
        name = f"{file.package}.{enum.name}"
        yield (5, index), name
        for place, value in enumerate(enum.value):
            yield (5, index, 2, place), f"{name}.{value.name}"
    for index, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        yield (6, index), name
        for place, method in enumerate(service.method):
            yield (6, index, 2, place), f"{name}.{method.name}"


def _message_names(message: DescriptorProto, path: Path, prefix: str) -> Iterator[tuple[Path, str]]:
    name = f"{prefix}.{message.name}"
    yield path, name
    for index, field in enumerate(message.field):
        yield (*path, 2, index), f"{name}.{field.name}"
    for index, inner in enumerate(message.nested_type):
        yield from _message_names(inner, (*path, 3, index), name)
