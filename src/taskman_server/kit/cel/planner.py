"""From the checked tree to a SQL condition (AUTHZ-5, TASK-6).

CEL's errors are SQL's NULL: both languages let `false && error` be false and `true || error` be true, and
both leave everything else undecided, so `&&`, `||` and `!` carry over as they are. CEL's null is a value
(`null == "x"` is false), so each part knows whether its NULL would mean null, an error, or cannot occur.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy import ColumnElement, case, false, not_, true
from sqlalchemy.sql.elements import ClauseElement, Grouping

from taskman_server.kit.cel.errors import CelEvaluationError, CelUnplannable
from taskman_server.kit.cel.operators import MAX_LIST, Operators
from taskman_server.kit.cel.outline import fold
from taskman_server.kit.cel.parts import (
    FAILED,
    Bag,
    Folded,
    Items,
    Part,
    Scalar,
    Sql,
    Trace,
    as_bool,
    group,
    logic,
    negate,
    null_bool,
)
from taskman_server.kit.cel.sql import Collection
from taskman_server.kit.cel.tree import Call, Comprehension, Const, Ident, ListNode, Node, Select, Struct

if TYPE_CHECKING:
    from taskman_server.kit.cel.environment import Program

_ORDERS = frozenset({"_<_", "_<=_", "_>_", "_>=_"})
_ARITHMETIC = frozenset({"_+_", "_-_", "_*_", "_/_", "_%_"})
_TEXT = frozenset({"contains", "startsWith", "endsWith"})
MAX_WEIGHT = 5000
"""The most elements (columns, parameters, operators) one condition may have."""


class Planner(Operators):
    """Plans one program for one set of columns and constants."""

    def __init__(
        self,
        program: Program,
        columns: Mapping[str, ColumnElement[Any] | Collection],
        constants: Mapping[str, Any],
        prefix: str = "",
    ) -> None:
        """`prefix`: what parameters for values that hang on the constants are named by; empty to bind the values."""
        self._prefix = prefix
        self.traced: list[Folded] = []
        self._program = program
        self._columns = columns
        self._constants = constants
        self._locals: dict[str, Part] = {}
        self._weights: dict[int, tuple[ClauseElement, int]] = {}

    def plan(self) -> ColumnElement[bool]:
        """The condition; raises `CelUnplannable`."""
        part = self._part(self._program.tree.root)
        if isinstance(part, Folded):
            return true() if part.value is True and not part.failed else false()
        if not isinstance(part, Sql) or part.kind != "bool":
            self._refuse(self._program.tree.root, "a filter must be true or false", "compare it with something")
        return part.element

    def _refuse(self, node: Node, message: str, hint: str = "") -> NoReturn:
        raise CelUnplannable(message, expression=self._program.text, position=self._program.position(node), hint=hint)

    # the tree

    def _part(self, node: Node) -> Part:
        if isinstance(node, Const):
            return Folded(node.value)
        if self._constant(node):
            return self._fold(node)
        match node:
            case Ident():
                return self._ident(node)
            case Call():
                return self._measured(node, self._call(node))
            case ListNode():
                return Items(tuple(self._scalar(item) for item in node.elements))
            case Comprehension():
                return self._measured(node, self._comprehension(node))
            case Select() | Struct():
                self._refuse(node, "a field of a map cannot be searched", "use a declared field")
        raise AssertionError(node)

    def _measured(self, node: Node, part: Part) -> Part:
        """`part`, unless its SQL is too large: CASE says an operand twice, so nesting could double it each time."""
        if isinstance(part, Sql) and self._weight(part.element) > MAX_WEIGHT:
            self._refuse(node, "this part makes the query too large", "nest less, or use shorter lists")
        return part

    def _weight(self, element: ClauseElement) -> int:
        known = self._weights.get(id(element))
        if known is None:
            # the element is kept with its weight, so that its id is not given to another
            known = element, 1 + sum(self._weight(child) for child in _below(element))
            self._weights[id(element)] = known
        return known[1]

    def _constant(self, node: Node) -> bool:
        for name in self._program.free_names(node):
            local = self._locals.get(name)
            if local is not None:
                if not isinstance(local, Folded):
                    return False
            elif self._program.environment.knows(name):
                source = self._program.environment.presence.get(name, name)
                if source in self._columns:
                    return False
                if source.partition(".")[0] not in self._constants:
                    if not isinstance(node, Ident):
                        return False  # to point at the name itself
                    self._refuse(node, f"`{source}` is not known to this list", "use the fields of its rows")
        return True

    def _fold(self, node: Node) -> Folded:
        local = {name: part.value for name, part in self._locals.items() if isinstance(part, Folded)}
        if isinstance(node, Ident) and node.name in local:
            return Folded(local[node.name])
        if self._prefix and not local.keys() >= self._program.free_names(node):
            trace = Trace(node, f"{self._prefix}_{len(self.traced)}", local)
            self.traced.append(fold(self._program, trace, self._constants))
            return self.traced[-1]
        try:
            return Folded(self._program.evaluate_part(node, self._constants, local))
        except CelEvaluationError:
            return FAILED

    def _ident(self, node: Ident) -> Part:
        name = node.name.removeprefix(".")
        if name in self._locals:
            return self._locals[name]
        environment = self._program.environment
        if name in environment.presence:
            column = self._columns[environment.presence[name]]
            if isinstance(column, Collection) or not environment.variables[environment.presence[name]].optional:
                return Folded(True)
            return Sql(column.is_not(None), "bool")
        column = self._columns[name]
        type_ = environment.variables[name]
        if isinstance(column, Collection):
            return Bag(column, type_.element.kind if type_.element else "other")
        if type_.kind in ("list", "map"):
            self._refuse(node, f"`{name}` cannot be searched in this list")
        return Sql(column, type_.kind, nullable=type_.optional)

    def _scalar(self, node: Node) -> Scalar:
        part = self._part(node)
        if isinstance(part, (Folded, Sql)):
            return part
        self._refuse(node, "a whole list cannot be compared here", "use `in`, exists(), all() or size()")

    def _call(self, node: Call) -> Part:
        function, args = node.function, node.args
        if function in ("_&&_", "_||_"):
            left, right = (self._condition(arg) for arg in args)
            return logic(function == "_&&_", left, right)
        if function == "!_":
            return negate(self._condition(args[0]))
        if function in ("_==_", "_!=_"):
            equal = self._equal(node, self._scalar(args[0]), self._scalar(args[1]))
            return equal if function == "_==_" else negate(equal)
        if function in _ORDERS:
            return self._order(node, self._scalar(args[0]), self._scalar(args[1]))
        if function == "@in":
            return self._member(node, self._scalar(args[0]), self._part(args[1]))
        if function == "_?_:_":
            condition = self._condition(args[0])
            if isinstance(condition, Folded):
                return FAILED if condition.failed else self._part(args[1 if condition.value else 2])
            return self._choice(node, condition, self._scalar(args[1]), self._scalar(args[2]))
        if function == "size" and len(args) == 1:
            return self._size(node, self._part(args[0]))
        if function in _TEXT:
            return self._text(node, self._scalar(args[0]), self._scalar(args[1]))
        if function in _ARITHMETIC and len(args) == 2:
            return self._arithmetic(node, self._scalar(args[0]), self._scalar(args[1]))
        if function == "-_":
            return self._arithmetic(node, Folded(0), self._scalar(args[0]), "_-_")
        name = {"_[_]": "[]"}.get(function, function)
        self._refuse(node, f"`{name}` cannot be used on a field in a list filter", "compare the field itself")

    def _condition(self, node: Node) -> Scalar:
        part = self._scalar(node)
        if isinstance(part, Folded):
            return part if isinstance(part.value, bool) and not part.failed else FAILED
        if part.kind != "bool":
            self._refuse(node, "this is neither true nor false", "compare it with something")
        return as_bool(part.element, part.nullable or part.fallible)  # a null decides nothing, as an error

    # macros over lists

    def _comprehension(self, node: Comprehension) -> Part:
        over = self._part(node.range)
        predicate = _predicate(node)
        if predicate is None:
            self._refuse(node, "only exists() and all() can be used on a field in a list filter")
        some, body = predicate
        if isinstance(over, Folded):
            if over.failed or not isinstance(over.value, (list, dict)):
                return FAILED
            items: tuple[Part, ...] = tuple(Folded(value) for value in over.value)
        elif isinstance(over, Items):
            if any(
                (isinstance(item, Folded) and item.failed) or (isinstance(item, Sql) and item.fallible)
                for item in over.items
            ):
                self._refuse(node, "a list of computed values cannot be searched", "compare the values one by one")
            items = over.items
        elif isinstance(over, Bag):
            return self._over_bag(node, over, some, body)
        else:
            self._refuse(node, "exists() and all() need a list")
        if len(items) > MAX_LIST // 10:
            self._refuse(node, f"the list has {len(items)} values", f"at most {MAX_LIST // 10} can be looked at")
        found: Scalar = Folded(not some)
        for item in items:
            found = logic(not some, found, self._with(node, item, body))
            self._measured(node, found)
        return found

    def _with(self, node: Comprehension, item: Part, body: Node) -> Scalar:
        (name,) = node.variables
        self._locals[name] = item
        try:
            return self._condition(body)
        finally:
            del self._locals[name]

    def _over_bag(self, node: Comprehension, over: Bag, some: bool, body: Node) -> Scalar:
        search = over.collection.exists
        if search is None:
            self._refuse(node, "the elements of this list cannot be looked at one by one", "use `in`")
        in_doubt = False

        def wanted(element: ColumnElement[Any]) -> ColumnElement[bool]:
            nonlocal in_doubt
            part = self._with(node, Sql(element, over.kind), body)
            if isinstance(part, Folded):
                in_doubt = in_doubt or part.failed
                return null_bool() if part.failed else true() if part.value is some else false()
            in_doubt = in_doubt or part.fallible
            return part.element if some else not_(group(part.element))

        hit = search(wanted)
        if not in_doubt:
            return as_bool(hit if some else not_(hit))
        doubt = search(lambda element: Grouping(wanted(element)).is_(None))
        decided = true() if some else false()
        return as_bool(case((hit, decided), (doubt, null_bool()), else_=not_(decided)), True)


def _predicate(node: Comprehension) -> tuple[bool, Node] | None:
    """Whether the macro is exists() (True) or all() (False), and its condition; None for other macros."""
    step = node.step
    if not isinstance(step, Call) or len(node.variables) != 1 or len(step.args) != 2:
        return None
    first, initial = step.args[0], node.initial
    if not (isinstance(first, Ident) and first.name == node.accumulator and isinstance(initial, Const)):
        return None
    if step.function == "_||_" and initial.value is False:
        return True, step.args[1]
    if step.function == "_&&_" and initial.value is True:
        return False, step.args[1]
    return None


def _below(element: ClauseElement) -> Iterable[ClauseElement]:
    return (child for child in element.get_children() if isinstance(child, ClauseElement))
