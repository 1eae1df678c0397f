"""What holds for tasks, without a database (TASK-1, TASK-2, TASK-3)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskman_sdk.codec import Timestamp
from taskman_sdk.errors import FailedPreconditionError, InvalidArgumentError
from taskman_sdk.proto.taskman.task.v1.task_pb import Task
from taskman_server.services.tasks import rules
from taskman_server.services.tasks.convert import timestamp
from taskman_server.services.tasks.rules import DEFAULT_WORKFLOW, Move, Workflow

REVIEW = Workflow(
    "new",
    {"new": False, "review": False, "merged": True, "rejected": True},
    {"new": ["review"], "review": ["merged", "rejected"], "merged": ["rejected"], "rejected": ["new"]},
)


@pytest.mark.parametrize(
    ("current", "wanted", "expected"),
    [
        ("todo", "todo", Move(changes=False)),
        ("todo", "in_progress", Move(changes=True)),
        ("todo", "done", Move(changes=True, completes=True)),
        ("in_progress", "todo", Move(changes=True)),
        ("in_progress", "done", Move(changes=True, completes=True)),
        ("done", "todo", Move(changes=True, reopens=True)),
    ],
)
def test_the_default_workflow_allows_every_sensible_move(current: str, wanted: str, expected: Move) -> None:
    """TASK-3: reopening included."""
    assert rules.move(DEFAULT_WORKFLOW, current, wanted) == expected


def test_an_illegal_move_names_the_legal_ones() -> None:
    """TASK-3: in the message for people and in the metadata for programs."""
    with pytest.raises(FailedPreconditionError) as caught:
        rules.move(REVIEW, "review", "new")
    assert caught.value.reason == "TASK_TRANSITION_NOT_ALLOWED"
    assert caught.value.metadata == {"state": "review", "allowed": "merged,rejected"}
    assert "'merged', 'rejected'" in caught.value.message


def test_a_dead_end_says_that_it_is_one() -> None:
    """TASK-3: a state without moves, and one the workflow has lost."""
    stuck = Workflow("a", {"a": False, "b": True}, {"a": ["b"]})
    for current in ("b", "gone"):
        with pytest.raises(FailedPreconditionError, match="no other state"):
            rules.move(stuck, current, "a")


def test_an_unknown_state_is_a_wrong_argument_that_names_the_states() -> None:
    """TASK-3."""
    with pytest.raises(InvalidArgumentError) as caught:
        rules.move(DEFAULT_WORKFLOW, "todo", "doing")
    assert caught.value.field_violations[0].field == "state"
    assert "todo, in_progress, done" in caught.value.message


def test_between_two_final_states_nothing_is_completed_again() -> None:
    """TASK-3: one completion, however many final states."""
    assert rules.move(REVIEW, "merged", "rejected") == Move(changes=True)
    assert rules.move(REVIEW, "rejected", "new") == Move(changes=True, reopens=True)


def test_a_workflow_survives_its_storage() -> None:
    """TASK-3: workflows are data."""
    assert Workflow.from_value(REVIEW.to_value()).to_value() == REVIEW.to_value()
    assert rules.move(Workflow.from_value(REVIEW.to_value()), "new", "review") == Move(changes=True)


def test_a_project_keeps_an_admin() -> None:
    """TASK-1: neither leaving nor a lesser role takes the last one away."""
    members = {"ann": "admin", "bob": "editor"}
    for changed in ({"bob": "editor"}, {"ann": "viewer", "bob": "editor"}, {}):
        with pytest.raises(FailedPreconditionError) as caught:
            rules.check_last_admin(members, changed)
        assert caught.value.reason == "LAST_PROJECT_ADMIN"
    rules.check_last_admin(members, {"bob": "admin"})


def test_roles_include_the_lesser_ones() -> None:
    """What policies see as members, editors and admins."""
    members = {"ann": "admin", "bob": "editor", "cem": "viewer"}
    assert rules.users_with(members) == ["ann", "bob", "cem"]
    assert rules.users_with(members, "editor", "admin") == ["ann", "bob"]
    assert rules.users_with(members, "admin") == ["ann"]


def test_only_who_sees_a_project_is_assigned_in_it() -> None:
    """TASK-2, open point 23."""
    rules.check_may_see(["zoe"], [], "organization", "WEB")
    rules.check_may_see(["ann"], ["ann"], "private", "WEB")
    with pytest.raises(FailedPreconditionError) as caught:
        rules.check_may_see(["ann", "zoe", "yan"], ["ann"], "private", "WEB")
    assert caught.value.reason == "ASSIGNEE_NOT_MEMBER"
    assert caught.value.metadata == {"users": "zoe,yan", "project": "WEB"}
    assert "/v1/projects/WEB/members" in caught.value.message


def test_what_is_in_the_trash_is_not_changed() -> None:
    """TASK-1."""
    rules.check_deleted("WEB-1", None)
    with pytest.raises(FailedPreconditionError) as caught:
        rules.check_deleted("WEB-1", datetime(2030, 1, 1, tzinfo=UTC))
    assert caught.value.reason == "TASK_DELETED"


def test_labels_stay_as_given_but_trimmed_and_once() -> None:
    """TASK-1."""
    assert rules.clean_labels([" Fix ", "fix", "Fix", "a b"]) == ["Fix", "fix", "a b"]
    for bad in (["ok", "  "], ["a\nb"], ["a\0"]):
        with pytest.raises(ValueError, match=r"label \d"):
            rules.clean_labels(bad)


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("\x1b", "ESC"),
        ("\x07", "BEL"),
        ("\x7f", "DEL"),
        ("\t", "a tab"),
        ("\x00", "NUL"),
        ("\x1f", "US"),
        ("\n", "line"),
    ],
)
def test_a_line_holds_no_control_character_and_the_error_names_it(character: str, name: str) -> None:
    """TASK-1: titles, labels and names of projects come to terminals and spreadsheets."""
    with pytest.raises(ValueError, match=name):
        rules.clean_line(f"a{character}b")
    with pytest.raises(ValueError, match=f"label 2 .*{name}"):
        rules.clean_labels(["fine", f"a{character}b"])


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])).filter(str.strip))
def test_every_other_text_of_one_line_stays_as_it_is(text: str) -> None:
    """TASK-1"""
    assert rules.clean_line(text) == text


@given(st.lists(st.text(st.characters(exclude_categories=["Cc"]), min_size=1).filter(str.strip)))
def test_cleaned_labels_are_clean(labels: list[str]) -> None:
    """TASK-1: cleaning twice changes nothing, and loses no label."""
    once = rules.clean_labels(labels)
    assert rules.clean_labels(once) == once
    assert set(once) == {label.strip() for label in labels}


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_survives_the_message(time: datetime) -> None:
    """TASK-1: to the microsecond, in all years."""
    assert rules.time_of(timestamp(time)) == time


def test_times_outside_the_calendar_are_refused() -> None:
    """TASK-1: and the very last representable moment is not."""
    last = Timestamp(seconds=253402300799, nanos=999_999_999)
    assert rules.time_of(last) == datetime.max.replace(tzinfo=UTC)
    for bad in (Timestamp(seconds=10**15), Timestamp(seconds=-(10**12)), Timestamp(nanos=-1)):
        with pytest.raises(ValueError, match="years 1 to 9999"):
            rules.time_of(bad)


def test_a_draft_names_everything_that_is_wrong() -> None:
    """TASK-1, TASK-9: all at once, by the names of the contract."""
    bad = Task(
        title=" \t",
        description="a\0b",
        state="doing",
        priority="huge",
        labels=[" "],
        external_id="\0",
        start_time=Timestamp(seconds=100),
        due_time=Timestamp(seconds=99),
        create_time=Timestamp(seconds=10**15),
    )
    _, wrong = rules.draft(bad, DEFAULT_WORKFLOW)
    assert [violation.field for violation in wrong] == [
        "title", "description", "state", "labels", "external_id", "create_time", "due_time", "priority",
    ]  # fmt: skip


def test_a_draft_fills_in_what_is_not_said() -> None:
    """TASK-1: first state, middle priority, each assignee once."""
    made, wrong = rules.draft(Task(title=" Paint ", assignees=["ann", "bob", "ann"]), DEFAULT_WORKFLOW)
    assert not wrong
    assert (made.title, made.state, made.priority, made.final) == (" Paint ", "todo", "medium", False)
    assert made.assignees == ["ann", "bob"]
    assert rules.draft(Task(title="x", state="done"), DEFAULT_WORKFLOW)[0].final
