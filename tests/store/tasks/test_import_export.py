"""Import and export (TASK-9)."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest

from taskman_sdk import codec, contract
from taskman_sdk.codec import Timestamp
from taskman_sdk.errors import InvalidArgumentError, NotFoundError, PermissionDeniedError
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    DeleteTaskRequest,
    ExportTasksRequest,
    ExportTasksResponse,
    GetTaskRequest,
    ImportResult,
    ImportTasksRequest,
    ImportTasksResponse,
    Task,
    TaskEvent,
)
from taskman_server.services.tasks.convert import timestamp
from tests.store.tasks.harness import House, shared_rows


async def _import(house: House, user: str, *tasks: Task, project: str = "WEB") -> list[ImportResult]:
    request = ImportTasksRequest(project=project, tasks=list(tasks))
    return list((await house.call(user, "ImportTasks", request, ImportTasksResponse)).results)


async def _export(house: House, user: str, **request: str) -> list[Task]:
    method = contract.method("TaskService.ExportTasks")
    found: list[Task] = []
    async for answer in house.pipeline.stream(method, ExportTasksRequest(**request), house.options(user)):
        assert isinstance(answer, ExportTasksResponse)
        assert answer.task is not None
        found.append(answer.task)
    return found


def _real(house: House) -> list[Task]:
    rows = list(shared_rows())
    users = {address: house.peers.user() for address in {row["assignee"] for row in rows} if address}

    def date(text: str) -> Timestamp | None:
        return timestamp(datetime.fromisoformat(text).astimezone(UTC)) if text else None

    return [
        Task(
            title=row["title"],
            description=row["description"],
            labels=list(dict.fromkeys(label for label in row["labels"].split(";") if label)),
            state=row["status"],
            priority=row["priority"],
            assignees=[users[row["assignee"]]] if row["assignee"] else [],
            create_time=date(row["created_at"]),
            due_time=date(row["due_at"] and row["due_at"] + "T00:00:00+00:00"),
            external_id=f"row-{number}",
        )
        for number, row in enumerate(rows)
    ]


async def test_what_an_import_brings_is_kept(house: House) -> None:
    """TASK-9: state, times, priority, labels, assignees, external id; creator and update_time are the import's."""
    ann, bob = house.peers.user(), house.peers.user()
    await house.project(ann, viewer=bob)
    await house.events()
    old, due = Timestamp(seconds=1_500_000_000), Timestamp(seconds=1_600_000_000)
    given = Task(
        title="Old", description="d", state="done", priority="low", labels=["a", "b"], assignees=[bob], due_time=due,
        create_time=old, external_id="X1", creator="somebody", key="X-1", id="1",
    )  # fmt: skip
    (result,) = await _import(house, ann, given)
    assert (result.key, result.created, result.error) == ("WEB-1", True, "")
    made = await house.call(ann, "GetTask", GetTaskRequest(task=result.task), Task)
    assert (made.title, made.description, made.state, made.priority) == ("Old", "d", "done", "low")
    assert (list(made.labels), list(made.assignees), made.external_id) == (["a", "b"], [bob], "X1")
    assert (made.create_time, made.due_time, made.creator) == (old, due, ann)
    assert made.update_time == made.complete_time == timestamp(house.clock.now())
    assert [(e.name, codec.from_value(TaskEvent, e.data)) for e in await house.events()] == [
        ("task.created", TaskEvent(task=made)),
        ("task.assigned", TaskEvent(task=made, users=[bob])),
    ]


async def test_a_bad_task_is_reported_and_the_good_ones_land(house: House) -> None:
    """TASK-9: each by itself, the field is named, the keys are in the order given, without gaps."""
    ann, zoe, far = house.peers.user(), house.peers.user(), house.peers.user(organization="org_two")
    await house.project(ann)
    bad = {
        1: (Task(title=" "), "title: "),
        2: (Task(title="x" * 501), "title: "),
        4: (Task(title="x", state="doing"), "state: "),
        5: (Task(title="x", priority="huge"), "priority: "),
        6: (Task(title="x", labels=["l" * 51]), "labels: "),
        7: (Task(title="x", labels=["a", "a"]), "labels: "),
        8: (Task(title="x", start_time=Timestamp(seconds=9), due_time=Timestamp(seconds=1)), "due_time: "),
        9: (Task(title="x", assignees=[ann, far]), "assignees: "),
        10: (Task(title="x", assignees=[zoe]), "assignees: "),
        12: (Task(title="x", create_time=Timestamp(seconds=10**15)), "create_time: "),
        13: (Task(title="x", project="OPS"), "project: "),
        14: (Task(title="a\0b"), "title: "),
    }
    tasks = [bad[n][0] if n in bad else Task(title=f"T{n}", project="web") for n in range(16)]
    results = await _import(house, ann, *tasks)
    for n, result in enumerate(results):
        if n in bad:
            assert result.error.startswith(bad[n][1]), (n, result.error)
            assert (result.task, result.key, result.created) == ("", "", False)
        else:
            assert (result.error, result.created) == ("", True)
    assert [result.key for result in results if result.created] == ["WEB-1", "WEB-2", "WEB-3", "WEB-4"]
    assert [task.title for task in await house.pages(ann)] == ["T0", "T3", "T11", "T15"]


async def test_an_import_run_again_makes_nothing_twice(house: House) -> None:
    """TASK-9: by external id, also within one call; what was bad and is mended lands then."""
    ann = house.peers.user()
    await house.project(ann)
    tasks = [Task(title="A", external_id="a"), Task(title="", external_id="b"), Task(title="A again", external_id="a")]
    first = await _import(house, ann, *tasks)
    assert [(r.key, r.created, bool(r.error)) for r in first] == [
        ("WEB-1", True, False),
        ("", False, True),
        ("WEB-1", False, False),
    ]
    assert first[2].task == first[0].task
    await house.events()
    tasks[1] = Task(title="B", external_id="b")
    again = await _import(house, ann, *tasks, Task(title="No id"))
    assert [(r.key, r.created) for r in again] == [
        ("WEB-1", False), ("WEB-2", True), ("WEB-1", False), ("WEB-3", True),
    ]  # fmt: skip
    assert [event.data["task"]["key"] for event in await house.events()] == ["WEB-2", "WEB-3"]
    await house.call(ann, "DeleteTask", DeleteTaskRequest(task="WEB-1"), Task)
    assert [(r.key, r.created) for r in await _import(house, ann, tasks[0])] == [("WEB-1", False)]


async def test_an_import_that_only_validates_says_what_the_import_will_and_changes_nothing(house: House) -> None:
    """TASK-9: known external ids, states, assignees, control characters; no task, no event, no number (AIP-163)."""
    ann, zoe = house.peers.user(), house.peers.user()
    await house.project(ann)
    await _import(house, ann, Task(title="Known", external_id="k"))
    await house.events()
    tasks = [
        Task(title="Known", external_id="k"),
        Task(title="New", external_id="n"),
        Task(title="New again", external_id="n"),
        Task(title="No id"),
        Task(title="x", state="floating"),
        Task(title="x", assignees=["user_nobody"]),
        Task(title="x", assignees=[zoe]),
        Task(title="bell \x07"),
        Task(title="Its own key", key="WEB-70"),
    ]
    before = await house.rows("SELECT * FROM projects"), await house.rows("SELECT * FROM tasks")
    request = ImportTasksRequest(project="WEB", tasks=tasks, validate_only=True)
    planned = (await house.call(ann, "ImportTasks", request, ImportTasksResponse)).results
    assert [(r.key, r.created) for r in planned[:4]] == [("WEB-1", False), ("", True), ("", False), ("", True)]
    assert [r.error.partition(":")[0] for r in planned] == [
        "", "", "", "", "state", "assignees", "assignees", "title", "",
    ]  # fmt: skip
    assert "BEL" in planned[7].error
    assert (await house.rows("SELECT * FROM projects"), await house.rows("SELECT * FROM tasks")) == before
    assert await house.events() == []
    real = await _import(house, ann, *tasks)
    assert [(r.created, r.error) for r in real] == [(r.created, r.error) for r in planned]
    assert [r.key for r in real if r.created] == ["WEB-71", "WEB-72", "WEB-70"]


async def test_an_import_that_only_validates_needs_the_same_right(house: House) -> None:
    """TASK-9, AUTHZ-1"""
    ann, bob, zoe = (house.peers.user() for _ in range(3))
    await house.project(ann, viewer=bob)
    request = ImportTasksRequest(project="WEB", tasks=[Task(title="x")], validate_only=True)
    for user, refused in ((bob, PermissionDeniedError), (zoe, NotFoundError)):
        with pytest.raises(refused):
            await house.call(user, "ImportTasks", request, ImportTasksResponse)


async def test_two_imports_at_once_make_each_task_once(house: House) -> None:
    """TASK-9: looked at inside the transaction."""
    ann = house.peers.user()
    await house.project(ann)
    tasks = [Task(title=f"T{n}", external_id=f"{n}") for n in range(40)]
    answers = await asyncio.gather(*(_import(house, ann, *tasks) for _ in range(4)))
    assert sum(result.created for results in answers for result in results) == 40
    assert len({tuple(result.key for result in results) for results in answers}) == 1


async def test_whoever_may_not_import_is_told_so_or_nothing(house: House) -> None:
    """Open point 23; and a call of no task, or of too many, is refused as a whole."""
    ann, cem, zoe = (house.peers.user() for _ in range(3))
    await house.project(ann, viewer=cem)
    with pytest.raises(PermissionDeniedError):
        await _import(house, cem, Task(title="x"))
    with pytest.raises(NotFoundError):
        await _import(house, zoe, Task(title="x"))
    for tasks in ([], [Task(title="x")] * 501):
        with pytest.raises(InvalidArgumentError):
            await _import(house, ann, *tasks)


async def test_five_thousand_real_tasks_come_in_and_go_out_as_they_are(house: House) -> None:
    """TASK-9: the shared data in under 15 s, with one look at the users for each call; exported, it is the same."""
    ann, zoe = house.peers.user(), house.peers.user()
    await house.project(ann, visibility="organization")
    tasks = _real(house)
    house.peers.calls.clear()
    began = time.perf_counter()
    for start in range(0, 5000, 500):
        results = await _import(house, ann, *tasks[start : start + 500])
        assert [result.error for result in results if not result.created] == []
    took = time.perf_counter() - began
    print(f"import of 5,000 tasks: {took:.2f} s")
    assert house.peers.calls["UserService.BatchGetUsers"] == 10
    assert await house.rows("SELECT count(*), count(DISTINCT key) FROM tasks") == [(5000, 5000)]
    for user in (ann, zoe):
        exported = await _export(house, user, project="WEB")
        assert [task.external_id for task in exported] == [
            task.external_id for task in sorted(tasks, key=lambda t: t.create_time and t.create_time.seconds)
        ]
    by_id = {task.external_id: task for task in exported}
    for task in tasks:
        got = by_id[task.external_id]
        assert (got.title, got.description, got.state) == (task.title, task.description, task.state)
        assert (got.priority, list(got.labels), list(got.assignees)) == (
            task.priority, list(task.labels), list(task.assignees),
        )  # fmt: skip
        assert (got.create_time, got.due_time) == (task.create_time, task.due_time)


async def test_a_key_that_is_free_comes_along(house: House) -> None:
    """TASK-9: what people wrote into mails still leads to the task after a move; nothing is made twice."""
    ann = house.peers.user()
    await house.project(ann)
    first = await _import(
        house,
        ann,
        Task(title="a", key="WEB-7"),
        Task(title="b"),
        Task(title="c", key="web-3"),
        Task(title="d", key="OTHER-1"),
        Task(title="e", key="WEB-7"),
        Task(title="f", key="WEB-007"),
    )
    assert [result.key for result in first] == ["WEB-7", "WEB-8", "WEB-3", "WEB-9", "WEB-10", "WEB-11"]
    second = await _import(house, ann, Task(title="g", key="WEB-3"), Task(title="h", key="WEB-5"))
    assert [result.key for result in second] == ["WEB-12", "WEB-5"]


async def test_an_export_holds_what_one_may_see_and_the_filter_lets_through(house: House) -> None:
    """TASK-9, AUTHZ-5: over several pages, without the trash, oldest first."""
    ann, bob, zoe = (house.peers.user() for _ in range(3))
    await house.project(ann, viewer=bob)
    await house.project(ann, "OWN")
    tasks = [Task(title=f"T{n}", labels=["even"] if n % 2 == 0 else []) for n in range(500)]
    await _import(house, ann, *tasks)
    await _import(house, ann, *tasks)
    await house.task(ann, "Own", "OWN")
    await house.call(ann, "DeleteTask", DeleteTaskRequest(task="WEB-3"), Task)
    assert len(await _export(house, ann)) == 1000
    assert [task.key for task in await _export(house, bob)] == [f"WEB-{n}" for n in range(1, 1001) if n != 3]
    assert len(await _export(house, bob, filter='"even" in labels')) == 499
    assert await _export(house, zoe) == []
    with pytest.raises(NotFoundError):
        await _export(house, bob, project="OWN")
    with pytest.raises(InvalidArgumentError):
        await _export(house, bob, filter="nothing")


async def test_rights_that_are_taken_away_end_an_export(house: House) -> None:
    """AUTHZ-4: they are looked at before each page."""
    ann, bob = house.peers.user(), house.peers.user()
    await house.project(ann, viewer=bob)
    for _ in range(3):
        await _import(house, ann, *(Task(title=f"T{n}") for n in range(400)))
    method = contract.method("TaskService.ExportTasks")
    seen = 0
    async for _ in house.pipeline.stream(method, ExportTasksRequest(), house.options(bob)):
        seen += 1
        if seen == 10:
            house.peers.policies["tasks.export"] = "false"
            house.runtime.guard._plans._known.clear()
    assert seen == 500
