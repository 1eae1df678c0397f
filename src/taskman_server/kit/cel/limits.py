"""What an expression may cost, decided from its tree before it is ever evaluated (AUTHZ-3).

The compiler stops what would hurt the parser. These limits stop what would hurt evaluation: they keep the
work of one evaluation within a small multiple of the size of the row it looks at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from taskman_server.kit.cel.errors import CelSyntaxError, CelTooComplex, Position
from taskman_server.kit.cel.tree import Call, Comprehension, Const, Ident, ListNode, Node, Select, Tree, children


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one expression.

    `text_length` in code points, `nodes` after macros are written out, `depth` in levels of the tree,
    `comprehensions` how many `exists`/`all`/`map`/`filter` may stand inside or after one another,
    `pattern_weight` the summed length of all regular expressions with repetitions written out,
    `concatenations` how many strings or lists may be joined, `inner_concatenations` likewise per element.
    """

    text_length: int = 4096
    nodes: int = 500
    depth: int = 48
    comprehensions: int = 1
    pattern_weight: int = 300
    concatenations: int = 16
    inner_concatenations: int = 2


_JOINS = frozenset({"add_string", "add_list", "add_bytes"})
_NANOSECONDS = re.compile(r"\.\d{7,}|\d\s*ns|\.\d+us|\.\d{4,}ms")
_REPEAT = re.compile(r"\\.|\{(\d+)(,?)(\d*)\}", re.DOTALL)


class Inspector:
    """Walks one tree and raises `CelTooComplex` or `CelSyntaxError` at the first part that is refused."""

    def __init__(self, tree: Tree, text: str, limits: Limits) -> None:
        self._tree, self._text, self._limits = tree, text, limits
        self._nodes = self._weight = 0
        self._joins = {True: 0, False: 0}  # inside a macro or not

    def inspect(self) -> None:
        """Check the whole tree."""
        self._walk(self._tree.root, 0, ())

    def _refuse(self, node: Node, message: str, hint: str) -> NoReturn:
        offset = self._tree.positions.get(node.id)
        position = None if offset is None else Position.at(self._text, offset)
        raise CelTooComplex(message, expression=self._text, position=position, hint=hint)

    def _walk(self, node: Node, nesting: int, inside: tuple[Comprehension, ...]) -> None:
        limits = self._limits
        self._nodes += 1
        if self._nodes > limits.nodes:
            self._refuse(node, f"the expression has more than {limits.nodes} parts", "split it or use `in [...]`")
        if isinstance(node, Comprehension):
            if _macros(node.range) + nesting + 1 > limits.comprehensions:
                self._refuse(node, "a macro over another macro's elements is too costly", "use one exists() or all()")
            self._walk(node.range, nesting, inside)
            for part in (node.initial, node.condition, node.step, node.result):
                self._walk(part, nesting + 1, (*inside, node))
            return
        if isinstance(node, Call):
            self._call(node, inside)
        for child in children(node):
            self._walk(child, nesting, inside)

    def _call(self, node: Call, inside: tuple[Comprehension, ...]) -> None:
        limits = self._limits
        if node.function == "_+_" and not _JOINS.isdisjoint(self._tree.overloads.get(node.id, ())):
            # map() and filter() are written out as one join of the accumulator and a list each round
            if not _gathers(node, inside):
                within = bool(inside)
                self._joins[within] += 1
                bound = limits.inner_concatenations if within else limits.concatenations
                if self._joins[within] > bound:
                    self._refuse(node, f"more than {bound} strings or lists are joined", "compare the parts instead")
        elif node.function == "matches":
            self._pattern(node, inside)
        elif node.function in ("timestamp", "duration"):
            literal = node.args[0] if node.args else None
            if isinstance(literal, Const) and isinstance(literal.value, str) and _NANOSECONDS.search(literal.value):
                raise CelSyntaxError(
                    "times are kept to the microsecond, this one is finer",
                    expression=self._text,
                    position=Position.at(self._text, self._tree.positions.get(literal.id, 0)),
                    hint="drop the digits after the sixth",
                )

    def _pattern(self, node: Call, inside: tuple[Comprehension, ...]) -> None:
        subject, pattern = node.args[0], node.args[-1]
        if not isinstance(pattern, Const) or not isinstance(pattern.value, str):
            self._refuse(node, "the pattern of matches() is not a literal", "write it in quotes")
        if inside:
            around = inside[-1]
            ranges = isinstance(around.range, (Ident, Select)) and not isinstance(around.range, ListNode)
            if not (isinstance(subject, Ident) and subject.name in around.variables and ranges):
                self._refuse(node, "matches() inside a macro may look at a field's elements only", "move it outside")
        self._weight += _pattern_weight(pattern.value)
        if self._weight > self._limits.pattern_weight:
            self._refuse(node, "the regular expressions are too large", "shorten them or lower their {repetitions}")


def _macros(node: Node) -> int:
    inner = max((_macros(child) for child in children(node)), default=0)
    return inner + 1 if isinstance(node, Comprehension) else inner


def _gathers(node: Call, inside: tuple[Comprehension, ...]) -> bool:
    first = node.args[0]
    return bool(inside) and isinstance(first, Ident) and first.name == inside[-1].accumulator


def _pattern_weight(pattern: str) -> int:
    """At least the size of the automaton, relative to one character: counts multiply when groups repeat."""
    counts = [int(m[3] or m[1]) for m in _REPEAT.finditer(pattern) if m[1] and len(m[1]) < 6 and len(m[3]) < 6]
    total = sum(counts)
    if "){" in pattern:
        total = len(pattern)
        for count in counts:
            total *= max(count, 1)
    return len(pattern) + total
