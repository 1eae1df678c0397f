"""The audit log on a real database and broker (AUDIT-1, AUDIT-2, AUDIT-3)."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import sqlalchemy as sa

from taskman_sdk.errors import InvalidArgumentError, NotFoundError, PermissionDeniedError
from taskman_sdk.proto.taskman.audit.v1.audit_pb import (
    AuditEvent,
    GetEventRequest,
    ListEventsRequest,
    ListEventsResponse,
    VerifyEventsRequest,
    VerifyEventsResponse,
)
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import AuthenticationEvent
from taskman_sdk.proto.taskman.task.v1.task_pb import Task, TaskEvent
from taskman_server.kit.broker import Message
from taskman_server.kit.events import Event
from taskman_server.kit.ids import new_id
from tests.store.audit.house import ORGANIZATION, House


def a_task_event(house: House, name: str = "task.created", title: str = "Paint", **values: object) -> Event:
    task = new_id("task")
    return house.event(name, TaskEvent(task=Task(id=task, title=title)), **{"subject": task} | values)


async def fill(house: House, count: int) -> list[Event]:
    events = [a_task_event(house, title=f"Task {n}") for n in range(count)]
    await house.publish(*events)
    return events


async def listed(house: House, filter: str = "", size: int = 0, token: str = "") -> ListEventsResponse:
    request = ListEventsRequest(filter=filter, page_size=size, page_token=token)
    return await house.call("ListEvents", request, ListEventsResponse)


async def verified(house: House) -> VerifyEventsResponse:
    return await house.call("VerifyEvents", VerifyEventsRequest(), VerifyEventsResponse)


async def test_an_event_becomes_a_record_with_all_that_is_known_of_it(house: House) -> None:
    """AUDIT-1: actor, action, target, result, address, request id, before and after."""
    event = a_task_event(house, "task.updated", requestid="req_7", ipaddress="192.0.2.7", actor="user_ann")
    await house.publish(event)
    record = await house.call("GetEvent", GetEventRequest(event=event.id), AuditEvent)
    assert (record.id, record.type, record.actor, record.result) == (event.id, "task.updated", "user_ann", "success")
    assert record.target is not None
    assert (record.target.type, record.target.id) == ("task", event.subject)
    assert record.time is not None
    assert record.time.to_datetime() == event.time
    assert (record.request_id, record.source, record.ip_address) == ("req_7", "tasks", "192.0.2.7")
    assert record.sequence == 1
    assert len(record.hash) == 64
    assert record.data is not None
    assert b'"Paint"' in record.data.to_json().encode()


async def test_a_batch_of_64_events_is_one_unbroken_chain(house: House) -> None:
    """AUDIT-2: many appends of one transaction follow each other."""
    await fill(house, 64)
    assert [row[0] for row in await house.rows("SELECT sequence FROM records ORDER BY sequence")] == list(range(1, 65))
    found = await verified(house)
    assert (found.valid, found.verified_count, found.problem) == (True, 64, "")
    ((head,),) = await house.rows("SELECT hash FROM records WHERE sequence = 64")
    assert found.head == head


async def test_the_events_of_a_batch_go_to_the_chains_of_their_organizations(house: House) -> None:
    """AUDIT-2: each in the order of its events, after what was there; one that is in the log already stays once."""
    events = [a_task_event(house, organization=f"org_{n % 3}") for n in range(9)]
    await house.publish(events[0])
    await house.tamper("DELETE FROM inbox")
    await house.publish(*events)
    for organization in range(3):
        rows = await house.rows(
            f"SELECT id, sequence FROM records WHERE organization = 'org_{organization}' ORDER BY 2"
        )
        assert rows == [(event.id, n) for n, event in enumerate(events[organization::3], 1)]
    assert sorted(await house.rows("SELECT organization, sequence FROM chains")) == [(f"org_{n}", 3) for n in range(3)]


async def test_an_event_that_is_delivered_again_makes_no_second_record(house: House) -> None:
    """AUDIT-1, EVENT-1: not even when an operator sends back one that the inbox has forgotten."""
    event = a_task_event(house)
    await house.publish(event)
    await house.publish(event)
    await house.tamper("DELETE FROM inbox")
    await house.publish(event, a_task_event(house))
    assert await house.rows("SELECT count(*) FROM records") == [(2,)]
    assert (await house.broker.stats())["audit.all"].dead == 0
    assert (await verified(house)).valid


async def test_each_organization_has_its_chain_and_sees_no_other(house: House) -> None:
    """AUDIT-2, tenancy: events of nobody's organization are in the system's chain."""
    unknown = house.event(
        "auth.login.failed", AuthenticationEvent(failure="unknown_account"), organization="", actor="", result="failure"
    )
    other = a_task_event(house, organization="org_two")
    await house.publish(a_task_event(house), unknown, other)
    rows = await house.rows("SELECT organization, sequence, actor FROM records ORDER BY organization")
    assert rows == [("", 1, "anonymous"), (ORGANIZATION, 1, "user_somebody"), ("org_two", 1, "user_somebody")]
    assert [e.type for e in (await listed(house)).events] == ["task.created"]
    with pytest.raises(NotFoundError):
        await house.call("GetEvent", GetEventRequest(event=other.id), AuditEvent)


async def test_reading_the_log_is_on_record_too(house: House) -> None:
    """AUDIT-1: list, get and verify each leave a record of who read what."""
    (event,) = await fill(house, 1)
    await listed(house, 'type == "task.created"')
    await house.call("GetEvent", GetEventRequest(event=event.id), AuditEvent)
    await verified(house)
    await house.heard()
    newest = (await listed(house, 'type == "audit.read"')).events
    said = [record.data.to_json() if record.data else "" for record in reversed(newest)]
    assert [("list" in s, "get" in s, "verify" in s) for s in said] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
    assert "task.created" in said[0]
    assert {record.actor for record in newest} == {"user_admin"}
    assert newest[1].target is not None
    assert newest[1].target.id == event.id


async def test_a_list_is_newest_first_and_its_pages_join_while_events_come_in(house: House) -> None:
    """AUDIT-3: cursor paging neither repeats nor skips."""
    events = await fill(house, 7)
    first = await listed(house, size=3)
    await fill(house, 2)
    second = await listed(house, size=3, token=first.next_page_token)
    third = await listed(house, size=3, token=second.next_page_token)
    seen = [record.id for each in (first, second, third) for record in each.events]
    assert seen == [event.id for event in reversed(events)]
    assert third.next_page_token == ""


@pytest.mark.parametrize(
    ("filter", "wanted"),
    [
        ('type == "task.deleted"', ["b"]),
        ('type.startsWith("task.") && actor == "user_ann"', ["b"]),
        ('actor == "user_bob" || result == "denied"', ["a", "c"]),
        ('target_type == "task" && source == "tasks"', ["b", "a"]),
        ('time > timestamp("{half an hour on}")', ["c", "b"]),
        ('request_id == "req_a"', ["a"]),
        ('request_id == "type"', []),
    ],
)
async def test_a_filter_selects_by_every_field(house: House, filter: str, wanted: list[str]) -> None:
    """AUDIT-3: actor, action, target, result, time, request."""
    later = house.clock.now() + timedelta(hours=1)
    a = a_task_event(house, actor="user_bob", requestid="req_a")
    b = a_task_event(house, "task.deleted", actor="user_ann", time=later)
    c = house.event("authz.denied", {}, actor="user_eve", result="denied", time=later, source="/taskman/authorization")
    await house.publish(a, b, c)
    filter = filter.replace("{half an hour on}", (later - timedelta(minutes=30)).isoformat())
    names = {a.id: "a", b.id: "b", c.id: "c"}
    assert sorted(names[record.id] for record in (await listed(house, filter)).events) == sorted(wanted)


async def test_a_bad_filter_and_a_foreign_token_are_refused_by_name(house: House) -> None:
    """AUDIT-3: the answer names the field, the position and what was meant."""
    await fill(house, 3)
    with pytest.raises(InvalidArgumentError, match="type") as caught:
        await listed(house, "type + 1 == 2")
    assert "typ_" not in str(caught.value)
    assert caught.value.field_violations[0].field == "filter"
    with pytest.raises(InvalidArgumentError, match="nonsense"):
        await listed(house, 'nonsense == "x"')
    token = (await listed(house, size=1)).next_page_token
    with pytest.raises(InvalidArgumentError) as refused:
        await listed(house, 'actor == "x"', token=token)
    assert refused.value.reason == "PAGE_TOKEN_INVALID"


async def test_policies_narrow_what_is_seen(house: House) -> None:
    """AUTHZ-5: the policy is in the WHERE of the list, and hides single records as if they were not there."""
    house.peers.policies["audit.read"] = "resource.actor == principal.id"
    own = a_task_event(house, actor="user_admin")
    other = a_task_event(house, actor="user_other")
    await house.publish(own, other)
    assert [record.id for record in (await listed(house)).events] == [own.id]
    await house.call("GetEvent", GetEventRequest(event=own.id), AuditEvent)
    with pytest.raises(NotFoundError):
        await house.call("GetEvent", GetEventRequest(event=other.id), AuditEvent)


async def test_without_the_permission_nothing_is_answered_and_the_attempt_is_reported(house: House) -> None:
    """AUTHZ-1, AUDIT-1."""
    house.peers.policies = {"audit.read": "false", "audit.verify": "false"}
    with pytest.raises(PermissionDeniedError):
        await listed(house)
    with pytest.raises(PermissionDeniedError):
        await verified(house)
    assert [denial.permission for denial in house.peers.denials] == ["audit.read", "audit.verify"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("actor", "'user_evil'"),
        ("type", "'task.read'"),
        ("result", "'success '"),
        ("time", "time + 1"),
        ("target_id", "'task_x'"),
        ("ip_address", "'198.51.100.1'"),
        ("data", "replace(data, 'Task', 'Tusk')"),
        ("data", "data || ' '"),
        ("hash", "upper(hash)"),
    ],
)
async def test_an_edited_record_is_named(house: House, column: str, value: str) -> None:
    """AUDIT-2: whatever column was touched."""
    if value == "time + 1" and house.db.dialect.name == "postgresql":
        value = "time + interval '1 microsecond'"
    await fill(house, 9)
    await house.tamper(f"UPDATE records SET {column} = {value} WHERE sequence = 4")
    found = await verified(house)
    assert (found.valid, found.first_invalid_sequence, found.verified_count) == (False, 4, 3)
    assert "edited" in found.problem


async def test_an_edited_record_whose_hash_was_made_anew_does_not_fit_the_next(house: House) -> None:
    """AUDIT-2: one record cannot be rewritten alone."""
    await fill(house, 9)
    await house.tamper("UPDATE records SET previous = (SELECT hash FROM records WHERE sequence = 1) WHERE sequence = 4")
    from taskman_server.services.audit import rules
    from taskman_server.services.audit.store import RECORDS, record_of

    row = await house.db.fetch_one(sa.select(RECORDS).where(RECORDS.c.sequence == 4))
    assert row is not None
    forged = rules.seal(record_of(row), rules.Head(3, record_of(row).previous))
    await house.tamper(f"UPDATE records SET hash = '{forged.hash}' WHERE sequence = 4")
    found = await verified(house)
    assert (found.valid, found.first_invalid_sequence) == (False, 4)
    assert "does not follow record 3" in found.problem


async def test_a_deleted_record_is_named(house: House) -> None:
    """AUDIT-2: the gap, and the gap that was closed by renumbering."""
    await fill(house, 9)
    await house.tamper("DELETE FROM records WHERE sequence = 5")
    found = await verified(house)
    assert (found.valid, found.first_invalid_sequence) == (False, 5)
    assert "record 5 was deleted" in found.problem
    for place in range(6, 10):
        await house.tamper(f"UPDATE records SET sequence = {place - 1} WHERE sequence = {place}")
    found = await verified(house)
    assert (found.valid, found.first_invalid_sequence) == (False, 5)
    assert "was written as record 6" in found.problem
    assert "deleted" in found.problem


@pytest.mark.parametrize(("one", "two"), [(3, 4), (2, 7)])
async def test_reordered_records_are_named(house: House, one: int, two: int) -> None:
    """AUDIT-2."""
    await fill(house, 9)
    await house.tamper(f"UPDATE records SET sequence = 1000 WHERE sequence = {one}")
    await house.tamper(f"UPDATE records SET sequence = {one} WHERE sequence = {two}")
    await house.tamper(f"UPDATE records SET sequence = {two} WHERE sequence = 1000")
    found = await verified(house)
    assert (found.valid, found.first_invalid_sequence) == (False, one)
    assert f"was written as record {two}" in found.problem
    assert "reordered" in found.problem


async def test_a_truncated_log_is_named_and_stays_so_when_it_grows_on(house: House) -> None:
    """AUDIT-2: the head says where the log should end."""
    await fill(house, 9)
    await house.tamper("DELETE FROM records WHERE sequence > 6")
    found = await verified(house)
    assert (found.valid, found.first_invalid_sequence) == (False, 7)
    assert "truncated" in found.problem
    await house.heard()
    found = await verified(house)
    assert (found.valid, found.first_invalid_sequence) == (False, 7)
    assert "deleted" in found.problem


async def test_a_log_that_was_emptied_is_named(house: House) -> None:
    """AUDIT-2."""
    await fill(house, 3)
    await house.tamper("DELETE FROM records")
    found = await verified(house)
    assert (found.valid, found.first_invalid_sequence) == (False, 1)
    assert "truncated" in found.problem


async def test_a_head_that_was_set_back_or_changed_is_named(house: House) -> None:
    """AUDIT-2: records after the head were put in, and the head names its record by hash."""
    await fill(house, 5)
    await house.tamper(
        "UPDATE chains SET sequence = 3, hash = (SELECT hash FROM records WHERE sequence = 3) WHERE sequence = 5"
    )
    found = await verified(house)
    assert (found.valid, found.first_invalid_sequence) == (False, 4)
    assert "2 records were put in after the head" in found.problem
    await house.tamper("UPDATE chains SET sequence = 5, hash = 'no such hash'")
    found = await verified(house)
    # 6 where the record of the verification before, refused until now, was appended to that head meanwhile.
    assert (found.valid, found.first_invalid_sequence in (5, 6)) == (False, True)


async def test_events_that_arrive_during_the_walk_do_not_disturb_it(house: House) -> None:
    """AUDIT-2: what is appended meanwhile is for the next walk; the loop goes on meanwhile."""
    await fill(house, 600)
    more = [a_task_event(house) for _ in range(200)]

    async def append() -> None:
        for event in more:
            await house.broker.publish([Message.of(event)])
            await asyncio.sleep(0)

    found, _ = await asyncio.gather(verified(house), append())
    assert found.valid, found.problem
    assert found.verified_count >= 600
    await house.heard()
    found = await verified(house)
    assert (found.valid, found.verified_count) == (True, 801)


async def test_secrets_that_an_event_should_not_hold_are_blotted_out(house: House) -> None:
    """AUDIT-1, OPS-5: a second lock behind events that hold none."""
    data = {"webhook": {"id": "webhook_1", "secret": "whsec_leak", "url": "https://x"}, "list": [{"token": "leak"}]}
    event = house.event("notification.webhook.created", data)
    await house.publish(event)
    ((text,),) = await house.rows("SELECT data FROM records")
    assert "leak" not in text
    assert (
        text == '{"list":[{"token":"[redacted]"}],"webhook":{"id":"webhook_1","secret":"[redacted]","url":"https://x"}}'
    )
