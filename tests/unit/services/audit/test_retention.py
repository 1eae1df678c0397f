"""How long what is kept, and which buckets a question means: pure (AUDIT-5, AUDIT-6)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskman_sdk import codec
from taskman_server.services.audit.metrics import MAX_BUCKETS, range_of
from taskman_server.services.audit.retention import ACTIVITY, CATEGORIES, SECURITY, Category, Span, notes, spans_of

times = st.integers(365, 80_000_000).map(lambda minutes: datetime(1971, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes))


@pytest.mark.parametrize(
    ("category", "begin", "end"),
    [
        (ACTIVITY, datetime(2028, 2, 29, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC)),
        (SECURITY, datetime(2028, 2, 1, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC)),
    ],
)
def test_a_day_and_a_month_end_where_the_calendar_says(category: Category, begin: datetime, end: datetime) -> None:
    """AUDIT-6."""
    time = datetime(2028, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)
    assert (category.begin(time), category.end(time)) == (begin, end)


@given(times, st.integers(0, 3000), st.sampled_from(CATEGORIES))
def test_nothing_goes_before_its_time(now: datetime, days: int, category: Category) -> None:
    """AUDIT-6: what is removed is older than promised, and by less than a unit more than that."""
    if now - timedelta(days=days) < datetime(1971, 2, 1, tzinfo=UTC):
        return
    cutoff = category.cutoff(now, days)
    assert cutoff <= now - timedelta(days=days) < category.end(cutoff)


@given(st.lists(st.integers(1, 5), max_size=1200))
def test_what_is_written_down_is_read_back_in_pieces(lengths: list[int]) -> None:
    """AUDIT-6."""
    spans, place = [], 1
    for length in lengths:
        spans.append(Span(place, place + length - 1, f"{place:064x}", f"{place + length:064x}"))
        place += length + 1
    written = list(notes("activity", datetime(2030, 1, 1, tzinfo=UTC), spans))
    texts = [json.dumps(codec.to_value(note, implicit=False)) for note in written]
    assert [span for text in texts for span in spans_of(text)] == spans
    assert sum(note.count for note in written) == sum(lengths)
    assert all(len(note.spans) <= 500 for note in written)


def test_what_was_not_written_so_says_nothing() -> None:
    """AUDIT-2."""
    assert spans_of("no json") == []
    assert spans_of('{"spans": 7}') == []


@given(times, st.integers(1, 10**9), st.integers(60, 10**6))
def test_buckets_cover_the_range_without_gap(since: datetime, seconds: int, width: int) -> None:
    """AUDIT-5: each begins at a multiple of the width, bar the first, which begins with the range."""
    until = since + timedelta(seconds=seconds)
    width = max(width, -(-seconds // (MAX_BUCKETS - 1)))
    spans = range_of(since, until, width, until).spans()
    assert 1 <= len(spans) <= MAX_BUCKETS
    assert (spans[0][1], spans[-1][2]) == (since, until)
    assert all(one[2] == other[1] for one, other in pairwise(spans))
    assert all(int(place.timestamp()) % width == 0 and begin < end for place, begin, end in spans)
