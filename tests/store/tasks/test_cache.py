"""What is remembered of tasks is never older than what was acknowledged (TASK-1, AUTHZ-1)."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from taskman_sdk import codec
from taskman_sdk.codec import FieldMask
from taskman_sdk.errors import NotFoundError, PermissionDeniedError
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    AssignTaskRequest,
    DeleteTaskRequest,
    GetProjectRequest,
    GetTaskRequest,
    Project,
    RemoveProjectMemberRequest,
    RestoreTaskRequest,
    Task,
    TransitionTaskRequest,
    UnassignTaskRequest,
    UpdateProjectRequest,
    UpdateTaskRequest,
)
from taskman_server.kit.cache import ReadCache
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.kit.telemetry import CacheUse
from tests.store.tasks.harness import House


async def _get(house: House, user: str, name: str) -> Task:
    return await house.call(user, "GetTask", GetTaskRequest(task=name), Task)


async def _same_by_every_name(house: House, user: str, task: Task) -> None:
    for name in (task.id, task.key, task.key.lower()):
        assert codec.to_json(await _get(house, user, name)) == codec.to_json(task)


async def test_after_every_kind_of_write_the_next_read_has_it(house: House) -> None:
    """TASK-1: by id and by key in any case, whatever was remembered before."""
    ann = house.peers.user()
    await house.project(ann)
    made = await house.task(ann)
    writes: list[tuple[str, codec.Message[Any]]] = [
        ("UpdateTask", UpdateTaskRequest(task=Task(id=made.id, title="New"), update_mask=FieldMask(paths=["title"]))),
        ("AssignTask", AssignTaskRequest(task=made.id, assignees=[ann])),
        ("TransitionTask", TransitionTaskRequest(task=made.id, state="in_progress")),
        ("UnassignTask", UnassignTaskRequest(task=made.id, assignees=[ann])),
        ("DeleteTask", DeleteTaskRequest(task=made.id)),
        ("RestoreTask", RestoreTaskRequest(task=made.id)),
    ]
    await _same_by_every_name(house, ann, made)
    for operation, request in writes:
        await _same_by_every_name(house, ann, await house.call(ann, operation, request, Task))


async def test_who_leaves_a_project_reads_nothing_of_it_any_more(house: House) -> None:
    """AUTHZ-1: members and visibility are remembered with each task."""
    ann, ben = house.peers.user(), house.peers.user()
    await house.project(ann, visibility="private", viewer=ben)
    made = await house.task(ann)
    await _get(house, ben, made.id)
    await house.call(ann, "RemoveProjectMember", RemoveProjectMemberRequest(project="WEB", user=ben), Project)
    with pytest.raises(NotFoundError):
        await _get(house, ben, made.id)
    change = UpdateProjectRequest(
        project=Project(id="WEB", visibility="organization"), update_mask=FieldMask(paths=["visibility"])
    )
    await house.call(ann, "UpdateProject", change, Project)
    await _get(house, ben, made.id)


async def test_a_project_is_as_it_was_left_by_every_name(house: House) -> None:
    """AUTHZ-1: what is remembered of a project itself, and who may put a task into it."""
    ann, ben = house.peers.user(), house.peers.user()
    made = await house.project(ann, editor=ben)
    await house.task(ben)
    writes: list[tuple[str, codec.Message[Any]]] = [
        ("UpdateProject", UpdateProjectRequest(project=Project(id="WEB", display_name="New"))),
        ("RemoveProjectMember", RemoveProjectMemberRequest(project="WEB", user=ben)),
    ]
    for operation, request in writes:
        told = await house.call(ann, operation, request, Project)
        for name in (made.id, "WEB", "web"):
            read = await house.call(ann, "GetProject", GetProjectRequest(project=name), Project)
            assert codec.to_json(read) == codec.to_json(told)
    with pytest.raises((NotFoundError, PermissionDeniedError)):
        await house.task(ben)
    assert (await house.task(ann)).key == "WEB-2"


async def test_readers_beside_a_writer_never_see_less_than_was_acknowledged(house: House) -> None:
    """TASK-1: versions only grow, for everybody, and none is older than what its writer was told."""
    ann = house.peers.user()
    await house.project(ann)
    made = await house.task(ann)
    acknowledged, rng = 0, random.Random(1)

    async def write() -> None:
        nonlocal acknowledged
        for number in range(1, 60):
            task = Task(id=made.id, title=f"version {number}")
            await house.call(
                ann, "UpdateTask", UpdateTaskRequest(task=task, update_mask=FieldMask(paths=["title"])), Task
            )
            acknowledged = number
            await asyncio.sleep(0)

    async def read(writing: asyncio.Task[None]) -> int:
        seen = reads = 0
        while not writing.done():
            least = max(seen, acknowledged)
            title = (await _get(house, ann, rng.choice((made.id, made.key)))).title
            seen = int(title.removeprefix("version ")) if title.startswith("version ") else 0
            assert seen >= least
            reads += 1
            await asyncio.sleep(0)
        return reads

    writing = asyncio.create_task(write())
    reads = await asyncio.gather(*(read(writing) for _ in range(4)))
    await writing
    assert sum(reads) > 60


async def test_what_one_caller_does_to_an_answer_is_not_in_the_next(house: House) -> None:
    """SDK-2: in process a message is handed over as it is."""
    ann = house.peers.user()
    await house.project(ann)
    made = await house.task(ann, labels=["one"], assignees=[ann])
    first = await _get(house, ann, made.id)
    first.labels.append("two")
    first.assignees.clear()
    assert codec.to_json(await _get(house, ann, made.id)) == codec.to_json(made)


async def test_a_read_that_began_before_a_commit_is_not_kept(tmp_path: Path) -> None:
    """TASK-1: it may have seen what was before; so may one of something else, which costs one more read."""
    cache: ReadCache[str, int] = ReadCache(2, use := CacheUse(), None)
    db = SqliteDatabase(tmp_path / "x.db")
    before = cache.changes
    async with db.transaction() as tx:
        cache.forget(tx, "a")
    cache.keep("a", 1, before)
    assert cache.get("a") is None
    cache.keep("a", 2, cache.changes)
    assert cache.get("a") == 2
    async with db.transaction() as tx:
        cache.clear(tx)
    await db.close()
    assert (cache.get("a"), use.hits, use.misses) == (None, 1, 2)
    for number, name in enumerate("abc"):
        cache.keep(name, number, cache.changes)
    assert [cache.get(name) for name in "abc"] == [None, 1, 2]
