"""The CloudEvents envelope (EVENT-3)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskman_server.kit.events import BadEnvelope, Event
from taskman_server.kit.ids import new_id

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def an_event(**changes: Any) -> Event:
    values: dict[str, Any] = {
        "id": new_id("event"),
        "source": "/taskman/tasks",
        "type": "taskman.task.created.v1",
        "time": datetime(2030, 1, 31, 12, 0, 0, 123456, tzinfo=UTC),
        "subject": "task_1",
        "data": {"task": {"title": "Pay rent"}},
    }
    return Event(**values | changes)


def test_an_envelope_is_cloudevents_1_0() -> None:
    """EVENT-3: names and formats of the specification's JSON format."""
    event = an_event(organization="org_1", requestid="req_1", actortype="user")
    envelope = json.loads(event.to_json())
    assert envelope == {
        "specversion": "1.0",
        "id": event.id,
        "source": "/taskman/tasks",
        "type": "taskman.task.created.v1",
        "time": "2030-01-31T12:00:00.123456Z",
        "datacontenttype": "application/json",
        "subject": "task_1",
        "organization": "org_1",
        "requestid": "req_1",
        "actortype": "user",
        "data": {"task": {"title": "Pay rent"}},
    }
    assert all(name.isalnum() for name in envelope if name != "data")


def test_an_event_knows_its_routing_key_and_its_order_key() -> None:
    """EVENT-3: versioned types; order kept per entity."""
    assert an_event().name == "task.created"
    assert an_event(type="taskman.auth.login.succeeded.v12").name == "auth.login.succeeded"
    assert an_event(type="taskman.auth.login.succeeded.v12").version == 12
    assert an_event().key == "task_1"
    assert an_event(partitionkey="project_1").key == "project_1"
    lonely = an_event(subject="")
    assert lonely.key == lonely.id


@given(
    st.dictionaries(TEXT, st.none() | st.booleans() | st.integers() | TEXT | st.lists(TEXT)),
    st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001
    TEXT,
)
def test_an_event_comes_back_as_it_was(data: dict[str, Any], time: datetime, actor: str) -> None:
    """EVENT-3: nothing is lost on the wire."""
    event = an_event(data=data, time=time, actor=actor)
    assert Event.from_json(event.to_json()) == event


def test_a_newer_producers_attributes_are_passed_over() -> None:
    """OPS-7: mixed versions during an upgrade."""
    event = an_event()
    envelope = json.loads(event.to_json()) | {"tomorrow": "x"}
    assert Event.from_json(json.dumps(envelope)) == event


def test_times_of_other_zones_and_precisions_are_read() -> None:
    """RFC 3339."""
    envelope = json.loads(an_event().to_json())
    for text, expected in {
        "2030-01-31T14:00:00+02:00": datetime(2030, 1, 31, 12, tzinfo=UTC),
        "2030-01-31t12:00:00.5z": datetime(2030, 1, 31, 12, 0, 0, 500000, tzinfo=UTC),
        "2030-01-31T12:00:00.123456789Z": datetime(2030, 1, 31, 12, 0, 0, 123456, tzinfo=UTC),
    }.items():
        assert Event.from_json(json.dumps(envelope | {"time": text})).time == expected
    zoned = an_event(time=datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=-5))))
    assert json.loads(zoned.to_json())["time"] == "2030-01-01T05:00:00.000000Z"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"specversion": None}, "specversion"),
        ({"id": "1"}, "id"),
        ({"id": 7}, "id"),
        ({"source": "elsewhere"}, "source"),
        ({"type": "task.created"}, "type"),
        ({"type": "taskman.task.created.v0"}, "type"),
        ({"time": "yesterday"}, "time"),
        ({"time": "2030-01-31T12:00:00"}, "time"),
        ({"time": "2030-02-31T12:00:00Z"}, "time"),
        ({"data": "text"}, "data"),
        ({"data": None}, "data"),
        ({"data_base64": "eA=="}, "data"),
        ({"datacontenttype": "text/xml"}, "datacontenttype"),
        ({"subject": ""}, "subject"),
        ({"organization": 5}, "organization"),
    ],
)
def test_a_bad_envelope_is_refused_by_the_attribute(changes: dict[str, Any], named: str) -> None:
    """EVENT-2: such a message is dead-lettered with this reason."""
    envelope = json.loads(an_event().to_json()) | changes
    with pytest.raises(BadEnvelope, match=f"event {named}:"):
        Event.from_json(json.dumps(envelope))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", b"\xff\xfe{", "[" * 100_000])
def test_what_is_no_object_is_refused(text: str | bytes) -> None:
    """Garbage on the wire ends in one kind of error."""
    with pytest.raises(BadEnvelope):
        Event.from_json(text)


def test_a_producer_cannot_make_an_envelope_it_could_not_read() -> None:
    """A mistake shows where it is made."""
    with pytest.raises(BadEnvelope, match="time zone"):
        an_event(time=datetime(2030, 1, 1))  # noqa: DTZ001
    with pytest.raises(BadEnvelope, match="event type"):
        an_event(type="task.created")
