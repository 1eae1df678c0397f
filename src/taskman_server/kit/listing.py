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
    """A statement, and the values of all its parameters."""

    statement: Statement
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Kept:
    statements: Sequence[tuple[Statement, frozenset[str], Mapping[str, Any]]]
    outlines: Sequence[Outline]


class BuiltStatements:
    """The statements of one store, those used last."""

    def __init__(self, dialect: Dialect, size: int = _SIZE) -> None:
        """`size`: how many keys are remembered."""
        self._dialect = dialect
        # Texts that differ in their literals alone share what was compiled.
        self._compiled = DynamicCache(dialect)
        self._size = size
        self._kept: OrderedDict[Hashable, list[_Kept]] = OrderedDict()

    def find(
        self, key: Hashable, constants: Sequence[Mapping[str, Any]], given: Mapping[str, Any]
    ) -> Sequence[Built] | None:
        """The statements that were kept under `key`, if they are right for these constants too.

        Args:
            key: as it was given to `keep`.
            constants: those of each outline.
            given: the values of the other parameters; those that a statement does not have are left out.
        """
        variants = self._kept.get(key)
        for kept in variants or ():
            values = dict(given)
            for outline, known in zip(kept.outlines, constants, strict=True):
                found = outline.parameters(known)
                if found is None:
                    break
                values.update(found)
            else:
                self._kept.move_to_end(key)
                return [
                    Built(statement, {**literals, **{name: values[name] for name in names}})
                    for statement, names, literals in kept.statements
                ]
        return None

    def keep(self, key: Hashable, elements: Sequence[ClauseElement], outlines: Sequence[Outline]) -> None:
        """Keeps statements, whose conditions are `outlines`, under everything else that their texts hang on."""
        statements = []
        for element in elements:
            prepared, literals = self._compiled.prepare(element)
            statement = Statement.of(prepared, element, self._dialect)
            statements.append((statement, prepared.parameters - literals.keys(), literals))
        variants = self._kept.setdefault(key, [])
        variants.insert(0, _Kept(statements, outlines))
        del variants[_VARIANTS:]
        self._kept.move_to_end(key)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
