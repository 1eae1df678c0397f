"""Compiling and evaluating: what is accepted, what is refused and how that is said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from taskman_server.kit.cel import (
    BOOL,
    DOUBLE,
    DURATION,
    INT,
    MAP,
    STRING,
    TIMESTAMP,
    CelError,
    CelEvaluationError,
    CelSyntaxError,
    Environment,
    combine,
    list_of,
    nullable,
    record,
)

NOON = datetime(2024, 8, 1, 12, tzinfo=UTC)
FILTER = Environment(
    {
        "state": STRING,
        "title": nullable(STRING),
        "priority": INT,
        "score": DOUBLE,
        "archived": nullable(BOOL),
        "labels": list_of(STRING),
        "due_time": nullable(TIMESTAMP),
        "spent": nullable(DURATION),
    }
)
POLICY = Environment(
    {
        "principal": record(
            {"id": STRING, "roles": list_of(STRING), "organization": record({"id": STRING}), "attributes": MAP}
        ),
        "resource": record({"id": STRING, "title": STRING, "labels": list_of(STRING), "due_time": nullable(TIMESTAMP)}),
        "request": MAP,
        "now": TIMESTAMP,
    }
)
ROW: dict[str, Any] = {
    "state": "todo",
    "title": None,
    "priority": 2,
    "score": 0.5,
    "archived": None,
    "labels": ["fix", "ui"],
    "due_time": NOON,
    "spent": timedelta(hours=2),
}
CALL: dict[str, Any] = {
    "principal": {"id": "u1", "roles": ["lead"], "organization": {"id": "o1"}, "attributes": {"since": NOON, "n": [1]}},
    "resource": {"id": "t1", "title": "a", "labels": [], "due_time": None},
    "request": {"ip": "10.0.0.1"},
    "now": NOON,
}


@pytest.mark.parametrize(
    "text",
    [
        '"fix" in labels && state == "todo" && due_time < timestamp("2024-08-02T00:00:00Z")',
        "title == null && title != 'x' && archived == null",
        "priority + 1 == 3 && score < 1.0",
        "labels.exists(l, l.startsWith('f')) && labels.all(l, size(l) < 4) && size(labels) == 2",
        "spent == duration('2h') && due_time - duration('1h') < due_time",
        "archived == true || state.matches('^t.*o$')",
        "(title == null ? 'none' : title) == 'none'",
    ],
)
def test_a_filter_is_true_for_the_row_it_describes(text: str) -> None:
    """TASK-6: fields stand by their bare names; empty ones are null."""
    assert FILTER.compile(text).evaluate(ROW) is True
    assert FILTER.compile(f"!({text})").test(ROW) is False


@pytest.mark.parametrize(
    "text",
    [
        "principal.organization.id == 'o1' && 'lead' in principal.roles",
        "request.ip.startsWith('10.') && principal.attributes.since <= now && 1 in principal.attributes.n",
        "has(resource.id) && !has(resource.due_time) && has(request.ip) && !has(request.agent)",
        "has ( resource . title ) && '''has(resource.due_time)''' != ''  // has(resource.due_time)",
        "[1, 2].exists(n, n == 2) && {'a': 1}.a == 1",
    ],
)
def test_a_policy_sees_who_asks_for_what(text: str) -> None:
    """AUTHZ-2: principal, resource, request and now; has() asks whether a field is filled."""
    assert POLICY.compile(text).evaluate(CALL) is True


@pytest.mark.parametrize(
    ("environment", "text", "place", "words"),
    [
        (POLICY, 'true && resource.titel == "x"', (1, 9), ["resource.titel", "did you mean resource.title"]),
        (POLICY, "has(resource.titel)", (1, 5), ["resource.titel", "resource.title"]),
        (POLICY, "resource == null", (1, 1), ["`resource`", "resource.due_time"]),
        (POLICY, "has_0_", (1, 1), ["no field or variable"]),
        (POLICY, "principal.roles.exists(now, now == 'a')", (1, 23), ["`now` already names something else"]),
        (FILTER, "stat == 'x'", (1, 1), ["`stat`", "did you mean state?"]),
        (FILTER, "state ==\n 3", (1, 7), ["`==`", "string and int"]),
        (FILTER, "state == null", (1, 7), ["null"]),
        (FILTER, "true &&\n state ==", (2, 10), ["ends too early"]),
        (FILTER, "'é😀' == state && x == 1", (1, 18), ["`x`"]),
        (FILTER, "state == 'recursion' &&& true", (1, 24), ["cannot be read"]),
        (FILTER, "state.lowerAscii() == 'a'", (1, 17), ["no function `lowerAscii`"]),
        (FILTER, "state.size", (1, 6), ["string has no fields"]),
        (FILTER, "priority", (1, 1), ["gives a int", "must give a bool"]),
        (FILTER, "labels", (1, 1), ["gives a list"]),
        (FILTER, 'due_time < timestamp("tomorrow")', (1, 22), ["not a time", "2024-08-01T00:00:00Z"]),
        (FILTER, "spent < duration('2 hours')", (1, 18), ["not a duration", "24h"]),
        (FILTER, "state.matches('(?=a)')", (1, 15), ["not a regular expression"]),
        (FILTER, "due_time < timestamp('2024-08-01T00:00:00.0000001Z')", (1, 22), ["microsecond"]),
        (FILTER, "state == 'a\0'", (1, 12), ["not text"]),
        (FILTER, "state == '\ud800'", (1, 11), ["not text"]),
        (FILTER, "if == 1", (1, 1), []),
        (FILTER, "", (1, 1), []),
    ],
)
def test_a_mistake_is_named_with_its_place_and_a_way_out(
    environment: Environment, text: str, place: tuple[int, int], words: list[str]
) -> None:
    """AUTHZ-3: an expression is checked when it is saved, and the answer helps."""
    with pytest.raises(CelSyntaxError) as caught:
        environment.compile(text)
    error = caught.value
    assert error.position is not None
    assert (error.position.line, error.position.column) == place
    assert text[: error.position.offset].count("\n") == place[0] - 1
    for word in words:
        assert word in str(error)
    assert "\n" not in str(error)
    assert error.expression == text


@pytest.mark.parametrize(
    ("change", "text", "words"),
    [
        ({"state": "todo\0"}, "state == 'todo'", "NUL"),
        ({"labels": ["a", "fix\0"]}, "'fix' in labels", "NUL"),
        ({"state": "\ud800"}, "state == 'todo'", "cannot be used"),
        ({"state": 3}, "state == 'todo'", "`state` should be a string, not int"),
        ({"state": None}, "state == 'todo'", "should be a string"),
        ({"priority": True}, "priority == 1", "should be an int"),
        ({"priority": 2**70}, "priority == 1", ""),
        ({"labels": "fix"}, "'fix' in labels", "should be a list"),
        ({"due_time": NOON.replace(tzinfo=None)}, "due_time == null", "time zone"),
        ({"due_time": None}, "due_time < timestamp('2024-08-01T00:00:00Z')", "empty (null)"),
        ({"archived": None}, "archived", ""),
        ({}, "priority / 0 == 1", "divide by zero"),
        ({}, "priority + 9223372036854775807 == 1", "overflow"),
    ],
)
def test_what_has_no_value_is_an_error_and_never_passes(change: dict[str, Any], text: str, words: str) -> None:
    """AUTHZ-2: deny in doubt; a NUL must not cut a name short, a bool is no int, a naive time no UTC."""
    for written in (text, f"!({text})"):
        program = FILTER.compile(written)
        assert program.test({**ROW, **change}) is False
        with pytest.raises(CelEvaluationError) as caught:
            program.evaluate({**ROW, **change})
        assert words in str(caught.value)


def test_a_missing_variable_denies_only_where_it_is_needed() -> None:
    """AUTHZ-2: `false && missing` is false, `missing` is an error that names the variable."""
    assert POLICY.compile("false && resource.id == 'a'").evaluate({}) is False
    without: list[dict[str, Any]] = [{}, {"resource": {}}, {"resource": None}, {"resource": "text"}]
    for bindings in without:
        program = POLICY.compile("resource.id != 'a'")
        assert program.test(bindings) is False
        with pytest.raises(CelEvaluationError, match=r"`resource\.id` has no value"):
            program.evaluate(bindings)
    assert POLICY.compile("!has(resource.due_time)").test({"resource": {}}) is True
    assert POLICY.compile("!has(resource.due_time)").test({}) is False


def test_times_mean_the_same_in_every_zone_and_field() -> None:
    """AUTHZ-2: aware datetimes go in as timestamps, to the microsecond, nullable or not, before 1970 too."""
    east = timezone(timedelta(hours=5, minutes=30))
    both = Environment({"a": TIMESTAMP, "b": nullable(TIMESTAMP), "m": MAP, "c": DURATION, "d": nullable(DURATION)})
    same = both.compile("a == b && b == m.at && [a] == [b] && c == d && d == m.took")
    ends = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    for moment in (NOON, datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), *ends):
        shifted = moment if moment in ends else moment.astimezone(east)
        took = timedelta(days=-1, microseconds=1)
        assert same.test({"a": moment, "b": shifted, "m": {"at": moment, "took": took}, "c": took, "d": took})
    later = both.compile("a < b")
    assert later.test({"a": NOON, "b": NOON + timedelta(microseconds=1)})
    assert not later.test({"a": NOON, "b": NOON})


def test_other_results_can_be_asked_for() -> None:
    """TASK-3: a guard may give text; the type asked for is held."""
    assert FILTER.compile("state + '!'", result=STRING).evaluate(ROW) == "todo!"
    assert FILTER.compile("due_time", result=TIMESTAMP).evaluate(ROW) == NOON
    assert FILTER.compile("[labels[0], 'x']", result=None).evaluate(ROW) == ["fix", "x"]
    with pytest.raises(CelSyntaxError, match="must give a string"):
        FILTER.compile("priority", result=STRING)
    with pytest.raises(CelEvaluationError, match="divide by zero"):
        FILTER.compile("string(1 / (priority - 2))", result=STRING).evaluate(ROW)


def test_a_program_is_compiled_once_per_text_and_the_cache_is_bounded() -> None:
    """AUTHZ-4: the same text costs nothing twice, and texts do not pile up."""
    environment = Environment({"n": INT}, cache_size=2)
    first = environment.compile("n == 1")
    assert environment.compile("n == 1") is first
    environment.compile("n == 2")
    environment.compile("n == 3")
    assert environment.compile("n == 1") is not first


def test_a_first_evaluation_knows_the_types() -> None:
    """AUTHZ-2: a new environment takes a datetime at once, and refuses what is not one."""
    fresh = Environment({"at": TIMESTAMP, "due": nullable(TIMESTAMP)})
    assert fresh.compile("due != at").evaluate({"at": NOON, "due": None}) is True


@pytest.mark.parametrize("type_", [list_of(STRING), MAP, record({"id": STRING})])
def test_only_scalars_can_be_null(type_: Any) -> None:
    """AUTHZ-2: lists are empty, not null."""
    with pytest.raises(ValueError, match="cannot be nullable"):
        nullable(type_)


@pytest.mark.parametrize(
    ("allows", "denies", "accepted"),
    [
        ([], [], ""),
        ([], ["state == 'x'"], ""),
        (["true"], [], "ab"),
        (["state == 'a'"], [], "a"),
        (["state == 'a'", "state == 'b'"], ["state == 'b'"], "a"),
        (["true", "state == 'a'"], ["state == 'a' || state == 'c'"], "b"),
        (["state == 'a' || state == 'b' // both"], ["state == 'c' // none", "false"], "ab"),
        (["false", "state == 'b'"], ["false"], "b"),
        (["true"], ["true"], ""),
        (["true"], ["state == 'a' && 1 / 0 == 1"], "b"),
    ],
)
def test_denies_win_over_allows_and_nothing_allows_by_itself(
    allows: list[str], denies: list[str], accepted: str
) -> None:
    """AUTHZ-2: deny by default, an explicit deny wins, an error in a deny denies."""
    program = FILTER.compile(combine(allows, denies))
    assert [state for state in "abc"[:2] if program.test({**ROW, "state": state})] == list(accepted)


def test_the_simplest_combinations_stay_simple() -> None:
    """AUTHZ-6: what is explained should be short."""
    assert combine([], ["a"]) == "false"
    assert combine(["true", "a"], []) == "true"
    assert combine(["a"], ["true"]) == "false"
    assert combine(["a", "b"], ["c"]) == "((a) || (b)) && !(c)"


def test_every_error_is_one_kind_with_a_sentence() -> None:
    """GATE-5: callers catch one class and show its text."""
    with pytest.raises(CelError) as caught:
        FILTER.compile("stat == 'x'")
    assert str(caught.value) == ("there is no field or variable `stat` at line 1, column 1: did you mean state?")
    assert caught.value.message == "there is no field or variable `stat`"
