"""Page tokens and keysets: each row once, in order, whatever is written meanwhile."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from taskman_sdk.errors import InvalidArgumentError
from taskman_server.kit.db import Database
from taskman_server.kit.paging import BadPageToken, Keyset, Pager, SortKey, page, parse_order_by
from tests.store.support import EFFECTS, NOTES

PAGER = Pager(b"0123456789abcdef")
QUERY = {"method": "ListTasks", "filter": 'state == "todo"', "order_by": "text desc"}


@dataclass(frozen=True)
class Note:
    id: str
    text: str | None
    done: bool | None
    time: datetime | None


NOTES_ST = st.lists(
    st.builds(
        Note,
        id=st.text("abcABC", min_size=1, max_size=3),
        text=st.none() | st.text("aä", max_size=2),
        done=st.none() | st.booleans(),
        time=st.none() | st.integers(0, 3).map(lambda n: datetime(2030, 1, 1, microsecond=n, tzinfo=UTC)),
    ),
    unique_by=lambda note: note.id,
    max_size=25,
)
ORDERS = st.lists(
    st.tuples(st.sampled_from(["text", "done", "time"]), st.booleans()), unique_by=lambda pair: pair[0], max_size=3
)


def keyset_of(order: Sequence[tuple[str, bool]], id_descending: bool) -> Keyset:
    keys = [SortKey(NOTES.c[name], descending, nullable=True) for name, descending in order]
    return Keyset(*keys, SortKey(NOTES.c.id, id_descending))


def expected(notes: Sequence[Note], order: Sequence[tuple[str, bool]], id_descending: bool) -> list[str]:
    """The order said in Python: stable sorts from the last key to the first, nulls at the end of each."""
    result = sorted(notes, key=lambda note: note.id, reverse=id_descending)
    for name, descending in reversed(order):
        filled = [note for note in result if getattr(note, name) is not None]
        filled.sort(key=lambda note: getattr(note, name), reverse=descending)
        result = filled + [note for note in result if getattr(note, name) is None]
    return [note.id for note in result]


async def fill(db: Database, notes: Sequence[Note]) -> None:
    rows = [{"id": n.id, "text": n.text, "done": n.done, "extra": None, "time": n.time} for n in notes]
    async with db.transaction() as tx:
        await tx.execute(sa.delete(NOTES))
        await tx.execute_many(sa.insert(NOTES), rows)


async def next_page(db: Database, keyset: Keyset, token: str, size: int) -> tuple[list[str], str]:
    statement = sa.select(NOTES).order_by(*keyset.order_by()).limit(size + 1)
    if token:
        statement = statement.where(keyset.after(PAGER.decode(token, QUERY)))
    rows, more = page(await db.fetch_all(statement), size)
    return [row.id for row in rows], PAGER.encode(QUERY, keyset.values(rows[-1])) if more else ""


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(NOTES_ST, ORDERS, st.booleans(), st.integers(1, 7))
async def test_pages_joined_are_the_whole_list(
    db: Database, notes: list[Note], order: list[tuple[str, bool]], id_descending: bool, size: int
) -> None:
    """AIP-158: no gap, no repeat, the order asked for, whatever is null or equal."""
    await fill(db, notes)
    keyset = keyset_of(order, id_descending)
    seen: list[str] = []
    token = ""
    while True:
        ids, token = await next_page(db, keyset, token, size)
        assert len(ids) <= size
        seen += ids
        if not token:
            break
    assert seen == expected(notes, order, id_descending)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(NOTES_ST, ORDERS, st.integers(1, 4), st.data())
async def test_rows_that_stay_are_seen_once_while_others_write(
    db: Database, notes: list[Note], order: list[tuple[str, bool]], size: int, data: st.DataObject
) -> None:
    """Rows added and deleted between two pages neither shift nor hide the others."""
    await fill(db, notes)
    keyset = keyset_of(order, False)
    stays = {note.id for note in notes}
    seen: list[str] = []
    token = ""
    for turn in range(200):
        ids, token = await next_page(db, keyset, token, size)
        seen += ids
        if not token:
            break
        if stays:
            gone = data.draw(st.sampled_from(sorted(stays)))
            stays.discard(gone)
            await db.execute(sa.delete(NOTES).where(NOTES.c.id == gone))
        if turn < 5:
            await db.execute(
                sa.insert(NOTES).values(id=f"new{turn}", text=data.draw(st.sampled_from(["", "a", "zz"])), done=None)
            )
    assert len(seen) == len(set(seen))
    assert stays <= set(seen)
    everything = [note.id for note in notes]
    assert [i for i in seen if i in everything] == [i for i in expected(notes, order, False) if i in set(seen)]


async def test_a_page_begins_at_its_place_in_an_index(db: Database) -> None:
    """A late page costs as much as the first one: the database searches the index instead of walking it."""
    await db.execute(sa.text("CREATE INDEX by_sequence ON effects (event_id DESC, sequence)"))
    keyset = Keyset(SortKey(EFFECTS.c.event_id, descending=True), SortKey(EFFECTS.c.sequence))
    statement = sa.select(EFFECTS.c.sequence).where(keyset.after(["x", 1])).order_by(*keyset.order_by())
    sql = str(statement.compile(dialect=db.dialect, compile_kwargs={"literal_binds": True}))
    plan = " ".join(str(row[3]) for row in await db.fetch_all(sa.text(f"EXPLAIN QUERY PLAN {sql}")))
    assert "SEARCH effects USING COVERING INDEX by_sequence (event_id<?)" in plan
    assert "TEMP B-TREE" not in plan


def test_the_order_is_the_same_on_postgresql() -> None:
    """OPS-2: PostgreSQL puts nulls elsewhere unless it is told."""
    clauses = keyset_of([("text", True), ("time", False)], False).order_by()
    assert [str(clause.compile(dialect=postgresql.dialect())) for clause in clauses] == [  # type: ignore[no-untyped-call]
        "notes.text DESC NULLS LAST",
        "notes.time ASC NULLS LAST",
        "notes.id ASC",
    ]


VALUES = st.lists(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.datetimes(timezones=st.just(UTC)),
    max_size=4,
)


@given(VALUES)
def test_a_token_holds_its_values(values: list[Any]) -> None:
    """Times to the microsecond, texts of any characters."""
    token = PAGER.encode(QUERY, values)
    assert PAGER.decode(token, QUERY) == values
    assert token.isascii()
    assert "=" not in token


def test_a_token_is_for_its_query_only() -> None:
    """Another filter or tenant with it would be a wrong page, or a look into the neighbour's rows."""
    token = PAGER.encode(QUERY, ["a", 1])
    for other in (QUERY | {"filter": ""}, QUERY | {"organization": "org_2"}, {}):
        with pytest.raises(BadPageToken) as caught:
            PAGER.decode(token, other)
        assert caught.value.fault == "other_query"


@given(st.data())
def test_a_token_cannot_be_forged(data: st.DataObject) -> None:
    """Any bit changed, another deployment's key, something else entirely."""
    token = PAGER.encode(QUERY, ["a", 1])
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    forged = base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=").decode()
    foreign = Pager(b"another deployment's key").encode(QUERY, ["a", 1])
    for bad in (forged, foreign, data.draw(st.text()), "", "A", token[:-4], token + "AAAA", "A" * 10_000, token + "é"):
        with pytest.raises(BadPageToken) as caught:
            PAGER.decode(bad, QUERY)
        assert caught.value.fault == "malformed"


def test_misuse_is_told() -> None:
    """A short key, and an order that is not total."""
    with pytest.raises(ValueError, match="16 bytes"):
        Pager(b"short")
    for keys in ((), (SortKey(NOTES.c.text, nullable=True),)):
        with pytest.raises(ValueError, match="unique"):
            Keyset(*keys)
    with pytest.raises(BadPageToken):
        Keyset(SortKey(NOTES.c.id)).after(["a", "b"])


@pytest.mark.parametrize(
    ("text", "name", "descending"),
    [
        ("", "create_time", False),
        ("  ", "create_time", False),
        ("title", "title", False),
        ("title asc", "title", False),
        (" title   desc ", "title", True),
    ],
)
def test_an_order_is_a_name_and_a_direction(text: str, name: str, descending: bool) -> None:
    """AIP-132."""
    assert parse_order_by(text, ("create_time", "title")) == (name, descending)


@pytest.mark.parametrize("text", ["titel", "title down", "title desc desc", "title,create_time", "desc", "title DESC"])
def test_another_order_is_refused_with_the_legal_ones(text: str) -> None:
    """AIP-132."""
    with pytest.raises(InvalidArgumentError) as caught:
        parse_order_by(text, ("create_time", "title"))
    assert (caught.value.reason, caught.value.metadata) == ("ORDER_BY_INVALID", {"legal": "create_time, title"})
    assert caught.value.field_violations[0].field == "order_by"
    assert repr(text) in caught.value.message
