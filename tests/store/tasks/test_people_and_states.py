"""Assignees and states (TASK-2, TASK-3)."""

from __future__ import annotations

import json

import pytest

from taskman_sdk import codec
from taskman_sdk.errors import FailedPreconditionError, InvalidArgumentError
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    AssignTaskRequest,
    Project,
    RemoveProjectMemberRequest,
    Task,
    TaskEvent,
    TransitionTaskRequest,
    UnassignTaskRequest,
    UpdateProjectRequest,
)
from tests.store.tasks.harness import House


async def _assign(house: House, user: str, *assignees: str, task: str = "WEB-1") -> Task:
    return await house.call(user, "AssignTask", AssignTaskRequest(task=task, assignees=list(assignees)), Task)


async def _move(house: House, user: str, state: str) -> Task:
    return await house.call(user, "TransitionTask", TransitionTaskRequest(task="WEB-1", state=state), Task)


async def test_assignees_come_and_leave_each_with_an_event_of_who(house: House) -> None:
    """TASK-2: several at once; those who were there are not told of again."""
    ann, bob, cem = (house.peers.user() for _ in range(3))
    await house.project(ann, editor=bob, viewer=cem)
    await house.task(ann, assignees=[ann])
    await house.events()
    assigned = await _assign(house, ann, ann, cem, bob)
    assert list(assigned.assignees) == [ann, cem, bob]
    request = UnassignTaskRequest(task="web-1", assignees=[bob, ann, "user_never"])
    left = await house.call(ann, "UnassignTask", request, Task)
    assert list(left.assignees) == [cem]
    events = [(e.name, codec.from_value(TaskEvent, e.data)) for e in await house.events()]
    assert [(name, list(e.users), list(e.changed_fields)) for name, e in events] == [
        ("task.assigned", [cem, bob], ["assignees"]),
        ("task.unassigned", [ann, bob], ["assignees"]),
    ]
    assert [e.before and list(e.before.assignees) for _, e in events] == [[ann], [ann, cem, bob]]
    assert await house.rows('SELECT "user" FROM task_assignees') == [(cem,)]


async def test_only_who_may_see_the_project_is_assigned(house: House) -> None:
    """TASK-2, open point 23: the error says to add them; once the project is open they may be."""
    ann, zoe = house.peers.user(), house.peers.user()
    await house.project(ann)
    await house.task(ann)
    for attempt in (lambda: _assign(house, ann, zoe), lambda: house.task(ann, assignees=[zoe])):
        with pytest.raises(FailedPreconditionError, match="Add them") as caught:
            await attempt()
        assert caught.value.reason == "ASSIGNEE_NOT_MEMBER"
    opened = UpdateProjectRequest(project=Project(id="WEB", visibility="organization"))
    await house.call(ann, "UpdateProject", opened, Project)
    assert list((await _assign(house, ann, zoe)).assignees) == [zoe]
    assert list((await house.task(ann, assignees=[zoe])).assignees) == [zoe]


async def test_who_left_the_project_is_not_assigned_again(house: House) -> None:
    """TASK-2: membership is looked at inside the transaction, at the time."""
    ann, bob = house.peers.user(), house.peers.user()
    await house.project(ann, editor=bob)
    await house.task(ann, assignees=[bob])
    await house.call(ann, "RemoveProjectMember", RemoveProjectMemberRequest(project="WEB", user=bob), Project)
    with pytest.raises(FailedPreconditionError):
        await house.task(ann, assignees=[bob])
    left = await house.call(ann, "UnassignTask", UnassignTaskRequest(task="WEB-1", assignees=[bob]), Task)
    assert list(left.assignees) == []


async def test_an_assignee_is_an_active_user(house: House) -> None:
    """TASK-2: every wrong one is named at its place."""
    ann = house.peers.user()
    await house.project(ann, visibility="organization")
    await house.task(ann)
    shut_out, far = house.peers.user(active=False), house.peers.user(organization="org_two")
    with pytest.raises(InvalidArgumentError) as caught:
        await _assign(house, ann, ann, shut_out, far)
    assert [v.field for v in caught.value.field_violations] == ["assignees[1]", "assignees[2]"]
    with pytest.raises(InvalidArgumentError) as caught:
        await house.task(ann, assignees=["user_nobody"])
    assert [v.field for v in caught.value.field_violations] == ["task.assignees[0]"]


async def test_a_task_has_at_most_fifty_assignees(house: House) -> None:
    """TASK-2: over several calls too."""
    ann = house.peers.user()
    await house.project(ann, visibility="organization")
    await house.task(ann)
    users = [house.peers.user() for _ in range(51)]
    await _assign(house, ann, *users[:50])
    with pytest.raises(FailedPreconditionError) as caught:
        await _assign(house, ann, users[50])
    assert caught.value.reason == "TASK_ASSIGNEES_TOO_MANY"


async def test_reaching_a_final_state_completes_and_leaving_it_reopens(house: House) -> None:
    """TASK-3: both events in one commit, and the time of it."""
    ann = house.peers.user()
    await house.project(ann)
    await house.task(ann)
    await house.events()
    started = await _move(house, ann, "in_progress")
    assert (started.state, started.complete_time) == ("in_progress", None)
    house.clock.advance(60)
    done = await _move(house, ann, "done")
    assert done.complete_time == done.update_time
    reopened = await _move(house, ann, "todo")
    assert reopened.complete_time is None
    events = [(e.name, codec.from_value(TaskEvent, e.data)) for e in await house.events()]
    assert [(name, e.before and e.before.state, e.task and e.task.state) for name, e in events] == [
        ("task.transitioned", "todo", "in_progress"),
        ("task.transitioned", "in_progress", "done"),
        ("task.completed", "in_progress", "done"),
        ("task.transitioned", "done", "todo"),
    ]


async def test_an_unknown_state_names_those_there_are(house: House) -> None:
    """TASK-3."""
    ann = house.peers.user()
    await house.project(ann)
    await house.task(ann)
    with pytest.raises(InvalidArgumentError, match="todo, in_progress, done"):
        await _move(house, ann, "doing")


async def test_the_workflow_is_the_projects_own(house: House) -> None:
    """TASK-3: it is data; the states and moves of another one hold for new and for old tasks."""
    ann = house.peers.user()
    await house.project(ann)
    workflow = {
        "initial": "new",
        "states": [{"name": "new", "final": False}, {"name": "review", "final": False}, {"name": "out", "final": True}],
        "transitions": {"new": ["review"], "review": ["out", "new"]},
    }
    async with house.db.transaction() as tx:
        import sqlalchemy as sa

        await tx.execute(sa.text("UPDATE projects SET workflow = :w"), w=json.dumps(workflow))
    assert (await house.task(ann)).state == "new"
    with pytest.raises(FailedPreconditionError) as caught:
        await _move(house, ann, "out")
    assert caught.value.reason == "TASK_TRANSITION_NOT_ALLOWED"
    assert caught.value.metadata == {"state": "new", "allowed": "review"}
    await _move(house, ann, "review")
    assert (await _move(house, ann, "out")).complete_time is not None
