"""HTTP to message, after google.api.http (GATE-1, AIP-127)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskman_sdk import codec, contract
from taskman_sdk.errors import InvalidArgumentError
from taskman_server.gateway.transcode import Transcoder


def message(operation: str, *values: str, query: str = "", body: Any = None, if_match: str = "") -> Any:
    """What a request becomes."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return Transcoder(contract.method(operation)).request(values, query.encode(), data, if_match)


def refusal(operation: str, *values: str, **given: Any) -> InvalidArgumentError:
    """The error that a request is answered with."""
    with pytest.raises(InvalidArgumentError) as caught:
        message(operation, *values, **given)
    return caught.value


def well_formed(operation: str, **given: Any) -> bool:
    """Whether a request becomes a message, or an error that names a field."""
    try:
        made = message(operation, **given)
    except InvalidArgumentError as error:
        return bool(error.field_violations)
    return isinstance(made, codec.Message)


def fields(error: InvalidArgumentError) -> list[str]:
    return [each.field for each in error.field_violations]


def test_path_query_and_body_fill_the_message() -> None:
    """AIP-127: each its own fields."""
    made = message("TaskService.UpdateTask", "WEB-1", query="update_mask=title,labels", body={"title": "x"})
    assert (made.task.id, made.task.title, made.update_mask.paths) == ("WEB-1", "x", ["title", "labels"])
    made = message("TaskService.RemoveProjectMember", "p", "u")
    assert (made.project, made.user) == ("p", "u")
    made = message("TaskService.TransitionTask", "WEB-1", body={"state": "done"})
    assert (made.task, made.state) == ("WEB-1", "done")
    made = message("TaskService.ListTasks", query="page_size=5&show_deleted=true&filter=a%20%3D%3D%20%22%C3%9F%22")
    assert (made.page_size, made.show_deleted, made.filter) == (5, True, 'a == "ß"')
    made = message("UserService.BatchGetUsers", query="users=a&users=b&emails=c")
    assert (list(made.users), list(made.emails)) == (["a", "b"], ["c"])


def test_the_path_wins_over_the_body() -> None:
    """GATE-2: what was decided by the path is what is done."""
    assert message("TaskService.UpdateTask", "WEB-1", body={"id": "WEB-2", "title": "x"}).task.id == "WEB-1"
    assert message("TaskService.TransitionTask", "WEB-1", body={"task": "WEB-2", "state": "x"}).task == "WEB-1"


def test_without_a_mask_the_fields_that_were_sent_are_meant() -> None:
    """AIP-134: also those sent empty; in either form of their names; neither id nor etag."""
    made = message("TaskService.UpdateTask", "WEB-1", body={"title": "", "due_time": None, "etag": "e", "id": "x"})
    assert made.update_mask.paths == ["title", "due_time"]
    made = message("UserService.UpdateUser", "u", body={"displayName": "x"})
    assert made.update_mask.paths == ["display_name"]
    assert message("TaskService.UpdateTask", "WEB-1", body={}).update_mask.paths == []


def test_if_match_is_an_etag_where_none_was_given() -> None:
    """RFC 9110: `If-Match`; the message's own etag is the more exact one."""
    update = "TaskService.UpdateTask"
    assert message(update, "WEB-1", body={}, if_match='"abc"').task.etag == "abc"
    assert message(update, "WEB-1", body={}, if_match='W/"abc"').task.etag == "abc"
    assert message(update, "WEB-1", body={}, if_match="*").task.etag == ""
    assert message(update, "WEB-1", body={"etag": "own"}, if_match='"abc"').task.etag == "own"
    assert message("TaskService.DeleteTask", "WEB-1", if_match='"abc"').etag == "abc"
    assert message("TaskService.GetTask", "WEB-1", if_match='"abc"') == message("TaskService.GetTask", "WEB-1")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("page_size=x", "page_size"),
        ("page_size=1.5", "page_size"),
        ("page_size=99999999999", "page_size"),
        ("page_size=1&page_size=2", "page_size"),
        ("show_deleted=maybe", "show_deleted"),
        ("filter=%ff", "filter"),
        ("colour=red", "colour"),
        ("task.title=x", "task.title"),
        ("=x", ""),
        ("&".join(f"a{n}=1" for n in range(300)), "query"),
    ],
)
def test_what_is_wrong_with_a_query_is_named(query: str, field: str) -> None:
    """GATE-4: schema checks."""
    assert fields(refusal("TaskService.ListTasks", query=query)) == [field]


def test_a_query_that_is_not_ascii_is_refused() -> None:
    """GATE-4, RFC 3986: other bytes are percent-encoded."""
    with pytest.raises(InvalidArgumentError) as caught:
        Transcoder(contract.method("TaskService.ListTasks")).request((), "filter=ß".encode(), b"", "")
    assert fields(caught.value) == ["query"]


@pytest.mark.parametrize("text", ["true", "True", "1", ""])
def test_truth_has_several_spellings(text: str) -> None:
    """AIP-127: `?show_deleted` alone is true."""
    assert message("TaskService.ListTasks", query=f"show_deleted={text}").show_deleted is True


@pytest.mark.parametrize(
    ("body", "reason", "field"),
    [
        ({"colour": 1}, "FIELD_UNKNOWN", "colour"),
        ({"title": 1}, "BODY_INVALID", "title"),
        ({"labels": "x"}, "BODY_INVALID", "labels"),
        (b"{", "BODY_INVALID", "body"),
        (b"\xff", "BODY_INVALID", "body"),
        (b"[]", "BODY_INVALID", "body"),
        (b'{"title":' + b"[" * 100_000, "BODY_INVALID", "body"),
        (b"[" * 100_000 + b"]" * 100_000, "BODY_INVALID", "body"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "BODY_INVALID", "body"),
        (b'{"title":"' + b'\\"[{' * 1000, "BODY_INVALID", "body"),
    ],
)
def test_what_is_wrong_with_a_body_is_named(body: Any, reason: str, field: str) -> None:
    """GATE-4: depth, encoding, syntax, types, unknown fields."""
    error = refusal("TaskService.CreateTask", body=body)
    assert error.reason == reason
    assert fields(error) == [field]


def test_brackets_in_a_text_are_no_depth() -> None:
    """GATE-4: a description may hold as many as it likes."""
    text = '[{"' * 500
    assert message("TaskService.CreateTask", body={"description": text}).task.description == text


def test_a_call_without_a_body_takes_none() -> None:
    """GATE-4: what would be passed over is refused."""
    assert refusal("TaskService.GetTask", "x", body={"a": 1}).reason == "BODY_NOT_ALLOWED"
    assert message("TaskService.GetTask", "x", body=b" ").task == "x"


def test_an_empty_body_is_an_empty_message_where_the_body_is_the_message() -> None:
    """AIP-136: `POST …:restore` needs no `{}`."""
    assert message("TaskService.RestoreTask", "x").task == "x"
    assert refusal("TaskService.CreateTask", body=b"").reason == "BODY_INVALID"


@given(st.binary(max_size=200))
def test_no_body_breaks_the_transcoder(body: bytes) -> None:
    """GATE-4: a message or a refusal."""
    assert well_formed("TaskService.CreateTask", body=body)


@given(st.text(max_size=100))
def test_no_query_breaks_the_transcoder(query: str) -> None:
    """GATE-4: a message or a refusal."""
    assert well_formed("TaskService.ListTasks", query=query)


@pytest.mark.parametrize("method", [m for m in contract.methods() if m.route], ids=lambda m: m.operation_id)
def test_every_rpc_has_a_transcoder(method: contract.Method) -> None:
    """GATE-1: a field without a form in the query is an error at start, not at a call."""
    assert method.route is not None
    assert Transcoder(method).takes_body == bool(method.route.body)
