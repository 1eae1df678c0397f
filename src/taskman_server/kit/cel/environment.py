"""Compiling expressions against declared variables, and evaluating them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from cel_expr_python import cel  # type: ignore[import-untyped, unused-ignore]
from sqlalchemy import ColumnElement

from taskman_server.kit.cel import tree as trees
from taskman_server.kit.cel.bindings import BadValue, Convert, anything, converter, is_present
from taskman_server.kit.cel.errors import CelError, CelEvaluationError, CelSyntaxError, CelTooComplex, Position
from taskman_server.kit.cel.kinds import BOOL, CelType
from taskman_server.kit.cel.limits import Inspector, Limits
from taskman_server.kit.cel.messages import explain
from taskman_server.kit.cel.outline import Outline
from taskman_server.kit.cel.planner import Planner
from taskman_server.kit.cel.sql import Collection

_TYPES: dict[str, cel.Type] = {
    "string": cel.Type.STRING,
    "int": cel.Type.INT,
    "double": cel.Type.DOUBLE,
    "bool": cel.Type.BOOL,
    "timestamp": cel.Type.TIMESTAMP,
    "duration": cel.Type.DURATION,
    "map": cel.Type.Map(cel.Type.STRING, cel.Type.DYN),
}
_WRAPPERS = {
    "string": cel.Type("google.protobuf.StringValue"),
    "int": cel.Type("google.protobuf.Int64Value"),
    "double": cel.Type("google.protobuf.DoubleValue"),
    "bool": cel.Type("google.protobuf.BoolValue"),
}
# literals and comments are passed over, so that has(…) inside them stays as it is
_TOKENS = re.compile(
    r"""(?:[rR][bB]?|[bB][rR])(?P<q>\"{3}|'{3}|"|').*?(?P=q)|[bB]?(?P<p>\"{3}|'{3}|"|')(?:\\.|[^\\])*?(?P=p)"""
    r"""|//[^\n]*|["'].*"""
    r"""|(?<![\w.])has\s*\(\s*(?P<path>[A-Za-z_]\w*(?:\s*\.\s*[A-Za-z_]\w*)+)\s*\)|[A-Za-z_]\w*""",
    re.DOTALL,
)


class Environment:
    """Declared variables, and the compiler for expressions over them.

    `variables` maps names to types; a record's fields are reached with dots. Programs are kept by text,
    the `cache_size` last used ones. Thread-safe.
    """

    def __init__(
        self, variables: Mapping[str, CelType], *, limits: Limits | None = None, cache_size: int = 1024
    ) -> None:
        self.limits = limits or Limits()
        self.variables: dict[str, CelType] = {}
        self._records: set[str] = set()
        self._flatten("", variables)
        # has(resource.due_time) is a question about null; see `_presence`
        self.presence = {f"has_{index}_": name for index, name in enumerate(self.variables)}
        self._presence_names = {name: hidden for hidden, name in self.presence.items()}
        checked = {name: _checked_type(type_) for name, type_ in self.variables.items()}
        evaluated = {name: cel.Type.DYN if t.optional else checked[name] for name, t in self.variables.items()}
        hidden = dict.fromkeys(self.presence, cel.Type.BOOL)
        self._checker = cel.NewEnv(variables=checked | hidden)
        self._runtime = cel.NewEnv(variables=evaluated | hidden)
        # it learns its variables' types at its first compile; without, it refuses datetimes
        self._runtime.compile("true")
        self.texts = {n: tuple(n.split(".")) for n, t in self.variables.items() if t.kind == "string"}
        """The variables that are texts, as paths into bindings."""
        self._converters = {name: converter(type_) for name, type_ in self.variables.items()}
        self._cached = lru_cache(maxsize=cache_size)(self._compile)

    def _flatten(self, prefix: str, variables: Mapping[str, CelType]) -> None:
        for name, type_ in variables.items():
            if type_.kind == "record":
                self._records.add(prefix + name)
                self._flatten(f"{prefix}{name}.", type_.fields)
            else:
                self.variables[prefix + name] = type_

    def compile(self, text: str, *, result: CelType | None = BOOL) -> Program:
        """The program of `text`, whose value is a `result` (None: any type).

        Raises `CelSyntaxError` for grammar, unknown names and types, `CelTooComplex` past a limit.
        """
        if len(text) > self.limits.text_length:
            raise CelTooComplex(
                f"the expression has {len(text)} characters",
                expression=text,
                hint=f"at most {self.limits.text_length} are read",
            )
        return self._cached(text, result.kind if result else None)

    def _compile(self, text: str, result: str | None) -> Program:
        for index, character in enumerate(text):
            if character == "\0" or "\ud800" <= character <= "\udfff":
                raise CelSyntaxError(
                    "the expression holds a character that is not text",
                    expression=text,
                    position=Position.at(text, index),
                    hint="remove it",
                )
        readable = self._presence(text)
        try:
            serialized = self._checker.compile(readable).serialize()
        except Exception as error:
            raise explain(str(error), text, self.variables, self._records) from None
        try:
            tree = trees.read(serialized, self.limits.depth)
        except trees.TreeTooDeep:
            raise CelTooComplex(
                f"the expression is more than {self.limits.depth} levels deep",
                expression=text,
                hint="split it into smaller conditions",
            ) from None
        Inspector(tree, text, self.limits).inspect()
        returns = tree.types.get(tree.root.id, "dyn")
        returns = returns[8:-1] if returns.startswith("wrapper(") else returns.partition("(")[0]
        if result is not None and returns not in (result, "dyn"):
            raise CelSyntaxError(
                f"the expression gives a {returns}",
                expression=text,
                position=Position.at(text, 0),
                hint=f"it must give a {result}",
            )
        inputs = self._inputs(tree)
        program = Program(self, text, tree, self.deserialize(serialized), inputs, returns if result else None)
        program.check_parts()
        return program

    def _presence(self, text: str) -> str:
        """`text` with has(known.field) replaced by a variable of the same width, so places stay the same.

        The compiler takes `known.field` for one variable and has() of it for its value, which is not
        what anyone means.
        """

        def replaced(match: re.Match[str]) -> str:
            if match["path"] is None:
                if match[0] in self.presence:
                    raise CelSyntaxError(
                        f"there is no field or variable `{match[0]}`",
                        expression=text,
                        position=Position.at(text, match.start()),
                    )
                return match[0]
            name = re.sub(r"\s", "", match["path"])
            hidden = self._presence_names.get(name)
            if hidden is None:
                return match[0]
            return hidden + "".join("\n" if c == "\n" else " " for c in match[0][len(hidden) :])

        return _TOKENS.sub(replaced, text)

    def _inputs(self, tree: trees.Tree) -> list[Input]:
        return [self.input(name) for name in sorted(trees.free_names(tree.root)) if self.knows(name)]

    def knows(self, name: str) -> bool:
        """Whether `name` is a declared variable (dotted), or the presence of one."""
        return name in self.variables or name in self.presence

    def input(self, name: str) -> Input:
        """How the variable `name` is taken from bindings."""
        if name in self.presence:
            field = self.presence[name]
            return name, tuple(field.split(".")), is_present
        return name, tuple(name.split(".")), self._converters[name]

    def deserialize(self, serialized: bytes) -> cel.Expression:
        """A runnable expression from checked bytes."""
        return self._runtime.deserialize(serialized)


Input = tuple[str, tuple[str, ...], Convert]


class Program:
    """One compiled expression; made by `Environment.compile`. Immutable but for its caches, thread-safe."""

    def __init__(
        self,
        environment: Environment,
        text: str,
        tree: trees.Tree,
        expression: cel.Expression,
        inputs: list[Input],
        returns: str | None,
    ) -> None:
        self.text = text
        self.tree = tree
        self.environment = environment
        self.names = frozenset(name for name, _, _ in inputs)
        """The variables (dotted) that the expression reads."""
        self._evaluate = expression.eval
        self._inputs = inputs
        self._boolean = returns in ("bool", "dyn")
        self._parts: dict[int, tuple[cel.Expression, list[Input]]] = {}
        self._free: dict[int, frozenset[str]] = {}

    def evaluate(self, bindings: Mapping[str, Any]) -> Any:
        """The value for `bindings` (variable → value; records as mappings, times as aware datetimes).

        Raises `CelEvaluationError` when it has none: an error in it, a needed variable missing or of
        another type.
        """
        value = self.run(self._evaluate, self._inputs, bindings)
        if self._boolean and value is not True and value is not False:
            raise CelEvaluationError("the expression gives neither true nor false", expression=self.text)
        return value

    def test(self, bindings: Mapping[str, Any]) -> bool:
        """Whether the expression is true for `bindings`; False when in doubt (any error)."""
        try:
            return self.evaluate(bindings) is True
        except CelEvaluationError:
            return False

    def run(self, evaluate: Any, inputs: list[Input], bindings: Mapping[str, Any]) -> Any:
        """Evaluate a part of the expression; raises `CelEvaluationError`."""
        data: dict[str, Any] = {}
        name = ""
        try:
            for name, path, convert in inputs:
                try:
                    value: Any = bindings
                    for key in path:
                        value = value[key]
                except (KeyError, TypeError):
                    if convert is is_present and isinstance(value, Mapping) and value is not bindings:
                        data[name] = False
                    continue  # the library knows whether it is needed: `false && missing` is false
                data[name] = convert(value)
            answer = evaluate(data=data)
            value = answer.plain_value()
        except BadValue as error:
            raise CelEvaluationError(f"`{name}` {error}", expression=self.text) from None
        except Exception as error:
            raise CelEvaluationError(
                "the values given cannot be used",
                expression=self.text,
                hint=f"is there a text that is not Unicode? ({type(error).__name__})",
            ) from None
        if type(value) is str and answer.type() == cel.Type.ERROR:
            raise self._failure(value)
        return value

    def _failure(self, raw: str) -> CelError:
        missing = re.search(r'No value with name "([^"]*)"', raw)
        if missing:
            name = self.environment.presence.get(missing[1], missing[1])
            return CelEvaluationError(f"`{name}` has no value here", expression=self.text, hint="it was not given")
        reason = raw.partition(": ")[2] or raw
        if "No matching overloads" in reason:
            reason = "a value is empty (null) or of another type than the operation needs"
        return CelEvaluationError(reason[:200], expression=self.text)

    def free_names(self, node: trees.Node) -> frozenset[str]:
        """The variables that `node` needs from outside."""
        names = self._free.get(node.id)
        if names is None:
            names = self._free[node.id] = frozenset(trees.free_names(node))
        return names

    def evaluate_part(self, node: trees.Node, bindings: Mapping[str, Any], local: Mapping[str, Any]) -> Any:
        """The value of one part alone; `local` are the variables of the macros around it."""
        if isinstance(node, trees.Ident) and not local and (path := self.environment.texts.get(node.name)):
            value: Any = bindings
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            if isinstance(value, str) and value.isascii() and "\0" not in value:
                return value  # as the library would hand it back
        part = self._parts.get(node.id)
        if part is None:
            expression = self.environment.deserialize(self.tree.envelope(node))
            names = sorted(self.free_names(node))
            part = expression, [self.environment.input(name) for name in names if self.environment.knows(name)]
            self._parts[node.id] = part
        expression, inputs = part
        if local:
            inputs = [item for item in inputs if item[0] not in local]
            inputs += [(name, (name,), anything) for name in local]
            bindings = {**bindings, **local}
        return self.run(expression.eval, inputs, bindings)

    def check_parts(self) -> None:
        """Raise `CelSyntaxError` for a time, duration or pattern that can never be read, and for a macro's
        variable that hides a declared one."""
        declared = {name.partition(".")[0] for name in self.environment.variables}
        pending = [self.tree.root]
        while pending:
            node = pending.pop()
            pending.extend(trees.children(node))
            if isinstance(node, trees.Comprehension) and not declared.isdisjoint(node.variables):
                raise CelSyntaxError(
                    f"`{node.variables[0]}` already names something else",
                    expression=self.text,
                    position=self.position(node),
                    hint="choose another name for the element",
                )
            if not isinstance(node, trees.Call) or node.function not in _LITERALS or not node.args:
                continue
            literal = node.args[-1 if node.function == "matches" else 0]
            if not isinstance(literal, trees.Const) or self._readable(node, literal):
                continue
            raise CelSyntaxError(
                f"this is not a {_LITERALS[node.function][0]}",
                expression=self.text,
                position=self.position(literal),
                hint=_LITERALS[node.function][1],
            )

    def _readable(self, node: trees.Call, literal: trees.Const) -> bool:
        if node.function == "matches":
            return bool(_PATTERN.eval(data={"pattern": literal.value}).type() == cel.Type.BOOL)
        try:
            self.evaluate_part(node, {}, {})
        except CelEvaluationError:
            return False
        return True

    def position(self, node: trees.Node) -> Position | None:
        """Where `node` stands in the text."""
        offset = self.tree.positions.get(node.id)
        return None if offset is None else Position.at(self.text, offset)

    def plan(
        self, columns: Mapping[str, ColumnElement[Any] | Collection], constants: Mapping[str, Any] | None = None
    ) -> ColumnElement[bool]:
        """The expression as a SQL condition that is true for exactly the rows `test` accepts.

        `columns` maps dotted names to columns and collections; `constants` holds whole variables, as
        bindings do. Values become bind parameters. Raises `CelUnplannable` with the place of the part
        that SQL cannot say.
        """
        return Planner(self, columns, constants or {}).plan()

    def outline(
        self, columns: Mapping[str, ColumnElement[Any] | Collection], constants: Mapping[str, Any], prefix: str
    ) -> Outline:
        """The same, to be kept: what hangs on the constants becomes parameters, whose names begin with `prefix`."""
        planner = Planner(self, columns, constants, prefix)
        return Outline(self, planner.plan(), planner.traced)


_PATTERN = cel.NewEnv(variables={"pattern": cel.Type.STRING}).compile('"".matches(pattern)')
_LITERALS = {
    "timestamp": ("time", 'write it as "2024-08-01T00:00:00Z"'),
    "duration": ("duration", 'write it as "90m", "24h" or "1.5s"'),
    "matches": ("regular expression", "write it in RE2 syntax, without look-around or back-references"),
}


def _checked_type(type_: CelType) -> cel.Type:
    if type_.kind == "list":
        assert type_.element is not None
        return cel.Type.List(_TYPES[type_.element.kind])
    if type_.optional:
        return _WRAPPERS.get(type_.kind, _TYPES[type_.kind])
    return _TYPES[type_.kind]
