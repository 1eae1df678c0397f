"""Models: typed for what is given, lenient for what is answered (SDK-1, SDK-4)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from taskman_sdk import codec, contract
from taskman_sdk.errors import InvalidArgumentError
from taskman_sdk.models import Delivery, DeliveryAttempt, Policy, Task, User
from taskman_sdk.models._base import parse
from taskman_sdk.proto.taskman.audit.v1.audit_pb import AuditEvent
from taskman_sdk.proto.taskman.iam.v1.iam_pb import Policy as PolicyMessage
from taskman_sdk.proto.taskman.notification.v1.notification_pb import Delivery as DeliveryMessage
from taskman_sdk.proto.taskman.task.v1.task_pb import ImportTasksRequest, UpdateTaskRequest
from taskman_sdk.proto.taskman.task.v1.task_pb import Task as TaskMessage
from taskman_sdk.resources._base import NOT_GIVEN, build


def answer(kind: type[codec.Message[Any]], value: dict[str, Any]) -> codec.Message[Any]:
    return codec.from_value(kind, value, ignore_unknown=True)


def test_fields_of_a_newer_server_are_passed_over() -> None:
    """SDK-4"""
    task = parse(Task, answer(TaskMessage, {"key": "WEB-1", "mood": "sunny", "parents": [{"id": "x"}]}))
    assert task.key == "WEB-1"


def test_values_of_a_newer_server_come_as_they_are() -> None:
    """SDK-4: a priority or enum value that this version has no name for."""
    assert parse(Task, TaskMessage(priority="someday")).priority == "someday"
    effect = codec.from_binary(PolicyMessage, b"\x20\x07")  # field 4, value 7
    assert parse(Policy, effect).effect == "7"


def test_wider_limits_of_a_newer_server_break_nothing() -> None:
    """SDK-4: the constraints are for what a caller gives; an answer is believed, also deep inside a list."""
    task = parse(Task, TaskMessage(title="x" * 501, key="WEB-1", labels=["l"] * 51, priority="high"))
    assert (len(task.title), len(task.labels), task.key, task.priority) == (501, 51, "WEB-1", "high")
    with pytest.raises(ValidationError):
        Task(title="x" * 501)


def test_a_broken_value_inside_a_list_leaves_the_others_typed() -> None:
    """SDK-4"""
    value = {"attempts": [{"time": "2024-01-01T00:00:00Z", "status_code": 200}, {"error": "x"}], "state": "odd"}
    delivery = parse(Delivery, answer(DeliveryMessage, value))
    assert [type(each) for each in delivery.attempts] == [DeliveryAttempt, DeliveryAttempt]
    assert delivery.attempts[0].time == datetime(2024, 1, 1, tzinfo=UTC)


def test_times_are_aware_and_structs_are_dictionaries() -> None:
    """SDK-1: nothing of protobuf is left for the user to see."""
    task = parse(Task, answer(TaskMessage, {"due_time": "2024-08-22T10:00:00.123456Z"}))
    assert task.due_time == datetime(2024, 8, 22, 10, 0, 0, 123456, tzinfo=UTC)
    assert task.start_time is None
    from taskman_sdk.models import AuditEvent as Model

    event = parse(Model, answer(AuditEvent, {"data": {"after": {"n": [1, None, "x"]}}, "sequence": "9007199254740993"}))
    assert event.data == {"after": {"n": [1, None, "x"]}}
    assert event.sequence == 9007199254740993


def test_every_public_answer_has_a_model() -> None:
    """SDK-1: made from the contract, so none can be forgotten; each reads its empty message."""
    from importlib import import_module

    for method in contract.methods():
        if method.route is not None:
            kind = getattr(import_module(f"taskman_sdk.models.{method.area}"), method.output.__name__)
            parsed = parse(kind, method.output())
            assert set(kind.model_fields) == {field.name for field in method.output.desc().fields}
            assert parsed == kind()


def test_the_update_mask_is_what_was_given() -> None:
    """SDK-1, AIP-134: None clears, what was left out stays."""
    method = contract.method("TaskService.UpdateTask")
    changes = {"task.title": "x", "task.due_time": None, "task.labels": [], "task.priority": NOT_GIVEN}
    message = build(method, {"task.id": "WEB-1", "task.etag": "e"}, changes)
    assert isinstance(message, UpdateTaskRequest)
    assert message.update_mask is not None
    assert message.task is not None
    assert list(message.update_mask.paths) == ["title", "due_time", "labels"]
    assert (message.task.id, message.task.etag, message.task.title, message.task.due_time) == ("WEB-1", "e", "x", None)


def test_values_inside_a_request_may_be_models_or_dictionaries() -> None:
    """SDK-1"""
    method = contract.method("TaskService.ImportTasks")
    berlin = timezone(timedelta(hours=2))
    one = Task(title="a", create_time=datetime(2024, 7, 17, 9, 32, 29, tzinfo=berlin), labels=["fix"])
    message = build(
        method, {"project": "WEB", "tasks": [one, {"title": "b", "due_time": datetime(2024, 1, 1, tzinfo=UTC)}]}
    )
    assert isinstance(message, ImportTasksRequest)
    values = [codec.to_value(task, implicit=False) for task in message.tasks]
    assert values == [
        {"title": "a", "create_time": "2024-07-17T07:32:29Z", "labels": ["fix"]},
        {"title": "b", "due_time": "2024-01-01T00:00:00Z"},
    ]


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("task.due_time", datetime(2024, 1, 1), "no time zone"),  # noqa: DTZ001
        ("task.due_time", datetime(2024, 1, 1, tzinfo=UTC).date(), "is a date"),
        ("task.title", 7, "title"),
        ("task.labels", "fix", "labels"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_before_anything_is_sent(field: str, value: object, text: str) -> None:
    """SDK-4"""
    with pytest.raises(InvalidArgumentError, match=text) as caught:
        build(contract.method("TaskService.CreateTask"), {field: value})
    assert caught.value.field_violations[0].field.endswith(field.rpartition(".")[2])


def test_empty_optional_texts_fit_their_pattern() -> None:
    """SDK-1: a user without a language is a valid user."""
    assert User(locale="").locale == ""
    with pytest.raises(ValidationError):
        User(locale="not a language")
