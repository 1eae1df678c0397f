"""Statements of lists, built once for all who ask alike.

A list is one statement of policy, filter, order and place. To plan and to build it costs a hundred times what it costs
to bind it. It is therefore kept by everything that its text hangs on, and what differs from call to call (who asks, the
time, the place) is a parameter of it. Nothing that was read is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ClauseElement, Dialect

from taskman_server.kit.cel import Outline
from taskman_server.kit.db.statements import DynamicCache, Statement

__all__ = ["Built", "BuiltStatements"]

_SIZE: Final = 512
_VARIANTS: Final = 8  # of one key; each for other constants


@dataclass(frozen=True, slots=True)
class Built:
    """A statement, and the values of those of its parameters that are not the call's.

    `beside`: what was built with it, each with the literals that stand in it.
    """

    statement: Statement
    values: Mapping[str, Any]
    beside: Sequence[tuple[Statement, Mapping[str, Any]]] = ()


class BuiltStatements:
    """The statements of one store, those used last."""

    def __init__(self, dialect: Dialect, size: int = _SIZE) -> None:
        """`size`: how many keys are remembered."""
        self._dialect = dialect
        # Texts that differ in their literals alone share what was compiled.
        self._compiled = DynamicCache(dialect)
        self._size = size
        self._kept: OrderedDict[Hashable, list[tuple[Built, Sequence[Outline]]]] = OrderedDict()

    def find(self, key: Hashable, constants: Sequence[Mapping[str, Any]]) -> Built | None:
        """The statement that was kept under `key`, if it is right for these constants too; those of each condition."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        for built, outlines in kept:
            values = dict(built.values)
            for outline, known in zip(outlines, constants, strict=True):
                found = outline.parameters(known)
                if found is None:
                    break
                values.update(found)
            else:
                self._kept.move_to_end(key)
                return Built(built.statement, values, built.beside)
        return None

    def keep(
        self,
        key: Hashable,
        element: ClauseElement,
        outlines: Sequence[Outline],
        constants: Sequence[Mapping[str, Any]],
        beside: Sequence[ClauseElement] = (),
    ) -> Built:
        """Keeps a statement, whose conditions are `outlines`, under everything else that its text hangs on; and those
        `beside` it, which are made of the same conditions."""
        statement, literals = self._statement(element)
        others = [self._statement(each) for each in beside]
        used = {name for each, _ in (*others, (statement, {})) for name in each.prepare(self._dialect).parameters}
        for outline in outlines:
            outline.restrict(used)
        kept = self._kept.setdefault(key, [])
        kept.insert(0, (Built(statement, literals, others), outlines))
        del kept[_VARIANTS:]
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
        found = self.find(key, constants)
        assert found is not None, "a statement fits the constants that it was built for"
        return found

    def _statement(self, element: ClauseElement) -> tuple[Statement, Mapping[str, Any]]:
        prepared, literals = self._compiled.prepare(element)
        return Statement.of(prepared, element, self._dialect), literals
