"""The checked syntax tree, read from the bytes the compiler gives out.

The bytes are `cel.expr.CheckedExpr` (the same fields as `google.api.expr.v1alpha1`, checked.proto and
syntax.proto) inside a `google.protobuf.Any`. Few fields are of interest, so they are read straight from
the wire: no generated module is needed, and every node keeps the bytes it was read from. A part of an
expression can therefore be put back into an envelope and evaluated alone (`Tree.envelope`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

_TYPE_URL = b"type.googleapis.com/cel.expr.CheckedExpr"
_PRIMITIVES = {1: "bool", 2: "int", 3: "uint", 4: "double", 5: "string", 6: "bytes"}
_WELL_KNOWN = {1: "any", 2: "timestamp", 3: "duration"}
_SIMPLE = {1: "dyn", 2: "null", 8: "function", 9: "message", 10: "dyn", 11: "type", 12: "error"}


class TreeTooDeep(Exception):
    """The tree is nested deeper than was allowed."""


@dataclass(frozen=True, slots=True)
class Const:
    id: int
    raw: bytes
    value: bool | int | float | str | bytes | None


@dataclass(frozen=True, slots=True)
class Ident:
    id: int
    raw: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Select:
    id: int
    raw: bytes
    operand: Node
    field: str
    test_only: bool


@dataclass(frozen=True, slots=True)
class Call:
    id: int
    raw: bytes
    function: str
    args: tuple[Node, ...]
    """The receiver of a method call comes first."""


@dataclass(frozen=True, slots=True)
class ListNode:
    id: int
    raw: bytes
    elements: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Struct:
    id: int
    raw: bytes
    children: tuple[Node, ...]
    """Keys and values."""


@dataclass(frozen=True, slots=True)
class Comprehension:
    id: int
    raw: bytes
    variables: tuple[str, ...]
    range: Node
    accumulator: str
    initial: Node
    condition: Node
    step: Node
    result: Node


Node: TypeAlias = Const | Ident | Select | Call | ListNode | Struct | Comprehension


@dataclass(frozen=True, slots=True)
class Tree:
    """A checked expression: its root, the type and the place (code point offset) of each node by id."""

    root: Node
    types: dict[int, str]
    positions: dict[int, int]
    overloads: dict[int, tuple[str, ...]]
    frame: bytes

    def envelope(self, node: Node) -> bytes:
        """`node` alone, as bytes that the compiler's environment deserializes."""
        checked = self.frame + _delimited(4, node.raw)
        return _delimited(1, _TYPE_URL) + _delimited(2, checked)


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below `node`."""
    match node:
        case Select():
            return (node.operand,)
        case Call():
            return node.args
        case ListNode():
            return node.elements
        case Struct():
            return node.children
        case Comprehension():
            return (node.range, node.initial, node.condition, node.step, node.result)
    return ()


def free_names(node: Node, bound: frozenset[str] = frozenset()) -> set[str]:
    """The variables `node` needs from outside; those of its own comprehensions are not among them."""
    if isinstance(node, Ident):
        return set() if node.name in bound else {node.name.removeprefix(".")}
    if isinstance(node, Comprehension):
        accumulating = bound | {node.accumulator}
        inside = accumulating | set(node.variables)
        names = free_names(node.range, bound) | free_names(node.initial, bound)
        names |= free_names(node.condition, inside) | free_names(node.step, inside)
        return names | free_names(node.result, accumulating)
    names = set()
    for child in children(node):
        names |= free_names(child, bound)
    return names


def read(serialized: bytes, max_depth: int) -> Tree:
    """Read `Expression.serialize()`; raises `TreeTooDeep` past `max_depth` levels."""
    checked = next((body for number, body in _messages(serialized) if number == 2), b"")
    root: Node | None = None
    types: dict[int, str] = {}
    positions: dict[int, int] = {}
    overloads: dict[int, tuple[str, ...]] = {}
    frame = bytearray()
    for number, body in _messages(checked):
        if number == 4:
            root = _node(body, max_depth)
            continue
        frame += _delimited(number, body)
        if number == 2:
            key, reference = _entry(body)
            overloads[key] = tuple(part.decode() for tag, part in _messages(reference) if tag == 3)
        elif number == 3:
            key, type_ = _entry(body)
            types[key] = _type(type_)
        elif number == 5:
            for tag, value in _messages(body):
                if tag == 4:
                    pair = {inner: at for inner, at in _wire(value) if isinstance(at, int)}
                    positions[pair.get(1, 0)] = pair.get(2, 0)
    if root is None:
        raise ValueError("the compiler gave out an expression without a tree")
    return Tree(root, types, positions, overloads, bytes(frame))


def _node(raw: bytes, depth: int) -> Node:
    if depth <= 0:
        raise TreeTooDeep
    id_, kind, body = 0, 0, b""
    for number, value in _wire(raw):
        if number == 2 and isinstance(value, int):
            id_ = value
        elif isinstance(value, bytes):
            kind, body = number, value
    if kind == 3:
        return Const(id_, raw, _constant(body))
    parts = list(_wire(body))
    texts = {number: value.decode() for number, value in parts if isinstance(value, bytes) and number in _TEXTS[kind]}
    nodes: dict[int, list[Node]] = {}
    for number, value in parts:
        if isinstance(value, bytes) and number in _NODES[kind]:
            nodes.setdefault(number, []).append(_node(value, depth - 1))
    if kind == 4:
        return Ident(id_, raw, texts.get(1, ""))
    if kind == 5:
        return Select(id_, raw, nodes[1][0], texts.get(2, ""), any(number == 3 and value for number, value in parts))
    if kind == 6:
        return Call(id_, raw, texts.get(2, ""), (*nodes.get(1, ()), *nodes.get(3, ())))
    if kind == 7:
        return ListNode(id_, raw, tuple(nodes.get(1, ())))
    if kind == 8:
        entries = [value for number, value in parts if number == 2 and isinstance(value, bytes)]
        inner = [
            _node(value, depth - 1)
            for entry in entries
            for number, value in _wire(entry)
            if number in (3, 4) and isinstance(value, bytes)
        ]
        return Struct(id_, raw, tuple(inner))
    if kind == 9:
        variables = tuple(texts[number] for number in (1, 8) if texts.get(number))
        initial, condition, step, result = (nodes[number][0] for number in (4, 5, 6, 7))
        return Comprehension(id_, raw, variables, nodes[2][0], texts.get(3, ""), initial, condition, step, result)
    raise ValueError(f"the compiler gave out a node of unknown kind {kind}")


_TEXTS: dict[int, tuple[int, ...]] = {4: (1,), 5: (2,), 6: (2,), 7: (), 8: (), 9: (1, 3, 8)}
_NODES: dict[int, tuple[int, ...]] = {4: (), 5: (1,), 6: (1, 3), 7: (1,), 8: (), 9: (2, 4, 5, 6, 7)}


def _constant(body: bytes) -> bool | int | float | str | bytes | None:
    for number, value in _wire(body):
        if isinstance(value, bytes):
            if number == 5:
                return float(struct.unpack("<d", value)[0])
            return value.decode() if number == 6 else value
        if number == 1:
            return None
        if number == 2:
            return bool(value)
        return value - (1 << 64) if number == 3 and value >= 1 << 63 else value
    return None


def _type(body: bytes) -> str:
    for number, value in _wire(body):
        if number == 3 and isinstance(value, int):
            return _PRIMITIVES.get(value, "dyn")
        if number == 4 and isinstance(value, int):
            return f"wrapper({_PRIMITIVES.get(value, 'dyn')})"
        if number == 5 and isinstance(value, int):
            return _WELL_KNOWN.get(value, "dyn")
        if number == 6 and isinstance(value, bytes):
            inner = next((part for tag, part in _messages(value) if tag == 1), b"")
            return f"list({_type(inner)})"
        if number == 7:
            return "map"
        return _SIMPLE.get(number, "dyn")
    return "dyn"


def _entry(body: bytes) -> tuple[int, bytes]:
    key, value = 0, b""
    for number, part in _wire(body):
        if number == 1 and isinstance(part, int):
            key = part
        elif number == 2 and isinstance(part, bytes):
            value = part
    return key, value


def _messages(buffer: bytes) -> Iterator[tuple[int, bytes]]:
    return ((number, value) for number, value in _wire(buffer) if isinstance(value, bytes))


def _wire(buffer: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Each field of a message: a varint as int, everything else as its bytes."""
    at, end = 0, len(buffer)
    while at < end:
        tag, at = _varint(buffer, at)
        number, form = tag >> 3, tag & 7
        if form == 0:
            value, at = _varint(buffer, at)
            yield number, value
            continue
        if form == 2:
            length, at = _varint(buffer, at)
        elif form in (1, 5):
            length = 8 if form == 1 else 4
        else:
            raise ValueError(f"the compiler gave out a field of unknown form {form}")
        yield number, buffer[at : at + length]
        at += length


def _varint(buffer: bytes, at: int) -> tuple[int, int]:
    shift = value = 0
    while True:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _delimited(number: int, body: bytes) -> bytes:
    return _to_varint(number << 3 | 2) + _to_varint(len(body)) + body


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
