"""Tasks that are remembered where other processes write too: one statement says whether they still hold (TASK-1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from taskman_sdk.codec import FieldMask
from taskman_sdk.errors import NotFoundError
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    GetTaskRequest,
    Project,
    RemoveProjectMemberRequest,
    Task,
    UpdateProjectRequest,
    UpdateTaskRequest,
)
from taskman_server.kit.db.postgres import PostgresDatabase
from tests.store.databases import Databases
from tests.store.tasks.harness import House, open_house

pytestmark = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
Pair = tuple[House, House]


@pytest.fixture
async def pair(databases: Databases, house: House) -> AsyncIterator[Pair]:
    """Two processes of the service."""
    async with open_house(databases, peers=house.peers, clock=house.clock, broker="other.db") as other:
        yield house, other


async def _get(house: House, user: str, name: str) -> Task:
    return await house.call(user, "GetTask", GetTaskRequest(task=name), Task)


def _counted(house: House) -> list[str]:
    """The statements outside of transactions from now on, by kind."""
    assert isinstance(house.db, PostgresDatabase)
    seen: list[str] = []
    house.db.observe = lambda kind, seconds: seen.append(kind) if kind != "wait" else None
    return seen


async def test_what_another_process_has_written_is_read(pair: Pair) -> None:
    """TASK-1: once a change is acknowledged no process answers with what was before, by whatever name it is asked."""
    ours, theirs = pair
    ann = ours.peers.user()
    await ours.project(ann)
    task = await ours.task(ann)
    for turn in range(20):
        for house in pair:
            for name in (task.id, task.key, task.key.lower()):
                await _get(house, ann, name)
        change = UpdateTaskRequest(task=Task(id=task.id, title=f"T{turn}"), update_mask=FieldMask(paths=["title"]))
        changed = await theirs.call(ann, "UpdateTask", change, Task)
        for name in (task.id, task.key, task.key.lower()):
            assert await _get(ours, ann, name) == changed


async def test_who_was_removed_elsewhere_reads_nothing_any_more(pair: Pair) -> None:
    """AUTHZ-1: the members and the visibility of the project belong to what is remembered."""
    ours, theirs = pair
    ann, ben = ours.peers.user(), ours.peers.user()
    await ours.project(ann, visibility="private", viewer=ben)
    task = await ours.task(ann)
    assert await _get(ours, ben, task.id) == task
    await theirs.call(ann, "RemoveProjectMember", RemoveProjectMemberRequest(project="WEB", user=ben), Project)
    with pytest.raises(NotFoundError):
        await _get(ours, ben, task.id)
    change = UpdateProjectRequest(
        project=Project(id="WEB", visibility="organization"), update_mask=FieldMask(paths=["visibility"])
    )
    await theirs.call(ann, "UpdateProject", change, Project)
    assert await _get(ours, ben, task.id) == task


async def test_reads_of_one_turn_are_one_statement(house: House) -> None:
    """TASK-1: two where some are not known yet; another task, an unknown one and one of another tenant beside them."""
    ann, eve = house.peers.user(), house.peers.user(organization="org_two")
    await house.project(ann)
    made = [await house.task(ann, f"T{n}") for n in range(30)]
    await asyncio.gather(*(_get(house, ann, task.id) for task in made[:20]))
    use = house.runtime.telemetry.cache("tasks")
    use.hits = use.misses = 0
    seen = _counted(house)
    assert await asyncio.gather(*(_get(house, ann, task.id) for task in made[:20])) == made[:20]
    assert (seen, use.hits, use.misses) == (["read"], 20, 0)
    seen.clear()
    assert await asyncio.gather(*(_get(house, ann, task.id) for task in made * 3)) == made * 3
    assert (seen, use.hits, use.misses) == (["read", "read"], 40, 10)
    answers = await asyncio.gather(
        _get(house, ann, made[0].id),
        _get(house, ann, "WEB-999"),
        _get(house, eve, made[0].id),
        return_exceptions=True,
    )
    assert answers[0] == made[0]
    assert [getattr(answer, "reason", "") for answer in answers[1:]] == ["TASK_NOT_FOUND", "TASK_NOT_FOUND"]


async def test_a_read_begins_after_whoever_asked_before_it(pair: Pair) -> None:
    """TASK-1: readers and a writer side by side: nobody reads what is older than what was acknowledged before."""
    ours, theirs = pair
    ann = ours.peers.user()
    await ours.project(ann)
    task = await ours.task(ann, "0")
    acknowledged, over = 0, False

    async def write() -> None:
        nonlocal acknowledged, over
        for number in range(1, 60):
            change = UpdateTaskRequest(task=Task(id=task.id, title=str(number)), update_mask=FieldMask(paths=["title"]))
            await theirs.call(ann, "UpdateTask", change, Task)
            acknowledged = number
        over = True

    async def read() -> int:
        reads = 0
        while not over:
            before = acknowledged
            assert int((await _get(ours, ann, task.id)).title) >= before
            reads += 1
        return reads

    _, *reads = await asyncio.gather(write(), *(read() for _ in range(8)))
    assert min(reads) > 0
