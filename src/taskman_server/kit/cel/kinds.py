"""The types a variable can be declared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Kind = Literal["string", "int", "double", "bool", "timestamp", "duration", "list", "map", "record"]

SCALARS: frozenset[str] = frozenset({"string", "int", "double", "bool", "timestamp", "duration"})


@dataclass(frozen=True, slots=True)
class CelType:
    """The type of a declared variable or field.

    `optional` lets the value be null (scalars only); `element` is a list's element type; `fields` are a
    record's fields, which are known by name and refused otherwise.
    """

    kind: Kind
    optional: bool = False
    element: CelType | None = None
    fields: Mapping[str, CelType] = field(default_factory=dict)

    def __str__(self) -> str:
        name = f"list({self.element})" if self.kind == "list" else self.kind
        return f"{name} or null" if self.optional else name


STRING = CelType("string")
INT = CelType("int")
DOUBLE = CelType("double")
BOOL = CelType("bool")
TIMESTAMP = CelType("timestamp")
DURATION = CelType("duration")
MAP = CelType("map")
"""A map from strings to anything; its keys are not known, so they are not checked either."""


def nullable(type_: CelType) -> CelType:
    """`type_`, or null. Only scalars can be null; raises ValueError for others."""
    if type_.kind not in SCALARS:
        raise ValueError(f"a {type_.kind} cannot be nullable; leave it empty instead")
    return replace(type_, optional=True)


def list_of(element: CelType) -> CelType:
    """A list whose elements are scalars that are never null, or maps; raises ValueError for others."""
    if element.optional or element.kind not in SCALARS | {"map"}:
        raise ValueError(f"a list cannot hold {element}; scalars and maps only")
    return CelType("list", element=element)


def record(fields: Mapping[str, CelType]) -> CelType:
    """A value with exactly these fields; a field may be a record itself."""
    return CelType("record", fields=dict(fields))
