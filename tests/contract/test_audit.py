"""The audit log, over every wire (AUDIT-1, AUDIT-2, AUDIT-3)."""

from __future__ import annotations

from taskman_sdk.errors import InvalidArgumentError, NotFoundError, PermissionDeniedError
from tests.contract.world import Person, Site


async def test_a_change_is_on_record_with_who_what_when_and_why(site: Site, admin: Person, ann: Person) -> None:
    """AUDIT-1: actor, action, target, result, request, before and after."""
    task = await ann.task((await ann.project())["id"], "Before")
    request = {"task": {"id": task["id"], "title": "After"}, "update_mask": "title"}
    await ann.call("TaskService.UpdateTask", request, headers={"x-request-id": f"req-{task['id']}"})
    record = await site.event(f'type == "task.updated" && target_id == "{task["id"]}"')
    assert record["actor"] == ann.id
    assert record["target"] == {"type": "task", "id": task["id"]}
    assert (record["result"], record["source"]) == ("success", "tasks")
    assert record["request_id"] == f"req-{task['id']}"
    assert (record["data"]["before"]["title"], record["data"]["task"]["title"]) == ("Before", "After")
    assert record["data"]["changed_fields"] == ["title"]
    assert record["time"].endswith("Z")
    assert record["id"].startswith("event_")
    assert await admin.call("AuditService.GetEvent", event=record["id"]) == record


async def test_the_chain_holds(site: Site, admin: Person, ann: Person) -> None:
    """AUDIT-2: every record is where and as it was written; sequences have no gap."""
    project = await ann.project()
    await site.event(f'type == "project.created" && target_id == "{project["id"]}"')
    answer = await admin.call("AuditService.VerifyEvents")
    assert answer["valid"] is True
    assert answer["problem"] == ""
    assert int(answer["verified_count"]) > 0
    assert len(answer["head"]) == 64
    newest = (await admin.call("AuditService.ListEvents", page_size=100))["events"]
    sequences = [int(record["sequence"]) for record in newest]
    assert sequences == list(range(sequences[0], sequences[0] - len(sequences), -1))
    assert all(len(record["hash"]) == 64 for record in newest)


async def test_records_are_filtered_and_paged_newest_first(site: Site, admin: Person, ann: Person) -> None:
    """AUDIT-3: by actor, action, target and result, with cursors."""
    project = await ann.project()
    tasks = [await ann.task(project["id"], f"t{number}") for number in range(5)]
    filter = f'type == "task.created" && actor == "{ann.id}"'
    await site.event(f'{filter} && target_id == "{tasks[-1]["id"]}"')
    found, token = [], ""
    while True:
        page = await admin.call("AuditService.ListEvents", filter=filter, page_size=2, page_token=token)
        found += [record["target"]["id"] for record in page["events"]]
        token = page["next_page_token"]
        if not token:
            break
    assert found == [task["id"] for task in reversed(tasks)]


async def test_reading_the_log_is_on_record_too(site: Site, admin: Person) -> None:
    """AUDIT-1: who looked, and for what."""
    filter = 'actor == "somebody-nobody-is"'
    await admin.call("AuditService.ListEvents", {"filter": filter})
    record = await site.event(f'type == "audit.read" && actor == "{admin.id}"')
    assert record["data"]["operation"] in ("list", "get", "verify")


async def test_the_log_is_for_who_may_read_it(site: Site, ann: Person) -> None:
    """AUDIT-1, AUTHZ-1."""
    for operation, request in (
        ("AuditService.ListEvents", {}),
        ("AuditService.GetEvent", {"event": "event_x"}),
        ("AuditService.VerifyEvents", {}),
    ):
        assert isinstance(await ann.refused(operation, request), PermissionDeniedError)


async def test_bad_questions_are_answered_with_what_is_wrong(site: Site, admin: Person) -> None:
    """AUDIT-3."""
    error = await admin.refused("AuditService.ListEvents", filter="type ==")
    assert (type(error), error.reason) == (InvalidArgumentError, "EXPRESSION_INVALID")
    error = await admin.refused("AuditService.ListEvents", page_token="x")
    assert (type(error), error.reason) == (InvalidArgumentError, "PAGE_TOKEN_INVALID")
    assert isinstance(await admin.refused("AuditService.GetEvent", event="event_nothing"), NotFoundError)
