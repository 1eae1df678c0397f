"""The SQLAlchemy dialect that statements for asyncpg are compiled with."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import (
    AsyncpgFloat,
    AsyncpgNumeric,
    PGCompiler_asyncpg,
    PGDialect_asyncpg,
)

__all__ = ["DIALECT"]


class _Compiler(PGCompiler_asyncpg):
    """`IN` with a list is one array parameter: the text, and so the server's plan, stays the same for any length."""

    def visit_in_op_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        return self._list(binary, "= ANY", **kw) or self._generate_generic_binary(binary, " IN ", **kw)

    def visit_not_in_op_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        return self._list(binary, "<> ALL", **kw) or f"({self._generate_generic_binary(binary, ' NOT IN ', **kw)})"

    def _list(self, binary: Any, comparison: str, **kw: Any) -> str:
        bind = binary.right
        if not isinstance(bind, sa.BindParameter) or not bind.expanding or bind.type._is_tuple_type:
            return ""
        array: Any = bind._clone(maintain_key=True)  # a clone, so that values of a cached structure find their way
        array.expanding = False
        array.type = sa.ARRAY(bind.type)
        kw.pop("eager_grouping", None)
        return f"{self.process(binary.left, **kw)} {comparison} ({self.process(array, **kw)})"


def _decimal(value: Any) -> Decimal | None:
    return value if value is None or isinstance(value, Decimal) else Decimal(str(value))


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _number(asdecimal: bool) -> Callable[[Any], Any]:
    """By the value, not by the server's type as SQLAlchemy does: that is known only once a statement has run."""
    return _decimal if asdecimal else _float


class _Numeric(AsyncpgNumeric):
    def result_processor(self, dialect: Any, coltype: Any) -> Callable[[Any], Any]:
        return _number(self.asdecimal)


class _Float(AsyncpgFloat):
    def result_processor(self, dialect: Any, coltype: Any) -> Callable[[Any], Any]:
        return _number(self.asdecimal)


class _Dialect(PGDialect_asyncpg):
    statement_compiler = _Compiler
    colspecs = {**PGDialect_asyncpg.colspecs, sa.Numeric: _Numeric, sa.Float: _Float}  # noqa: RUF012
    supports_statement_cache = True


DIALECT: sa.Dialect = _Dialect()  # type: ignore[no-untyped-call]
"""PostgreSQL with `$1` parameters, each cast to its column's type."""
