"""Statements: described with SQLAlchemy Core, compiled once per dialect, run on the bare driver.

A store declares its statements at module level::

    GET = Statement(select(TASKS).where(TASKS.c.id == bindparam("id")))

and runs them with `await db.fetch_one(GET, id="task_…")`. The names of the `bindparam`s are the call's keywords. A
statement that is built per call (a list with a filter) is passed as it is: its SQL is kept by SQLAlchemy's cache key,
which costs about 20 µs a call instead of the 160 µs of compiling it.
"""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from sqlalchemy import Dialect
from sqlalchemy.sql import ClauseElement

if TYPE_CHECKING:

    class Row:
        """One row: columns by name as attributes, by position as items. A plain tuple at run time."""

        def __getattr__(self, name: str) -> Any: ...
        def __getitem__(self, index: int) -> Any: ...
        def __iter__(self) -> Iterator[Any]: ...
        def __len__(self) -> int: ...
        def _asdict(self) -> dict[str, Any]: ...

else:
    Row = tuple

Processor: TypeAlias = Callable[[Any], Any]

_CACHE_SIZE = 512
_SLOW_LEAST, _SLOW_MOST = 1.0, 60.0  # seconds
_EXPANSIONS = 128  # lengths of lists of one statement
_WRITES = ("isinsert", "isupdate", "isdelete", "is_ddl")


class Statement:
    """A statement that is compiled once per dialect and then only bound and run."""

    __slots__ = ("_prepared", "element")

    def __init__(self, element: ClauseElement) -> None:
        """Wrap a SQLAlchemy Core statement (select, insert, update, delete, DDL)."""
        self.element = element
        self._prepared: dict[str, Prepared] = {}

    @classmethod
    def of(cls, prepared: Prepared, element: ClauseElement, dialect: Dialect) -> Statement:
        """A statement whose compiled form for `dialect` is there already."""
        statement = cls(element)
        statement._prepared[dialect.name] = prepared
        return statement

    def prepare(self, dialect: Dialect) -> Prepared:
        """The compiled form for `dialect`; made at the first call. Raises TypeError for what cannot be run bare."""
        prepared = self._prepared.get(dialect.name)
        if prepared is None:
            prepared = self._prepared[dialect.name] = Prepared(self.element, dialect)
        return prepared


class Prepared:
    """A compiled statement: SQL text, the order of its parameters, and what turns values into and out of SQL.

    `writes`: it is an INSERT, UPDATE, DELETE or DDL. `repeatable`: it certainly changes nothing, so it may be run again
    when its answer was lost. `parameters`: their names. `row` makes one row of the driver's.
    """

    __slots__ = (
        "_by_length",
        "_compiled",
        "_convert",
        "_defaults",
        "_expanding",
        "_expansions",
        "_lists",
        "_plain",
        "_processors",
        "_slots",
        "_slow_for",
        "parameters",
        "repeatable",
        "row",
        "slow_until",
        "sql",
        "writes",
    )

    def __init__(self, element: ClauseElement, dialect: Dialect, cache_key: Any = None) -> None:
        """Compile `element` for `dialect`. Raises TypeError when it relies on what only an engine does."""
        if cache_key is None:
            compiled: Any = element.compile(dialect=dialect)
        else:
            compiled = dialect.statement_compiler(dialect, element, cache_key=cache_key)
        self._compiled = compiled
        self.sql: str = str(compiled)
        self.writes: bool = any(getattr(compiled, kind, False) for kind in _WRITES)
        self.repeatable: bool = bool(getattr(element, "is_select", False)) and not _changes_inside(compiled)
        self.slow_until = 0.0  # monotonic seconds; a driver runs it off the loop until then
        self._slow_for = 0.0
        binds = {name: bind for bind, name in getattr(compiled, "bind_names", {}).items()}
        for kind in ("insert_prefetch", "update_prefetch"):
            if columns := [column.key for column in getattr(compiled, kind, ())]:
                raise TypeError(
                    f"the defaults of {', '.join(columns)} run in Python and are not applied here:"
                    " give the values, or use server_default"
                )
        if binds and not compiled.positional:
            raise TypeError(f"the {dialect.name} dialect names its parameters; use one with positional parameters")
        names: Sequence[str] = (getattr(compiled, "positiontup", None) or ()) if binds else ()
        self.parameters = frozenset(binds)
        self._defaults = {name: bind.effective_value for name, bind in binds.items() if not bind.required}
        self._plain = not self._defaults
        self._expanding = _late(compiled)
        self._lists = [name for name, bind in binds.items() if bind.expanding]
        # Of tuples in an IN, or of literals, more than the lengths goes into the text.
        self._by_length = not any(bind.literal_execute or bind.type._is_tuple_type for bind in binds.values())
        self._expansions: dict[tuple[int, ...], tuple[str, list[tuple[str, int | None, Processor | None]]]] = {}
        self._slots: list[tuple[str, Processor | None]] = [
            (name, _bind_processor(binds[name], dialect)) for name in (() if self._expanding else names)
        ]
        # SQLAlchemy's expansion hands back the processors of the lists alone; the other parameters need theirs too.
        self._processors = (
            {name: make for name, bind in binds.items() if (make := _bind_processor(bind, dialect)) is not None}
            if self._expanding
            else {}
        )
        self.row = self._convert = _row_maker(compiled, dialect)

    def bind(self, params: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
        """The SQL text and the driver's values for one call.

        Raises TypeError that names a parameter which is missing or unknown.
        """
        if not self.parameters.issuperset(params):
            raise TypeError(
                f"unknown parameter {', '.join(sorted(params.keys() - self.parameters))}: {self._expected()}"
            )
        if not self._plain:
            params = {**self._defaults, **params}
        if self._expanding:
            return self._expand(params)
        try:
            return self.sql, [params[name] if make is None else make(params[name]) for name, make in self._slots]
        except KeyError as error:
            missing = error.args[0]
            if missing in params:
                raise
            raise TypeError(f"parameter {missing} is missing: {self._expected()}") from None

    def literals(self, extracted: Sequence[Any]) -> Mapping[str, Any]:
        """The values that stand in a statement of the same structure, whose cache key holds `extracted`."""
        if self._plain:
            return {}
        values = self._compiled.construct_params(extracted_parameters=extracted, _check=False)
        return {name: values[name] for name in self._defaults}

    def rows(self, raw: Iterable[Sequence[Any]]) -> list[Row]:
        """The driver's rows as rows with attributes and Python values."""
        convert = self._convert
        return [convert(row) for row in raw]

    def was_slow(self, now: float) -> None:
        """Keep the statement off the loop: for a second, or twice as long as the last time when it came back less than
        that time ago, up to a minute. Slow once, with nothing in memory yet, is no reason to send all into threads.
        """
        again = now - self.slow_until < self._slow_for
        self._slow_for = min(2 * self._slow_for, _SLOW_MOST) if again else _SLOW_LEAST
        self.slow_until = now + self._slow_for

    def _expected(self) -> str:
        return "the statement takes " + (", ".join(sorted(self.parameters - self._defaults.keys())) or "none")

    def _expand(self, params: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
        missing = self.parameters - params.keys()
        if missing:
            raise TypeError(f"parameter {', '.join(sorted(missing))} is missing: {self._expected()}")
        if not self._by_length:
            return self._expand_anew(params)
        lengths = tuple([len(params[name]) for name in self._lists])
        known = self._expansions.get(lengths)
        if known is None:
            if len(self._expansions) >= _EXPANSIONS:
                self._expansions.clear()
            known = self._expansions[lengths] = self._expansion(params)
        text, slots = known
        values = [params[name] if index is None else params[name][index] for name, index, _ in slots]
        return text, [value if make is None else make(value) for value, (_, _, make) in zip(values, slots, strict=True)]

    def _written(self, params: Mapping[str, Any]) -> tuple[Any, Mapping[str, Processor]]:
        """A list inside IN changes the text with its length; SQLAlchemy writes it (an empty list becomes "false"), in
        100 µs."""
        state = self._compiled.construct_expanded_state(dict(params))
        return state, {**self._processors, **state.processors}

    def _expand_anew(self, params: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
        state, processors = self._written(params)
        return state.statement, [
            processors[name](state.parameters[name]) if name in processors else state.parameters[name]
            for name in state.positiontup or ()
        ]

    def _expansion(self, params: Mapping[str, Any]) -> tuple[str, list[tuple[str, int | None, Processor | None]]]:
        """The text for lists of these lengths, and where its values come from."""
        state, processors = self._written(params)
        places: dict[str, tuple[str, int | None]] = {
            expanded: (name, index)
            for name, names in state.parameter_expansion.items()
            for index, expanded in enumerate(names)
        }
        return state.statement, [
            (*places.get(name, (name, None)), processors.get(name)) for name in state.positiontup or ()
        ]


class DynamicCache:
    """Compiled forms of statements built per call, kept by their structure (values do not count)."""

    def __init__(self, dialect: Dialect, size: int = _CACHE_SIZE) -> None:
        """Keep the `size` structures used last."""
        self._dialect = dialect
        self._size = size
        self._known: OrderedDict[Any, Prepared] = OrderedDict()

    def prepare(self, element: ClauseElement) -> tuple[Prepared, Mapping[str, Any]]:
        """The compiled form, and the values that stand in `element` itself by their parameter names."""
        key = element._generate_cache_key()
        if key is None or getattr(key, "params", None):
            return Prepared(element, self._dialect), {}
        prepared = self._known.get(key.key)
        if prepared is None:
            prepared = self._known[key.key] = Prepared(element, self._dialect, key)
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key.key)
        return prepared, prepared.literals(key.bindparams)


def _changes_inside(compiled: Any) -> bool:
    """Whether a SELECT has a part `WITH … AS (INSERT …)`."""
    return any(getattr(cte.element, "is_dml", False) for cte in getattr(compiled, "ctes", None) or ())


def _late(compiled: Any) -> bool:
    return bool(getattr(compiled, "post_compile_params", ()) or getattr(compiled, "literal_execute_params", ()))


def _bind_processor(bind: Any, dialect: Dialect) -> Processor | None:
    return cast("Processor | None", bind.type.dialect_impl(dialect).bind_processor(dialect))


def _row_maker(compiled: Any, dialect: Dialect) -> Callable[[Sequence[Any]], Row]:
    columns = list(getattr(compiled, "_result_columns", None) or ())
    if not columns:
        return cast("Callable[[Sequence[Any]], Row]", tuple)
    names = [str(column.keyname) for column in columns]
    row_type = namedtuple("Row", names, rename=True)  # type: ignore[misc]
    make = partial(tuple.__new__, row_type)
    processors = [
        (index, processor)
        for index, column in enumerate(columns)
        if (processor := column.type.dialect_impl(dialect).result_processor(dialect, None)) is not None
    ]
    if not processors:
        return cast("Callable[[Sequence[Any]], Row]", make)

    def convert(raw: Sequence[Any]) -> Row:
        values = list(raw)
        for index, processor in processors:
            values[index] = processor(values[index])
        return cast(Row, make(values))

    return convert
