"""What people type: dates and short filters (CLI-2)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from taskman_sdk.cli._dates import end_of_day, moment
from taskman_sdk.cli._filters import FilterError, read

NOW = datetime(2024, 9, 4, 14, 30, tzinfo=UTC)  # a Wednesday


@pytest.mark.parametrize(
    ("text", "expected", "whole"),
    [
        ("today", "2024-09-04T00:00", True),
        ("Tomorrow", "2024-09-05T00:00", True),
        ("friday", "2024-09-06T00:00", True),
        ("wednesday", "2024-09-04T00:00", True),
        ("next wednesday", "2024-09-11T00:00", True),
        ("+3d", "2024-09-07T00:00", True),
        ("in 2 weeks", "2024-09-18T00:00", True),
        ("1 month", "2024-10-04T00:00", True),
        ("+2h", "2024-09-04T16:30", False),
        ("2024-12-24", "2024-12-24T00:00", True),
        ("24 Dec", "2024-12-24T00:00", True),
        ("friday 15:00", "2024-09-06T15:00", False),
        ("2024-12-24T15:00Z", "2024-12-24T15:00", False),
    ],
)
def test_dates(text: str, expected: str, whole: bool) -> None:
    """CLI-2"""
    when, is_whole = moment(text, NOW)
    assert (when.isoformat()[:16], is_whole) == (expected, whole)
    assert when.tzinfo is not None


@pytest.mark.parametrize("text", ["", "someday", "2024-02-30", "99999999999", "+d"])
def test_what_is_no_date_says_what_would_be(text: str) -> None:
    """CLI-2"""
    with pytest.raises(ValueError, match="2024-09-01, friday"):
        moment(text, NOW)


def test_a_day_ends_with_its_last_second() -> None:
    """CLI-2: due friday is not overdue on friday."""
    assert end_of_day(NOW).isoformat() == "2024-09-04T23:59:59+00:00"


def person(who: str) -> str:
    return f"user_{who}"


DAY = 'due_time >= timestamp("2024-09-01T00:00:00Z") && due_time < timestamp("2024-09-02T00:00:00Z")'


@pytest.mark.parametrize(
    ("words", "cel"),
    [
        ([], ""),
        (["label:fix"], '"fix" in labels'),
        (["label:fix", "state:todo"], '("fix" in labels) && (state == "todo")'),
        (["label:a,b"], '"a" in labels || "b" in labels'),
        (["label:!a"], '!("a" in labels)'),
        (["state:!done"], 'state != "done"'),
        (["state:todo,in_progress"], 'state in ["todo", "in_progress"]'),
        (["assignee:me"], '"user_me" in assignees'),
        (["assignee:none"], "size(assignees) == 0"),
        (["label:!none"], "size(labels) > 0"),
        (["creator:me"], 'creator == "user_me"'),
        (["due:<2024-09-01"], 'due_time < timestamp("2024-09-01T00:00:00Z")'),
        (["due:<=2024-09-01"], 'due_time < timestamp("2024-09-02T00:00:00Z")'),
        (["due:>2024-09-01"], 'due_time >= timestamp("2024-09-02T00:00:00Z")'),
        (["due:>=2024-09-01"], 'due_time >= timestamp("2024-09-01T00:00:00Z")'),
        (["due:2024-09-01"], DAY),
        (["due:none"], "due_time == null"),
        (["due:overdue"], "due_time < now && complete_time == null"),
        (["updated:>2024-09-01T10:00Z"], 'update_time > timestamp("2024-09-01T10:00:00Z")'),
        (['say "x" && true'], 'title.contains("say \\"x\\" && true")'),
        (["label:a:b"], '"a:b" in labels'),
        (['state:" || true || "'], 'state == "\\" || true || \\""'),
    ],
)
def test_short_filters_are_cel(words: list[str], cel: str) -> None:
    """CLI-2: a value stays a value, whatever is in it."""
    assert read(words, person, NOW).cel == cel


def test_a_project_is_asked_for_by_itself() -> None:
    """CLI-2"""
    query = read(["project:WEB", "login"], person, NOW)
    assert (query.project, query.cel) == ("WEB", 'title.contains("login")')


@pytest.mark.parametrize(
    ("word", "text"), [("colour:red", "'colour' is nothing to filter by"), ("due:<someday", "no date")]
)
def test_a_filter_that_means_nothing_is_refused(word: str, text: str) -> None:
    """CLI-2"""
    with pytest.raises(FilterError, match=text):
        read([word], person, NOW)
