"""What changes between the decision and the transaction is decided on again (AUTHZ-1, TASK-2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from taskman_sdk import codec
from taskman_sdk.errors import AbortedError, NotFoundError
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    AddProjectMemberRequest,
    AssignTaskRequest,
    CreateTaskRequest,
    DeleteTaskRequest,
    ImportTasksRequest,
    ImportTasksResponse,
    Project,
    RemoveProjectMemberRequest,
    RestoreTaskRequest,
    Task,
    TransitionTaskRequest,
    UnassignTaskRequest,
    UpdateProjectRequest,
    UpdateTaskRequest,
)
from taskman_server.kit.db import Transaction
from taskman_server.kit.rpc import Call
from tests.store.tasks.harness import House

Meanwhile = Callable[[Callable[[], Awaitable[object]]], None]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Has something else happen, whole, just before the next transaction of a call begins."""

    def arrange(other: Callable[[], Awaitable[object]]) -> None:
        begin = Call.begin

        async def later(call: Call) -> Transaction:
            monkeypatch.setattr(Call, "begin", begin)
            await other()
            return await begin(call)

        monkeypatch.setattr(Call, "begin", later)

    return arrange


WRITES: dict[str, tuple[codec.Message[Any], type[codec.Message[Any]]]] = {
    "UpdateTask": (UpdateTaskRequest(task=Task(id="WEB-1", title="Mine now")), Task),
    "DeleteTask": (DeleteTaskRequest(task="WEB-1"), Task),
    "RestoreTask": (RestoreTaskRequest(task="WEB-2"), Task),
    "AssignTask": (AssignTaskRequest(task="WEB-1", assignees=["ANN"]), Task),
    "UnassignTask": (UnassignTaskRequest(task="WEB-1", assignees=["ANN"]), Task),
    "TransitionTask": (TransitionTaskRequest(task="WEB-1", state="done"), Task),
    "CreateTask": (CreateTaskRequest(task=Task(project="WEB", title="One more")), Task),
    "ImportTasks": (ImportTasksRequest(project="WEB", tasks=[Task(title="One more")]), ImportTasksResponse),
    "UpdateProject": (UpdateProjectRequest(project=Project(id="WEB", display_name="Mine now")), Project),
    "AddProjectMember": (AddProjectMemberRequest(project="WEB", user="ANN", role="viewer"), Project),
    "RemoveProjectMember": (RemoveProjectMemberRequest(project="WEB", user="ANN"), Project),
}


@pytest.mark.parametrize("operation", WRITES)
async def test_who_is_removed_meanwhile_does_not_write_once_more(
    house: House, meanwhile: Meanwhile, operation: str
) -> None:
    """AUTHZ-1: nothing is written or told of; the next attempt gets the true answer, and that is put on record."""
    ann, bob = house.peers.user(), house.peers.user()
    await house.project(ann, admin=bob)
    await house.task(ann)
    await house.task(ann)
    await house.call(ann, "DeleteTask", DeleteTaskRequest(task="WEB-2"), Task)
    request, answer = WRITES[operation]
    if isinstance(request, AssignTaskRequest):
        request = AssignTaskRequest(task="WEB-1", assignees=[ann])
    if isinstance(request, AddProjectMemberRequest):
        request = AddProjectMemberRequest(project="WEB", user=ann, role="viewer")

    async def remove() -> None:
        await house.call(ann, "RemoveProjectMember", RemoveProjectMemberRequest(project="WEB", user=bob), Project)
        await house.events()

    before = await house.rows("SELECT * FROM tasks")
    meanwhile(remove)
    with pytest.raises(AbortedError, match="Try again") as caught:
        await house.call(bob, operation, request, answer)
    assert caught.value.reason in ("TASK_CHANGED_MEANWHILE", "PROJECT_CHANGED_MEANWHILE")
    assert await house.events() == []
    assert await house.rows("SELECT * FROM tasks") == before
    assert house.peers.denials == []
    with pytest.raises(NotFoundError):
        await house.call(bob, operation, request, answer)
    assert len(house.peers.denials) == 1


async def test_a_change_that_takes_no_right_away_is_in_nobody_s_way(house: House, meanwhile: Meanwhile) -> None:
    """AUTHZ-1: two editors at once both succeed."""
    ann, bob, cem = (house.peers.user() for _ in range(3))
    await house.project(ann, editor=bob)
    await house.task(ann)

    async def other() -> None:
        await house.call(ann, "UpdateTask", UpdateTaskRequest(task=Task(id="WEB-1", labels=["a"])), Task)
        join = AddProjectMemberRequest(project="WEB", user=cem, role="viewer")
        await house.call(ann, "AddProjectMember", join, Project)

    meanwhile(other)
    moved = await house.call(bob, "TransitionTask", TransitionTaskRequest(task="WEB-1", state="done"), Task)
    assert (list(moved.labels), moved.state) == (["a"], "done")


async def test_a_policy_on_the_task_itself_is_asked_again_too(house: House, meanwhile: Meanwhile) -> None:
    """AUTHZ-1: not members alone; here the task becomes urgent, which the policy excludes."""
    ann, bob = house.peers.user(), house.peers.user()
    await house.project(ann, editor=bob)
    await house.task(ann)
    house.peers.policies["tasks.update"] = 'resource.priority != "urgent" || principal.id == "' + ann + '"'
    urgent = UpdateTaskRequest(task=Task(id="WEB-1", priority="urgent"))
    meanwhile(lambda: house.call(ann, "UpdateTask", urgent, Task))
    with pytest.raises(AbortedError):
        await house.call(bob, "UpdateTask", UpdateTaskRequest(task=Task(id="WEB-1", title="Mine now")), Task)
    assert await house.rows("SELECT title FROM tasks") == [("Paint it",)]
