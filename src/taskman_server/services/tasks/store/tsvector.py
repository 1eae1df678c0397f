"""The search of `search` on PostgreSQL: a `tsvector` for each task, with a GIN index.

What differs from FTS5: a score (`ts_rank`) does not know how rare a word is, and the order among tasks that match
alike can therefore be another; the tasks that are found are the same. Words are looked at up to their 255th letter,
and what follows the 16,000th word of a task, or the 255th occurrence of a word, is found by single words, no longer by
words that must follow each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Double,
    Text,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    select,
    table,
)
from sqlalchemy.dialects.postgresql import TSQUERY, TSVECTOR, insert

from taskman_server.kit.db import Statement, Transaction
from taskman_server.services.tasks.store.search import Found

__all__ = ["TsVector"]


def _query(name: str) -> ColumnElement[Any]:
    return cast(bindparam(name, type_=Text), TSQUERY)


_TABLE: Final = table("task_search", column("seq", BigInteger), column("document", TSVECTOR))
_MATCHES: Final[ColumnElement[bool]] = _TABLE.c.document.bool_op("@@")(_query("words"))
_ADD: Final = Statement(
    insert(_TABLE).values(
        seq=bindparam("seq", type_=BigInteger), document=cast(bindparam("document", type_=Text), TSVECTOR)
    )
)
_PUT: Final = Statement(
    (added := insert(_TABLE))
    .values(seq=bindparam("seq", type_=BigInteger), document=cast(bindparam("document", type_=Text), TSVECTOR))
    .on_conflict_do_update(index_elements=[_TABLE.c.seq], set_={"document": added.excluded.document})
)
# A field and its class; the long one last, as positions end at some point.
_CLASSES: Final = (("title", "A"), ("key", "A"), ("labels", "B"), ("description", "D"))
# Of the classes D, C, B, A: as FTS5 weighs the fields, a tenth of it.
_WEIGHTS: Final[ColumnElement[Any]] = literal_column("'{0.1, 0, 0.5, 1}'::float4[]")
_BY_LENGTH: Final[ColumnElement[Any]] = literal_column("1")  # divide by 1 + log(words)
_LONGEST: Final = 255
_LAST: Final = 16_000
_BEYOND: Final = 16_383  # the last place there is; nothing is next to it
_MOST: Final = 255  # places of one word that PostgreSQL keeps


class TsVector:
    """PostgreSQL's text search. Implements `SearchIndex`."""

    async def add(self, tx: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `SearchIndex.add`."""
        await tx.execute_many(_ADD, [{"seq": row["seq"], "document": _document(row)} for row in rows])

    async def replace(self, tx: Transaction, row: Mapping[str, Any]) -> None:
        """See `SearchIndex.replace`."""
        await tx.execute(_PUT, seq=row["seq"], document=_document(row))

    def find(self, number: int) -> Found:
        """See `SearchIndex.find`."""
        return Found(_TABLE, _TABLE.c.seq, _MATCHES, _score(number))

    def score_of(self, number: int, seq: BindParameter[int]) -> ColumnElement[float]:
        """See `SearchIndex.score_of`."""
        one = select(_score(number)).where(_MATCHES, _TABLE.c.seq == seq)
        return one.correlate(None).scalar_subquery()

    def parameters(self, asked: Sequence[str]) -> Mapping[str, str]:
        """See `SearchIndex.parameters`."""
        # What begins with the last phrase holds the phrase itself too.
        *whole, last = asked
        more = _phrase(last, more=True)
        # The last phrase counts as it is too, so that a whole word ranks before a longer one.
        parts = [*map(_phrase, asked), more]
        return {
            "words": " & ".join([*map(_phrase, whole), more]),
            **{f"part_{number}": part for number, part in enumerate(parts)},
        }


def _document(row: Mapping[str, Any]) -> str:
    """The text of a `tsvector`: each word with its places, a gap between the fields so that no phrase spans two."""
    places: dict[str, list[str]] = {}
    place = 1
    for field, weight in _CLASSES:
        for word in row[field].split():
            known = places.setdefault(word[:_LONGEST], [])
            if len(known) < _MOST:
                known.append(f"{place if place <= _LAST else _BEYOND}{weight}")
            place += 1
        place += 2
    return " ".join(f"'{word}':{','.join(at)}" for word, at in places.items())


def _phrase(phrase: str, *, more: bool = False) -> str:
    # Letters and digits alone: nothing in a word is syntax.
    return "(" + " <-> ".join(f"'{word[:_LONGEST]}'" for word in phrase.split()) + (":*)" if more else ")")


def _score(number: int) -> ColumnElement[float]:
    """The ranks of so many phrases, and of the last one as it may go on."""
    score: ColumnElement[float] = -_rank("part_0")
    for part in range(1, number + 1):
        score = score - _rank(f"part_{part}")
    return score


def _rank(part: str) -> ColumnElement[float]:
    return cast(func.ts_rank(_WEIGHTS, _TABLE.c.document, _query(part), _BY_LENGTH), Double)
