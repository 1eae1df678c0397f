"""One task, from creation to the trash and back (TASK-1)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskman_sdk import codec
from taskman_sdk.codec import FieldMask, Timestamp
from taskman_sdk.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    AssignTaskRequest,
    CreateTaskRequest,
    DeleteTaskRequest,
    GetTaskRequest,
    RestoreTaskRequest,
    Task,
    TaskEvent,
    TransitionTaskRequest,
    UnassignTaskRequest,
    UpdateTaskRequest,
)
from tests.store.tasks.harness import House


async def _get(house: House, user: str, name: str) -> Task:
    return await house.call(user, "GetTask", GetTaskRequest(task=name), Task)


async def _update(house: House, user: str, task: Task, *paths: str) -> Task:
    request = UpdateTaskRequest(task=task, update_mask=FieldMask(paths=list(paths)))
    return await house.call(user, "UpdateTask", request, Task)


async def _delete(house: House, user: str, name: str, etag: str = "") -> Task:
    return await house.call(user, "DeleteTask", DeleteTaskRequest(task=name, etag=etag), Task)


async def _told(house: House) -> list[tuple[str, TaskEvent]]:
    return [(event.name, codec.from_value(TaskEvent, event.data)) for event in await house.events()]


async def test_a_task_is_found_by_id_and_by_key_in_any_case(house: House) -> None:
    """TASK-1: WEB-1, web-1, task_…; the answer of the creation is what is read later."""
    ann = house.peers.user()
    project = await house.project(ann)
    await house.events()
    made = await house.task(ann, "  Paint it  ", labels=[" ui ", "Fix", "ui "], description="*Red*")
    assert (made.key, made.project, made.title, made.state) == ("WEB-1", project.id, "  Paint it  ", "todo")
    assert (made.priority, list(made.labels), made.creator) == ("medium", ["ui", "Fix"], ann)
    assert made.create_time == made.update_time
    assert (made.complete_time, made.delete_time) == (None, None)
    for name in (made.id, "WEB-1", "web-1", "Web-1"):
        assert await _get(house, ann, name) == made
    (told,) = await _told(house)
    assert told == ("task.created", TaskEvent(task=made))


async def test_creation_with_assignees_tells_both_in_one_commit(house: House) -> None:
    """Open point 9, EVENT-1."""
    ann, bob = house.peers.user(), house.peers.user()
    await house.project(ann, viewer=bob)
    await house.events()
    made = await house.task(ann, assignees=[bob, ann])
    assert await _told(house) == [
        ("task.created", TaskEvent(task=made)),
        ("task.assigned", TaskEvent(task=made, users=[bob, ann])),
    ]


async def test_what_only_the_server_says_is_not_taken_from_the_caller(house: House) -> None:
    """TASK-1: id, key, creator and times of a creation (AIP-203)."""
    ann = house.peers.user()
    await house.project(ann)
    past = Timestamp(seconds=1)
    made = await house.task(ann, id="task_x", key="X-9", creator="zoe", create_time=past, complete_time=past, etag="e")
    assert (made.key, made.creator, made.complete_time) == ("WEB-1", ann, None)
    assert made.create_time != past
    done = await house.task(ann, state="done", complete_time=past)
    assert done.complete_time == done.create_time


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        (Task(), ["task.project", "task.title"]),
        (Task(project="WEB"), ["task.title"]),
        (Task(title="x"), ["task.project"]),
        (Task(project="WEB", title=" \t "), ["task.title"]),
        (Task(project="WEB", title="a\nb"), ["task.title"]),
        (Task(project="WEB", title="x", labels=["ok", " "]), ["task.labels"]),
        (Task(project="WEB", title="x", state="doing"), ["task.state"]),
        (Task(project="WEB", title="x", start_time=Timestamp(seconds=2), due_time=Timestamp(seconds=1)),
         ["task.due_time"]),
        (Task(project="WEB", title="x", priority="huge"), ["task.priority"]),
        (Task(project="WEB", title="x", description="d" * 100_001), ["task.description"]),
    ],
)  # fmt: skip
async def test_a_task_that_is_not_right_names_its_fields(house: House, task: Task, fields: list[str]) -> None:
    """TASK-1, GATE-1: nothing is made and nobody is told."""
    ann = house.peers.user()
    await house.project(ann)
    await house.events()
    with pytest.raises(InvalidArgumentError) as caught:
        await house.call(ann, "CreateTask", CreateTaskRequest(task=task), Task)
    assert [violation.field for violation in caught.value.field_violations] == fields
    assert await house.rows("SELECT count(*) FROM tasks") == [(0,)]
    assert await house.events() == []


async def test_a_task_holds_a_hundred_thousand_characters(house: House) -> None:
    """TASK-1: description, with characters of every width."""
    ann = house.peers.user()
    await house.project(ann)
    text = ("# Märchen 🐉\n" * 10_000)[:100_000]
    made = await house.task(ann, description=text)
    assert (await _get(house, ann, made.key)).description == text


async def test_an_external_id_is_the_projects_only_one(house: House) -> None:
    """TASK-9: whether made by hand or imported."""
    ann = house.peers.user()
    await house.project(ann)
    await house.project(ann, "OPS")
    await house.task(ann, external_id="A1")
    await house.task(ann, external_id="A1", project="OPS")
    with pytest.raises(AlreadyExistsError) as caught:
        await house.task(ann, external_id="A1")
    assert caught.value.reason == "TASK_EXTERNAL_ID_TAKEN"


async def test_fifty_at_once_get_fifty_keys(house: House) -> None:
    """TASK-1: keys are unique and grow, per project, whatever happens at once."""
    ann = house.peers.user()
    await house.project(ann)
    await house.project(ann, "OPS")
    made = await asyncio.gather(*(house.task(ann, f"T{n}", "OPS" if n % 5 == 0 else "WEB") for n in range(50)))
    keys = [task.key for task in made]
    assert len(set(keys)) == 50
    assert {key for key in keys if key.startswith("WEB")} == {f"WEB-{n}" for n in range(1, 41)}
    rows = await house.rows("SELECT key FROM tasks WHERE key LIKE 'WEB-%' ORDER BY seq")
    assert [int(key[4:]) for (key,) in rows] == list(range(1, 41))


async def test_a_key_is_not_given_out_twice(house: House) -> None:
    """TASK-1: not even that of a task in the trash."""
    ann = house.peers.user()
    await house.project(ann)
    await house.task(ann)
    await _delete(house, ann, "WEB-1")
    assert (await house.task(ann)).key == "WEB-2"


async def test_an_update_tells_what_it_changed(house: House) -> None:
    """TASK-1, TASK-8: mask, before and after; what is not named stays."""
    ann = house.peers.user()
    await house.project(ann)
    made = await house.task(ann, labels=["a", "b"], due_time=Timestamp(seconds=2_000_000_000))
    await house.events()
    house.clock.advance(1)
    wanted = Task(id="web-1", title="New", labels=["b", "c"], priority="urgent", description="not named")
    changed = await _update(house, ann, wanted, "title", "labels", "priority")
    assert (changed.title, list(changed.labels), changed.priority) == ("New", ["b", "c"], "urgent")
    assert (changed.description, changed.due_time) == (made.description, made.due_time)
    assert changed.etag != made.etag
    assert changed.update_time != made.update_time
    (told,) = await _told(house)
    assert told == (
        "task.updated",
        TaskEvent(task=changed, before=made, changed_fields=["title", "priority", "labels"]),
    )
    assert await _get(house, ann, "WEB-1") == changed
    assert await house.rows("SELECT label FROM task_labels ORDER BY label") == [("b",), ("c",)]


async def test_a_change_of_nothing_is_none(house: House) -> None:
    """TASK-1: same etag, same time, no event."""
    ann, bob = house.peers.user(), house.peers.user()
    await house.project(ann, editor=bob)
    made = await house.task(ann, labels=["a"], assignees=[bob])
    await house.events()
    house.clock.advance(1)
    same = Task(id=made.id, title=made.title, labels=["a "], priority="")
    assert await _update(house, ann, same, "title", "labels", "priority") == made
    assert await _update(house, ann, Task(id=made.id)) == made
    assert await house.call(ann, "AssignTask", AssignTaskRequest(task="WEB-1", assignees=[bob]), Task) == made
    assert await house.call(ann, "UnassignTask", UnassignTaskRequest(task="WEB-1", assignees=[ann]), Task) == made
    assert await house.call(ann, "TransitionTask", TransitionTaskRequest(task="WEB-1", state="todo"), Task) == made
    assert await house.call(ann, "RestoreTask", RestoreTaskRequest(task="WEB-1"), Task) == made
    assert await house.events() == []


async def test_what_an_update_cannot_change_it_says(house: House) -> None:
    """TASK-1: state and assignees have verbs of their own; an empty title or wrong dates are refused."""
    ann = house.peers.user()
    await house.project(ann)
    made = await house.task(ann, start_time=Timestamp(seconds=100))
    for path in ("state", "assignees", "key", "nonsense"):
        with pytest.raises(InvalidArgumentError, match="title, description, priority, labels, start_time, due_time"):
            await _update(house, ann, Task(id=made.id), path)
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({}, "title", "task.title"),
        ({"labels": ["\t"]}, "labels", "task.labels"),
        ({"due_time": Timestamp(seconds=99)}, "due_time", "task.due_time"),
    ]
    for fields, path, violated in cases:
        with pytest.raises(InvalidArgumentError) as caught:
            await _update(house, ann, Task(id=made.id, **fields), path)
        assert [violation.field for violation in caught.value.field_violations] == [violated]
    with pytest.raises(InvalidArgumentError) as caught:
        await _update(house, ann, Task(title="x"))
    assert caught.value.field_violations[0].field == "task.id"
    assert await _get(house, ann, "WEB-1") == made


async def test_a_date_can_be_taken_away(house: House) -> None:
    """TASK-1: a field in the mask that is not set is emptied."""
    ann = house.peers.user()
    await house.project(ann)
    made = await house.task(ann, start_time=Timestamp(seconds=100), due_time=Timestamp(seconds=200))
    changed = await _update(house, ann, Task(id=made.id, due_time=Timestamp(seconds=50)), "start_time", "due_time")
    assert (changed.start_time, changed.due_time) == (None, Timestamp(seconds=50))


async def test_of_parallel_changes_with_one_etag_one_wins(house: House) -> None:
    """TASK-1, AIP-154: whichever verb it is."""
    ann, bob = house.peers.user(), house.peers.user()
    await house.project(ann, editor=bob)
    etag = (await house.task(ann)).etag
    await house.events()
    answers = await asyncio.gather(
        *(_update(house, ann, Task(id="WEB-1", title=f"Title {n}", etag=etag), "title") for n in range(8)),
        _delete(house, ann, "WEB-1", f'"{etag}"'),
        house.call(ann, "AssignTask", AssignTaskRequest(task="WEB-1", assignees=[bob], etag=etag), Task),
        house.call(ann, "TransitionTask", TransitionTaskRequest(task="WEB-1", state="done", etag=etag), Task),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers].count(Task) == 1
    assert all(isinstance(answer, (Task, AbortedError, FailedPreconditionError)) for answer in answers)
    events = await house.events()
    assert len({event.data["task"]["etag"] for event in events}) == 1


async def test_the_trash_hides_keeps_and_gives_back(house: House) -> None:
    """TASK-1, AIP-164: read by name, out of lists, not to be changed, and restored as it was."""
    ann = house.peers.user()
    await house.project(ann)
    made = await house.task(ann)
    await house.events()
    with pytest.raises(AbortedError):
        await _delete(house, ann, "WEB-1", "another")
    deleted = await _delete(house, ann, "WEB-1", made.etag)
    assert deleted.delete_time is not None
    assert await _get(house, ann, "WEB-1") == deleted
    assert await house.pages(ann) == []
    assert await house.pages(ann, show_deleted=True) == [deleted]
    attempts = [
        lambda: _update(house, ann, Task(id="WEB-1", title="x")),
        lambda: _delete(house, ann, "WEB-1"),
        lambda: house.call(ann, "AssignTask", AssignTaskRequest(task="WEB-1", assignees=[ann]), Task),
        lambda: house.call(ann, "UnassignTask", UnassignTaskRequest(task="WEB-1", assignees=[ann]), Task),
        lambda: house.call(ann, "TransitionTask", TransitionTaskRequest(task="WEB-1", state="done"), Task),
    ]
    for attempt in attempts:
        with pytest.raises(FailedPreconditionError) as caught:
            await attempt()
        assert caught.value.reason == "TASK_DELETED"
    restored = await house.call(ann, "RestoreTask", RestoreTaskRequest(task="WEB-1"), Task)
    assert restored.delete_time is None
    assert await house.pages(ann) == [restored]
    assert [(name, list(e.changed_fields)) for name, e in await _told(house)] == [
        ("task.deleted", ["delete_time"]),
        ("task.restored", ["delete_time"]),
    ]


async def test_a_stranger_is_told_nothing_and_a_viewer_why(house: House) -> None:
    """Open point 23: 404 for who may not know, 403 for who may."""
    ann, cem, zoe, far = (*(house.peers.user() for _ in range(3)), house.peers.user(organization="org_two"))
    await house.project(ann, viewer=cem)
    made = await house.task(ann)
    assert await _get(house, cem, "WEB-1") == made
    for user, kind in ((zoe, NotFoundError), (far, NotFoundError), (cem, PermissionDeniedError)):
        attempts = [
            lambda user=user: _update(house, user, Task(id=made.id, title="x")),
            lambda user=user: _delete(house, user, made.id),
            lambda user=user: house.call(user, "RestoreTask", RestoreTaskRequest(task=made.id), Task),
            lambda user=user: house.call(user, "AssignTask", AssignTaskRequest(task=made.id, assignees=[user]), Task),
            lambda user=user: house.call(
                user, "UnassignTask", UnassignTaskRequest(task=made.id, assignees=[ann]), Task
            ),
            lambda user=user: house.call(
                user, "TransitionTask", TransitionTaskRequest(task=made.id, state="done"), Task
            ),
            lambda user=user: house.task(user, "Mine"),
        ]
        for attempt in attempts:
            with pytest.raises(kind):
                await attempt()
    for user in (zoe, far):
        for name in (made.id, "WEB-1"):
            with pytest.raises(NotFoundError):
                await _get(house, user, name)
    assert await _get(house, ann, "WEB-1") == made


async def test_a_policy_sees_every_attribute_of_a_task(house: House) -> None:
    """AUTHZ-1: what the contract's TaskResource names, on the task that is there and on the one to be."""
    ann, bob = house.peers.user(), house.peers.user()
    project = await house.project(ann, editor=bob)
    made = await house.task(ann, labels=["ui"], assignees=[bob], priority="high")
    house.peers.policies["tasks.read"] = (
        f'resource.id == "{made.id}" && resource.project == "{project.id}" && resource.state == "todo" && '
        'resource.priority == "high" && "ui" in resource.labels && principal.id in resource.assignees && '
        f'resource.creator == "{ann}" && resource.visibility == "private" && principal.id in resource.members && '
        "principal.id in resource.editors && !(principal.id in resource.admins)"
    )
    assert await _get(house, bob, "WEB-1") == made
    assert await house.pages(bob) == [made]
    with pytest.raises(NotFoundError):
        await _get(house, ann, "WEB-1")
    house.peers.policies["tasks.create"] = (
        f'resource.creator == principal.id && resource.project == "{project.id}" && "mine" in resource.labels'
    )
    assert (await house.task(bob, "Good", labels=["mine"])).key == "WEB-2"
    cem = house.peers.user()
    with pytest.raises(NotFoundError):
        await house.task(cem, "Bad", labels=["other"])


async def test_a_repeated_creation_with_its_key_makes_one_task(house: House) -> None:
    """GATE-5: the record is in the commit of the task."""
    ann = house.peers.user()
    await house.project(ann)
    request = CreateTaskRequest(task=Task(project="WEB", title="Once"))
    first = await house.call(ann, "CreateTask", request, Task, idempotency_key="k1")
    assert await house.call(ann, "CreateTask", request, Task, idempotency_key="k1") == first
    assert len(await house.pages(ann)) == 1
