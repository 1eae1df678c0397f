"""Two processes of the Task service on one database: what one decides on is what there is when it commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from taskman_sdk.errors import AbortedError, AlreadyExistsError, FailedPreconditionError, TaskManError
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    AssignTaskRequest,
    GetTaskRequest,
    ImportTasksRequest,
    ImportTasksResponse,
    Project,
    RemoveProjectMemberRequest,
    Task,
    TransitionTaskRequest,
    UpdateTaskRequest,
)
from taskman_server.kit.event_tables import OUTBOX
from taskman_server.kit.events import Event
from taskman_server.services.tasks.store.tables import PROJECTS, TASK_LABELS
from tests.store.databases import Databases
from tests.store.tasks.harness import House, open_house

pytestmark = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
Pair = tuple[House, House]
ROUNDS = 8


@pytest.fixture
async def pair(databases: Databases, house: House) -> AsyncIterator[Pair]:
    """Two processes of the service."""
    async with open_house(databases, peers=house.peers, clock=house.clock, broker="other.db") as other:
        yield house, other


async def test_no_number_is_given_out_twice_and_none_is_left_out(pair: Pair) -> None:
    """TASK-1."""
    ann = pair[0].peers.user()
    await pair[0].project(ann)
    made = await asyncio.gather(*(pair[n % 2].task(ann, f"T{n}") for n in range(40)))
    assert sorted(int(task.key.partition("-")[2]) for task in made) == list(range(1, 41))


async def test_of_two_changes_by_one_etag_one_is_made(pair: Pair) -> None:
    """AIP-154."""
    ann = pair[0].peers.user()
    await pair[0].project(ann)
    task = await pair[0].task(ann)
    for turn in range(ROUNDS):

        async def change(house: House, title: str, etag: str = task.etag) -> Task:
            request = UpdateTaskRequest(task=Task(id="WEB-1", title=title, etag=etag))
            return await house.call(ann, "UpdateTask", request, Task)

        results = await asyncio.gather(
            *(change(house, f"{turn} by {n}") for n, house in enumerate(pair)), return_exceptions=True
        )
        (task,) = [each for each in results if isinstance(each, Task)]
        (refused,) = [each for each in results if isinstance(each, AbortedError)]
        assert refused.reason == "ETAG_MISMATCH"
        assert await pair[0].call(ann, "GetTask", GetTaskRequest(task="WEB-1"), Task) == task


async def test_changes_of_different_fields_are_all_there_and_told_of_in_their_order(pair: Pair) -> None:
    """TASK-2, EVENT-1: nobody overwrites what another one changed; the outbox is in the order of the versions."""
    ann = pair[0].peers.user()
    await pair[0].project(ann)
    for number in range(1, ROUNDS + 1):
        task = await pair[0].task(ann)
        changes = [
            UpdateTaskRequest(task=Task(id=task.key, title="Other")),
            UpdateTaskRequest(task=Task(id=task.key, labels=["a", "b"])),
            UpdateTaskRequest(task=Task(id=task.key, priority="urgent")),
            UpdateTaskRequest(task=Task(id=task.key, description="Long")),
        ]
        await asyncio.gather(
            *(pair[n % 2].call(ann, "UpdateTask", change, Task) for n, change in enumerate(changes)),
            pair[0].call(ann, "TransitionTask", TransitionTaskRequest(task=task.key, state="in_progress"), Task),
        )
        after = await pair[1].call(ann, "GetTask", GetTaskRequest(task=task.key), Task)
        assert (after.title, list(after.labels), after.priority, after.description, after.state) == (
            "Other", ["a", "b"], "urgent", "Long", "in_progress",
        )  # fmt: skip
        found = await pair[0].db.fetch_all(sa.select(TASK_LABELS.c.label).where(TASK_LABELS.c.task == number))
        assert sorted(row.label for row in found) == ["a", "b"]
        rows = await pair[0].db.fetch_all(
            sa.select(OUTBOX.c.envelope).where(OUTBOX.c.key == task.id).order_by(OUTBOX.c.sequence)
        )
        told = [Event.from_json(row.envelope).data for row in rows]
        assert len(told) == 6
        assert [each["before"]["etag"] for each in told[1:]] == [each["task"]["etag"] for each in told[:-1]]
        assert told[-1]["task"]["etag"] == after.etag


async def test_two_administrators_who_remove_each_other_leave_one(pair: Pair) -> None:
    """TASK-1: a project keeps an administrator."""
    for turn in range(ROUNDS):
        ann, bob = pair[0].peers.user(), pair[0].peers.user()
        key = f"P{turn}"
        await pair[0].project(ann, key, admin=bob)
        results = await asyncio.gather(
            *(
                house.call(by, "RemoveProjectMember", RemoveProjectMemberRequest(project=key, user=user), Project)
                for house, by, user in zip(pair, (ann, bob), (bob, ann), strict=True)
            ),
            return_exceptions=True,
        )
        assert len([each for each in results if isinstance(each, Project)]) == 1
        assert all(isinstance(each, Project | TaskManError) for each in results)
        row = await pair[0].db.fetch_one(sa.select(PROJECTS.c.members).where(PROJECTS.c.key == key))
        assert row is not None
        assert list(row.members.values()) == ["admin"]


async def test_one_import_twice_at_once_makes_its_tasks_once(pair: Pair) -> None:
    """TASK-9: external ids and keys are unique, whoever is first."""
    ann = pair[0].peers.user()
    await pair[0].project(ann)
    tasks = [Task(title=f"T{n}", external_id=f"jira-{n}", key=f"WEB-{n * 2}") for n in range(1, 30)]
    request = ImportTasksRequest(project="WEB", tasks=tasks)
    first, second, *_ = await asyncio.gather(
        *(house.call(ann, "ImportTasks", request, ImportTasksResponse) for house in pair),
        *(pair[n % 2].task(ann, f"Beside {n}") for n in range(10)),
    )
    assert [each.key for each in first.results] == [each.key for each in second.results]
    assert {each.created for each in first.results} != {each.created for each in second.results}
    assert await pair[0].rows("SELECT count(*), count(DISTINCT key) FROM tasks") == [(39, 39)]


async def test_an_external_id_is_taken_once(pair: Pair) -> None:
    """TASK-9."""
    ann = pair[0].peers.user()
    await pair[0].project(ann)
    for turn in range(ROUNDS):
        results = await asyncio.gather(
            *(house.task(ann, external_id=f"jira-{turn}") for house in pair), return_exceptions=True
        )
        assert sorted(type(each).__name__ for each in results) == sorted([Task.__name__, AlreadyExistsError.__name__])


async def test_two_at_once_do_not_assign_more_than_there_may_be(pair: Pair) -> None:
    """TASK-3."""
    ann = pair[0].peers.user()
    await pair[0].project(ann, visibility="organization")
    await pair[0].task(ann)
    crowds = [[pair[0].peers.user() for _ in range(30)] for _ in pair]
    results = await asyncio.gather(
        *(
            house.call(ann, "AssignTask", AssignTaskRequest(task="WEB-1", assignees=crowd), Task)
            for house, crowd in zip(pair, crowds, strict=True)
        ),
        return_exceptions=True,
    )
    assert sorted(type(each).__name__ for each in results) == [FailedPreconditionError.__name__, Task.__name__]
    assert await pair[0].rows("SELECT count(*) FROM task_assignees") == [(30,)]
