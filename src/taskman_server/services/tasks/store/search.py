"""Full-text search (TASK-6): what is put into the index, and how it is asked.

Texts are folded and cut into words here and not by the database, so that every database finds the same: case and
diacritics do not count, a word is a run of letters and digits. `SearchIndex` is what a database has to offer; SQLite
does it with FTS5, PostgreSQL with `tsvector`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Double,
    FromClause,
    Text,
    bindparam,
    column,
    delete,
    func,
    insert,
    literal_column,
    select,
    table,
)

from taskman_server.kit.db import Statement, Transaction

__all__ = ["FIELDS", "FTS_DDL", "Found", "Fts5", "SearchIndex", "fold", "phrases", "words"]

FIELDS: Final = ("title", "description", "labels", "key")
_WEIGHTS: Final = (10.0, 1.0, 5.0, 10.0)
_WORD: Final = re.compile(r"[^\W_]+")
_MARKS: Final = re.compile("[\u0300-\u036f]")


def fold(text: str) -> str:
    """The text without case and diacritics: `Ångström` and `angstrom` become the same."""
    if text.isascii():
        return text.lower()
    decomposed = _MARKS.sub("", unicodedata.normalize("NFKD", text.casefold()))
    # other scripts keep their marks: a vowel sign is no decoration
    return unicodedata.normalize("NFC", decomposed).casefold()


def words(text: str) -> str:
    """The words of a text, folded, with one space between them."""
    return " ".join(_WORD.findall(fold(text)))


def phrases(query: str) -> list[str]:
    """What a query asks for: for each of its words the folded words that must follow each other (`WEB-42` is two)."""
    return list(dict.fromkeys(phrase for piece in query.split() if (phrase := words(piece))))


@dataclass(frozen=True, slots=True)
class Found:
    """A search as a part of a statement.

    Attributes:
        source: what to select from.
        seq: the task's `seq` in it.
        condition: true for the matches.
        score: how well they match; smaller is better.
    """

    source: FromClause
    seq: ColumnElement[int]
    condition: ColumnElement[bool]
    score: ColumnElement[float]


class SearchIndex(Protocol):
    """The index of one database. Texts are given as `words` made them; all writes happen in the task's transaction."""

    async def add(self, tx: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
        """Puts tasks in: `seq` and the four `FIELDS`."""

    async def replace(self, tx: Transaction, row: Mapping[str, Any]) -> None:
        """Puts a changed task in the place of the old one."""

    def find(self, number: int) -> Found:
        """The tasks in which so many phrases occur, where the last one may go on (`kan` finds `kanban`)."""

    def score_of(self, number: int, seq: BindParameter[int]) -> ColumnElement[float]:
        """The score of one task, as it is now; NULL when it does not match any more."""

    def parameters(self, asked: Sequence[str]) -> Mapping[str, str]:
        """The parameters of the two, for the phrases."""


FTS_DDL: Final = (
    "CREATE VIRTUAL TABLE task_search USING fts5("
    + ", ".join(FIELDS)
    # `ascii` splits at the spaces that `words` leaves, and at nothing else
    + ", tokenize='ascii', prefix='2 3')"
)
_FTS: Final = table("task_search", column("rowid", BigInteger), *(column(name, Text) for name in FIELDS))
_MATCHES: Final[ColumnElement[bool]] = literal_column("task_search").op("MATCH", is_comparison=True)(
    bindparam("words", type_=Text)
)
_ADD: Final = Statement(insert(_FTS).values(rowid=bindparam("seq"), **{name: bindparam(name) for name in FIELDS}))
_REMOVE: Final = Statement(delete(_FTS).where(_FTS.c.rowid == bindparam("seq")))


class Fts5:
    """SQLite's FTS5. Implements `SearchIndex`."""

    async def add(self, tx: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `SearchIndex.add`."""
        await tx.execute_many(_ADD, rows)

    async def replace(self, tx: Transaction, row: Mapping[str, Any]) -> None:
        """See `SearchIndex.replace`."""
        await tx.execute(_REMOVE, seq=row["seq"])
        await tx.execute(_ADD, **row)

    def find(self, number: int) -> Found:
        """See `SearchIndex.find`."""
        return Found(_FTS, _FTS.c.rowid, _MATCHES, _score())

    def score_of(self, number: int, seq: BindParameter[int]) -> ColumnElement[float]:
        """See `SearchIndex.score_of`."""
        one = select(_score()).select_from(_FTS).where(_MATCHES, _FTS.c.rowid == seq)
        return one.correlate(None).scalar_subquery()

    def parameters(self, asked: Sequence[str]) -> Mapping[str, str]:
        """See `SearchIndex.parameters`."""
        # Phrases hold letters, digits and spaces alone, and stand in quotes: nothing in them is FTS5 syntax. The last
        # one is asked for as it is too, so that a whole word ranks before a longer one.
        *whole, last = (f'"{phrase}"' for phrase in asked)
        return {"words": " AND ".join([*whole, f"({last} OR {last}*)"])}


def _score() -> ColumnElement[float]:
    return func.bm25(literal_column("task_search"), *map(literal_column, map(str, _WEIGHTS)), type_=Double())
