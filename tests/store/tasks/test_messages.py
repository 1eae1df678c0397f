"""Pages of messages that are remembered by their version: never of another task than the database says (TASK-6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from taskman_sdk import codec
from taskman_sdk.codec import FieldMask
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    AssignTaskRequest,
    ListTasksRequest,
    ListTasksResponse,
    SearchTasksRequest,
    SearchTasksResponse,
    Task,
    TransitionTaskRequest,
    UpdateTaskRequest,
)
from taskman_server.kit.db import Executor, Row
from taskman_server.services.tasks.store import TaskStore
from tests.store.tasks.harness import House


async def _list(house: House, user: str, condition: str = "") -> list[Task]:
    return list((await house.call(user, "ListTasks", ListTasksRequest(filter=condition), ListTasksResponse)).tasks)


async def _rename(house: House, user: str, task: Task, title: str) -> Task:
    change = UpdateTaskRequest(task=Task(id=task.id, title=title), update_mask=FieldMask(paths=["title"]))
    return await house.call(user, "UpdateTask", change, Task)


async def test_after_every_kind_of_write_the_next_page_has_it(house: House) -> None:
    """TASK-1, TASK-6: in lists and in searches."""
    ann = house.peers.user()
    await house.project(ann)
    task = await house.task(ann, title="Paint the fence")
    assert await _list(house, ann) == [task]
    for operation, request in (
        ("AssignTask", AssignTaskRequest(task=task.id, assignees=[ann])),
        ("TransitionTask", TransitionTaskRequest(task=task.id, state="in_progress")),
        ("UpdateTask", UpdateTaskRequest(task=Task(id=task.id, title="Paint the shed"))),
    ):
        changed = await house.call(ann, operation, request, Task)
        (listed,) = await _list(house, ann)
        assert codec.to_json(listed) == codec.to_json(changed)
    found = await house.call(ann, "SearchTasks", SearchTasksRequest(query="shed"), SearchTasksResponse)
    assert [each.title for each in found.tasks] == ["Paint the shed"]


async def test_a_page_reads_what_is_not_known_alone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """TASK-6: of a page that was read before, the task that has changed."""
    ann = house.peers.user()
    await house.project(ann)
    tasks = [await house.task(ann) for _ in range(5)]
    await _list(house, ann)
    asked: list[Sequence[int]] = []
    by_seq = TaskStore.by_seq

    async def noted(self: TaskStore, source: Executor, organization: str, seqs: Sequence[int]) -> list[Row]:
        asked.append(seqs)
        return await by_seq(self, source, organization, seqs)

    monkeypatch.setattr(TaskStore, "by_seq", noted)
    await _list(house, ann)
    assert not asked
    await _rename(house, ann, tasks[2], "New")
    assert [each.title for each in await _list(house, ann)].count("New") == 1
    assert [len(seqs) for seqs in asked] == [1]


async def test_a_task_that_changes_while_a_page_is_read_is_not_shown_where_it_no_longer_belongs(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AUTHZ-5: between the statement that says what is on the page and the one that reads it."""
    ann = house.peers.user()
    await house.project(ann)
    task, other = await house.task(ann, title="Open"), await house.task(ann, title="Open")
    by_seq = TaskStore.by_seq
    changed: list[Any] = []

    async def late(self: TaskStore, source: Executor, organization: str, seqs: Sequence[int]) -> list[Row]:
        if not changed:
            changed.append(await _rename(house, ann, task, "Secret"))
        return await by_seq(self, source, organization, seqs)

    monkeypatch.setattr(TaskStore, "by_seq", late)
    assert [each.id for each in await _list(house, ann, 'title == "Open"')] == [other.id]
    assert changed
