"""Canonical JSON and the chain, without a database (AUDIT-2)."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskman_server.kit.events import Event
from taskman_server.kit.ids import new_id
from taskman_server.services.audit.rules import (
    GENESIS,
    Draft,
    Head,
    Record,
    canonical,
    check_end,
    check_page,
    draft_of,
    look_for_move,
    redact,
    seal,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (9007199254740992.0, "9007199254740992"),
        (295147905179352830000.0, "295147905179352830000"),
        (9.999999999999997e22, "9.999999999999997e+22"),
        (1e23, "1e+23"),
        (999999999999999900000.0, "999999999999999900000"),
        (1e21, "1e+21"),
        (9.999999999999997e-7, "9.999999999999997e-7"),
        (0.000001, "0.000001"),
        (333333333.3333332, "333333333.3333332"),
        (-0.0000033333333333333333, "-0.0000033333333333333333"),
        (1424953923781206.2, "1424953923781206.2"),
    ],
)
def test_numbers_are_those_of_rfc_8785(value: float, text: str) -> None:
    """AUDIT-2: the samples of appendix B."""
    assert canonical(value) == text


def test_keys_are_sorted_by_utf_16_units_and_strings_are_left_alone() -> None:
    """AUDIT-2: the sorting sample of RFC 8785 section 3.2.3."""
    keys = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    text = canonical(keys)
    assert list(json.loads(text)) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert canonical({"numbers": [1.0, True, None], "string": '€$\u000f\nA\'B"\\\\"/'}) == (
        '{"numbers":[1,true,null],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    """AUDIT-2."""
    with pytest.raises(ValueError):
        canonical(value)


@given(VALUES)
def test_canonical_text_means_the_same_and_is_a_fixed_point(value: Any) -> None:
    """AUDIT-2: nothing is lost, and the order of keys does not count."""
    text = canonical(value)
    assert json.loads(text, parse_int=float) == value
    assert canonical(json.loads(text)) == text


def chain(count: int) -> list[Record]:
    records: list[Record] = []
    head = Head()
    for n in range(count):
        draft = Draft(
            organization="org",
            id=new_id("event"),
            type="task.created",
            actor="user_a",
            target_type="task",
            target_id="task_1",
            result="success",
            time=NOW + timedelta(microseconds=n),
            request_id="",
            source="tasks",
            ip_address="",
            data="{}",
        )
        records.append(seal(draft, head))
        head = Head(records[-1].sequence, records[-1].hash)
    return records


TEXT = st.text(max_size=10)


@given(
    place=st.integers(0, 4),
    column=st.sampled_from([f for f in Draft.__dataclass_fields__ if f != "time"] + ["previous", "hash"]),
    value=TEXT,
)
def test_no_change_of_any_column_goes_unseen(place: int, column: str, value: str) -> None:
    """AUDIT-2."""
    records = chain(5)
    if getattr(records[place], column) == value:
        return
    change: dict[str, Any] = {column: value}
    records[place] = replace(records[place], **change)
    walked, problem = check_page(Head(), records)
    assert problem is not None
    assert problem.sequence == place + 1 == walked.sequence + 1


@given(actor=TEXT, ip=TEXT, data=st.dictionaries(TEXT, VALUES, max_size=3), sequence=st.integers(0, 2**63 - 2))
def test_what_is_hashed_is_canonical_json_of_all_columns(
    actor: str, ip: str, data: dict[str, Any], sequence: int
) -> None:
    """AUDIT-2: so that anybody can check a chain with a library of RFC 8785 and one of SHA-256."""
    (record,) = chain(1)
    record = seal(replace(record, actor=actor, ip_address=ip, data=canonical(data)), Head(sequence, GENESIS))
    told = asdict(record) | {"data": data, "time": record.time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    del told["hash"]
    text = "taskman.audit.record.v1\n" + canonical(told)
    assert hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() == record.hash


def test_a_chain_written_by_the_first_release_still_fits() -> None:
    """AUDIT-2: the hash of a record never changes."""
    (record,) = chain(1)
    record = seal(replace(record, id="event_1", time=NOW, actor='u"é\U0001f600', data='{"a":1}'), Head(4, "ab"))
    assert record.hash == "17940f899ec0499c71d772149e4224b7f962aabdcfd338a57407f94613f93564"


def test_two_fields_cannot_trade_their_ends() -> None:
    """AUDIT-2: what is hashed has one reading only."""
    (record,) = chain(1)
    one = seal(replace(record, actor='a","data":{},"id":"b', id="c"), Head())
    two = seal(replace(record, actor="a", id='b","id":"c'), Head())
    assert one.hash != two.hash


def test_the_first_record_follows_nothing_and_pages_join() -> None:
    """AUDIT-2."""
    records = chain(7)
    assert records[0].previous == GENESIS
    walked, problem = check_page(Head(), records[:3])
    assert problem is None
    walked, problem = check_page(walked, records[3:])
    assert problem is None
    assert check_end(walked, Head(7, records[6].hash), 0) is None


def test_a_move_beyond_reach_stays_an_edit() -> None:
    """AUDIT-2: looking for where a record came from has a bound; the record is named all the same."""
    records = chain(9)
    moved = replace(records[7], sequence=1)
    _, problem = check_page(Head(), [moved])
    assert problem is not None
    assert "written as record 8" in look_for_move(problem, 9).text
    assert "edited" in look_for_move(problem, 9, reach=3).text


@pytest.mark.parametrize(
    ("subject", "kind"),
    [("task_01m82jbry3ekhrngjc7z38jryb", "task"), ("audit", "audit"), ("", ""), ("a_b@example.com", "")],
)
def test_the_targets_type_is_the_prefix_of_its_id(subject: str, kind: str) -> None:
    """AUDIT-1."""
    event = Event(
        id=new_id("event"), source="/taskman/tasks", type="taskman.task.created.v1", time=NOW, subject=subject
    )
    draft = draft_of(event, ())
    assert (draft.target_type, draft.target_id) == (kind, subject)
    assert (draft.type, draft.source, draft.actor, draft.result) == ("task.created", "tasks", "anonymous", "success")


def test_redaction_reaches_every_depth_and_leaves_what_is_empty() -> None:
    """AUDIT-1, OPS-5."""
    value = {"a": [{"token": "x", "b": ({"secret": {"deep": 1}},)}], "secret": "", "tokens": "kept"}
    assert redact(value, {"token", "secret"}) == {
        "a": [{"token": "[redacted]", "b": [{"secret": "[redacted]"}]}],
        "secret": "",
        "tokens": "kept",
    }
