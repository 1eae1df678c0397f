"""The audit log, over every wire (AUDIT-1, AUDIT-2, AUDIT-3, AUDIT-5)."""

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


async def test_records_are_counted_over_time(site: Site, admin: Person, ann: Person) -> None:
    """AUDIT-5: buckets with counts and rates, by type, of what a filter selects; refused where there are too many."""
    project = await ann.project()
    tasks = [await ann.task(project["id"], f"t{number}") for number in range(3)]
    filter = f'actor == "{ann.id}" && type in ["project.created", "task.created"]'
    await site.event(f'type == "task.created" && target_id == "{tasks[-1]["id"]}"')
    answer = await admin.call("AuditService.QueryMetrics", filter=filter, group_by="type", bucket_seconds=3600)
    assert int(answer["count"]) == 4
    assert len(answer["buckets"]) in (24, 25)
    counts: dict[str, int] = {}
    for bucket in answer["buckets"]:
        for group in bucket["groups"]:
            counts[group["key"]] = counts.get(group["key"], 0) + int(group["count"])
            assert group["rate"] > 0
    assert counts == {"project.created": 1, "task.created": 3}
    span = {"start_time": "2030-01-01T00:00:00Z", "end_time": "2030-01-01T02:30:00Z"}
    answer = await admin.call("AuditService.QueryMetrics", span)
    assert [bucket["end_time"] for bucket in answer["buckets"]] == [
        "2030-01-01T01:00:00Z", "2030-01-01T02:00:00Z", "2030-01-01T02:30:00Z",
    ]  # fmt: skip
    error = await admin.refused(
        "AuditService.QueryMetrics", span | {"end_time": "2030-02-01T00:00:00Z"}, bucket_seconds=60
    )
    assert (type(error), error.reason) == (InvalidArgumentError, "TOO_MANY_BUCKETS")


async def test_reading_the_log_is_on_record_too(site: Site, admin: Person) -> None:
    """AUDIT-1: who looked, and for what."""
    filter = 'actor == "somebody-nobody-is"'
    await admin.call("AuditService.ListEvents", {"filter": filter})
    record = await site.event(f'type == "audit.read" && actor == "{admin.id}"')
    assert record["data"]["operation"] in ("list", "get", "metrics", "verify")


async def test_the_log_is_for_who_may_read_it(site: Site, ann: Person) -> None:
    """AUDIT-1, AUTHZ-1."""
    for operation, request in (
        ("AuditService.ListEvents", {}),
        ("AuditService.GetEvent", {"event": "event_x"}),
        ("AuditService.VerifyEvents", {}),
        ("AuditService.QueryMetrics", {}),
    ):
        assert isinstance(await ann.refused(operation, request), PermissionDeniedError)


async def test_bad_questions_are_answered_with_what_is_wrong(site: Site, admin: Person) -> None:
    """AUDIT-3."""
    error = await admin.refused("AuditService.ListEvents", filter="type ==")
    assert (type(error), error.reason) == (InvalidArgumentError, "EXPRESSION_INVALID")
    error = await admin.refused("AuditService.ListEvents", page_token="x")
    assert (type(error), error.reason) == (InvalidArgumentError, "PAGE_TOKEN_INVALID")
    assert isinstance(await admin.refused("AuditService.GetEvent", event="event_nothing"), NotFoundError)
