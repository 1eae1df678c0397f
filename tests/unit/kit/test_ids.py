"""Ids are typed by their prefix and sort by the time they were made."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskman_server.kit.ids import id_floor, id_time, is_id, new_id


def test_an_id_has_its_prefix_and_26_digits() -> None:
    """Design: ids are sortable and typed, `task_01j…`."""
    identifier = new_id("task")
    prefix, _, digits = identifier.partition("_")
    assert prefix == "task"
    assert len(digits) == 26
    assert is_id(identifier, "task")
    assert not is_id(identifier, "user")


def test_each_id_is_greater_than_the_one_before() -> None:
    """Order by id is the order of making, also within a millisecond."""
    ids = [new_id("task") for _ in range(50_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_threads_never_make_the_same_id() -> None:
    """One process, many threads."""
    made: list[list[str]] = [[] for _ in range(4)]

    def work(into: list[str]) -> None:
        into.extend(new_id("x") for _ in range(5_000))

    threads = [threading.Thread(target=work, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({identifier for into in made for identifier in into}) == 20_000
    assert all(into == sorted(into) for into in made)


def test_an_id_tells_when_it_was_made() -> None:
    """The time in the id is the wall clock's, to the millisecond."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    made = id_time(new_id("event"))
    assert before <= made <= datetime.now(UTC) + timedelta(milliseconds=1)


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9999, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_the_floor_of_a_time_is_an_id_of_that_time(time: datetime) -> None:
    """Ids can be compared with a time: the inbox window counts on it (EVENT-1)."""
    floor = id_floor("event", time)
    assert is_id(floor, "event")
    assert timedelta(0) <= time - id_time(floor) < timedelta(milliseconds=1)
    assert id_floor("event", time + timedelta(milliseconds=1)) > floor


@pytest.mark.parametrize(
    "text", ["", "task", "task_", "task_01", "TASK_" + "0" * 26, "task_" + "8" * 26, "t_" + "u" * 26]
)
def test_what_is_no_id_is_told_apart(text: str) -> None:
    """A digit that Crockford leaves out, a value beyond 128 bits, a wrong length."""
    assert not is_id(text)
    with pytest.raises(ValueError, match="not an id"):
        id_time(text)
