"""What CEL's operators and functions are in SQL, for operands that are already planned."""

from __future__ import annotations

from typing import Any, NoReturn

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Double,
    String,
    and_,
    case,
    cast,
    false,
    func,
    not_,
    null,
    or_,
)
from sqlalchemy.sql.elements import Grouping
from sqlalchemy.types import TypeEngine

from taskman_server.kit.cel.parts import (
    FAILED,
    Bag,
    Folded,
    Items,
    Part,
    Scalar,
    Sql,
    as_bool,
    failed,
    group,
    logic,
    null_bool,
    same_value,
    unless_failed,
    unsure,
)
from taskman_server.kit.cel.sql import bound, ends_with, starts_with, text_contains, text_order
from taskman_server.kit.cel.tree import Call, Node

_MIN, _MAX = -(2**63), 2**63 - 1
_NUMBERS = frozenset({"int", "double"})
PLAIN: dict[str, TypeEngine[Any]] = {
    "string": String(),
    "int": BigInteger(),
    "double": Double(),
    "bool": Boolean(),
}
MAX_LIST = 1000
"""The most values a constant list on the right of `in` may have."""


class Operators:
    """The operators; `node` is always the part to point at when one has no SQL."""

    def _refuse(self, node: Node, message: str, hint: str = "") -> NoReturn:
        raise NotImplementedError

    # equality and order

    def _equal(self, node: Node, left: Scalar, right: Scalar) -> Scalar:
        if isinstance(left, Folded) and isinstance(right, Folded):
            if left.failed or right.failed:
                return FAILED
            if "other" in (left.kind, right.kind) and left.value is not None and right.value is not None:
                self._refuse(node, "these values cannot be compared in a list filter")
            return Folded(same_value(left, right))
        if isinstance(left, Folded):
            left, right = right, left
        assert isinstance(left, Sql)
        if isinstance(right, Folded):
            return self._equal_constant(node, left, right)
        self._settled(node, left, right)
        if (left.fallible and right.fallible) or not (left.nullable or right.nullable):
            same: ColumnElement[bool] = group(left.element) == group(right.element)
            return as_bool(same, left.fallible or right.fallible)
        same = group(left.element).is_not_distinct_from(group(right.element))
        for side in (left, right):
            if side.fallible:
                return as_bool(case((side.element.is_(None), null_bool()), else_=same), True)
        return as_bool(same)

    def _equal_constant(self, node: Node, left: Sql, right: Folded) -> Scalar:
        if right.failed:
            return FAILED
        self._settled(node, left)
        if right.null:
            if left.nullable:
                return as_bool(group(left.element).is_(None))
            return unless_failed(left, False)
        value = self._bind(node, left, right)
        if value is None:
            return unless_failed(left, False)
        same: ColumnElement[bool] = group(left.element) == value
        if left.nullable:
            return as_bool(and_(group(left.element).is_not(None), same))
        return as_bool(same, left.fallible)

    def _order(self, node: Call, left: Scalar, right: Scalar) -> Scalar:
        if failed(left) or failed(right):
            return FAILED
        if isinstance(left, Sql):
            a = left.element
            b = right.element if isinstance(right, Sql) else self._bind(node, left, right)
            kind = left.kind
        elif isinstance(right, Sql):
            a_bound = self._bind(node, right, left)
            if a_bound is None:
                return FAILED
            a, b, kind = a_bound, right.element, right.kind
        else:
            return self._order_constants(node, left, right)
        if b is None:
            return FAILED
        a, b = group(a), group(b)
        if kind == "string":
            a, b = text_order(a), text_order(b)
        compared = {"_<_": a < b, "_<=_": a <= b, "_>_": a > b, "_>=_": a >= b}[node.function]
        return as_bool(compared, unsure(left) or unsure(right))

    def _order_constants(self, node: Call, left: Folded, right: Folded) -> Scalar:
        if left.kind != right.kind and not {left.kind, right.kind} <= _NUMBERS:
            return FAILED
        if left.kind not in ("int", "double", "string", "bool", "timestamp", "duration"):
            self._refuse(node, "these values cannot be ordered in a list filter")
        a, b = left.value, right.value
        return Folded({"_<_": a < b, "_<=_": a <= b, "_>_": a > b, "_>=_": a >= b}[node.function])

    def _member(self, node: Node, item: Scalar, among: Part) -> Scalar:
        if failed(item) or failed(among):
            return FAILED
        if isinstance(among, Bag):
            return self._bag_member(node, item, among)
        if isinstance(among, Items):
            if any(isinstance(part, Sql) and part.fallible for part in (item, *among.items)):
                self._refuse(node, "a list of computed values cannot be searched", "compare the values one by one")
            if any(failed(entry) for entry in among.items):
                return FAILED
            found: Scalar = Folded(False)
            for entry in among.items:
                found = logic(False, found, self._equal(node, item, entry))
            return found
        if not isinstance(among, Folded) or not isinstance(among.value, (list, dict)):
            if isinstance(among, Folded):
                return FAILED
            self._refuse(node, "`in` needs a list on its right")
        values = [Folded(value) for value in among.value]
        if isinstance(item, Folded):
            return Folded(any(same_value(item, value) for value in values))
        self._settled(node, item)
        if len(values) > MAX_LIST:
            self._refuse(node, f"the list has {len(values)} values", f"at most {MAX_LIST} can be searched for")
        element = group(item.element)
        binds = [
            value for value in (self._bind(node, item, v) for v in values if v.value is not None) if value is not None
        ]
        found_sql = unless_failed(item, False) if not binds else as_bool(element.in_(binds), item.fallible)
        if item.nullable:
            inside = found_sql.element if isinstance(found_sql, Sql) else false()
            if any(value.value is None for value in values):
                return as_bool(or_(element.is_(None), and_(element.is_not(None), inside)))
            return as_bool(and_(element.is_not(None), inside)) if binds else Folded(False)
        return found_sql

    def _bag_member(self, node: Node, item: Scalar, among: Bag) -> Scalar:
        collection = among.collection
        if isinstance(item, Folded):
            like = Sql(cast(null(), collection.element), among.kind)
            value = None if item.null else self._bind(node, like, item)
            return Folded(False) if value is None else as_bool(collection.contains(value))
        self._settled(node, item)
        found = collection.contains(item.element)
        if item.nullable:
            return as_bool(and_(item.element.is_not(None), found))
        if item.fallible:
            return as_bool(case((item.element.is_(None), null_bool()), else_=found), True)
        return as_bool(found)

    def _size(self, node: Node, of: Part) -> Scalar:
        if isinstance(of, Bag) and of.collection.size is not None:
            return Sql(of.collection.size(), "int")
        if isinstance(of, Sql) and of.kind == "string":
            return Sql(func.length(of.element, type_=BigInteger()), "int", fallible=of.nullable or of.fallible)
        if isinstance(of, Items):
            return Folded(len(of.items))
        self._refuse(node, "size() cannot be worked out here")

    def _choice(self, node: Call, condition: Sql, chosen: Scalar, other: Scalar) -> Scalar:
        shape = next((part for part in (chosen, other) if isinstance(part, Sql)), None)
        kind = (
            shape.kind
            if shape
            else next(
                (part.kind for part in (chosen, other) if isinstance(part, Folded) and part.value is not None), "other"
            )
        )
        type_ = PLAIN.get(kind) if shape is None or kind == "bool" else shape.element.type
        if type_ is None:
            self._refuse(node, "neither side of `? :` is a field", "write the two cases with && and ||")
        like = Sql(cast(null(), type_), kind)
        sides = []
        for part in (chosen, other):
            if isinstance(part, Sql):
                sides.append(part)
                continue
            value = None if part.failed or part.value is None else self._bind(node, like, part)
            empty = value is None and not part.failed
            sides.append(Sql(cast(null(), type_) if value is None else value, kind, empty, part.failed))
        undecided = condition.fallible
        nullable = any(side.nullable for side in sides)
        fallible = undecided or any(side.fallible for side in sides)
        test: ColumnElement[bool] = condition.element
        picked = case((test, sides[0].element), (not_(test), sides[1].element), else_=cast(null(), type_))
        return Sql(picked, kind, nullable, fallible)

    def _text(self, node: Call, subject: Scalar, other: Scalar) -> Scalar:
        parts = []
        for part in (subject, other):
            if isinstance(part, Folded):
                if part.failed or not isinstance(part.value, str):
                    return FAILED
                parts.append(self._string(node, part.value))
            else:
                parts.append(part.element)
        text, piece = parts
        made: ColumnElement[bool]
        if node.function == "contains":
            made = text_contains(text, piece)
        else:
            made = (starts_with if node.function == "startsWith" else ends_with)(text, piece)
        return as_bool(made, unsure(subject) or unsure(other))

    def _arithmetic(self, node: Call, left: Scalar, right: Scalar, function: str = "") -> Scalar:
        function = function or node.function
        if failed(left) or failed(right):
            return FAILED
        kinds = {left.kind, right.kind}
        if kinds & {"timestamp", "duration"}:
            self._refuse(
                node, "a time in a row cannot be calculated with", "move the sum to the other side: field < now + …"
            )
        constant, sql = (left, right) if isinstance(left, Folded) else (right, left)
        if kinds == {"string"} and function == "_+_":
            a, b = (self._string(node, s.value) if isinstance(s, Folded) else group(s.element) for s in (left, right))
            return Sql(a.concat(b), "string", fallible=unsure(left) or unsure(right))
        if kinds != {"int"} or not isinstance(constant, Folded) or not isinstance(sql, Sql):
            self._refuse(node, "only a field and a whole number can be calculated with", "simplify the sum")
        return self._integer(node, function, sql, constant.value, constant is left)

    def _integer(self, node: Node, function: str, sql: Sql, number: int, first: bool) -> Scalar:
        """Arithmetic that is NULL where CEL overflows or divides by zero."""
        element = cast(sql.element, BigInteger)
        low, high = _MIN, _MAX
        value = bound(number, BigInteger())
        made: ColumnElement[Any]
        if function == "_+_":
            low, high, made = max(_MIN, _MIN - number), min(_MAX, _MAX - number), element + value
        elif function == "_-_" and not first:
            low, high, made = max(_MIN, _MIN + number), min(_MAX, _MAX + number), element - value
        elif function == "_-_":
            low, high, made = max(_MIN, number - _MAX), min(_MAX, number - _MIN), value - element
        elif function == "_*_":
            if number:
                ends = sorted((_truncated(_MIN, number), _truncated(_MAX, number)))
                low, high = max(_MIN, ends[0]), min(_MAX, ends[1])
            made = element * value
        elif first:
            self._refuse(node, "a number cannot be divided by a field", "compare the field itself")
        else:
            if number == 0:
                return FAILED
            low = _MIN + 1 if number == -1 else _MIN
            made = element.op("/", return_type=BigInteger())(value) if function == "_/_" else element % value
        if (low, high) != (_MIN, _MAX):
            safe = and_(element >= bound(low, BigInteger()), element <= bound(high, BigInteger()))
            made = case((safe, made), else_=cast(null(), BigInteger))
            return Sql(made, "int", fallible=True)
        return Sql(Grouping(made), "int", fallible=sql.nullable or sql.fallible)

    # values

    def _settled(self, node: Node, *parts: Sql) -> None:
        if any(part.nullable and part.fallible for part in parts):
            self._refuse(node, "this may be empty or fail, which a list filter cannot tell apart", "simplify it")

    def _string(self, node: Node, value: str) -> ColumnElement[Any]:
        self._searchable(node, value)
        return bound(value, String())

    def _searchable(self, node: Node, value: Any) -> None:
        if why := unsearchable(value):
            self._refuse(node, *why)

    def _bind(self, node: Node, like: Sql, value: Folded) -> ColumnElement[Any] | None:
        """`value` as a parameter to compare with `like`; None when it is of a type that never equals it."""
        if value.kind != like.kind and not {value.kind, like.kind} <= _NUMBERS:
            return None
        self._searchable(node, value.raw)
        type_ = PLAIN.get(value.kind, like.element.type)
        return bound(value.raw, type_) if value.trace is None else value.trace.parameter(type_)


def unsearchable(value: Any) -> tuple[str, str] | None:
    """Why no database can be asked for a value, and what to do; None when it can."""
    if isinstance(value, str) and "\0" in value:
        return "text with a NUL character cannot be searched for", "remove it"
    if value != value:
        return "not-a-number cannot be searched for", "use a number"
    return None


def _truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient
