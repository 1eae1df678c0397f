"""One task's life, over every wire (TASK-1, TASK-2, TASK-3)."""

from __future__ import annotations

from typing import Any

from taskman_sdk.errors import (
    AbortedError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from tests.contract.world import Person, Site

Json = dict[str, Any]


async def test_a_task_answers_to_id_and_key(site: Site, ann: Person) -> None:
    """TASK-1: keys count up in their project."""
    project = await ann.project()
    first = await ann.task(
        project["key"],
        "Fix the login page",
        description="It *fails*.",
        labels=["fix", "web"],
        priority="high",
        due_time="2031-02-03T04:05:06Z",
    )
    second = await ann.task(project["id"], "Another")
    assert (first["key"], second["key"]) == (f"{project['key']}-1", f"{project['key']}-2")
    assert first["project"] == project["id"]
    assert (first["state"], first["priority"], first["creator"]) == ("todo", "high", ann.id)
    assert first["due_time"] == "2031-02-03T04:05:06Z"
    assert (second["priority"], second["labels"]) == ("medium", [])
    for name in (first["id"], first["key"]):
        assert await ann.call("TaskService.GetTask", task=name) == first


async def test_what_is_wrong_with_a_task_is_named_field_by_field(site: Site, ann: Person) -> None:
    """TASK-1, GATE-1."""
    project = await ann.project()
    cases: list[tuple[Json, str]] = [
        ({"title": ""}, "task.title"),
        ({"title": "two\nlines"}, "task.title"),
        ({"title": "x" * 501}, "task.title"),
        ({"title": "x", "priority": "huge"}, "task.priority"),
        ({"title": "x", "labels": [""]}, "task.labels[0]"),
        ({"title": "x", "labels": ["a", "a"]}, "task.labels"),
        ({"title": "x", "state": "nowhere"}, "task.state"),
        ({"title": "x", "assignees": ["user_nobody"]}, "task.assignees[0]"),
        ({"title": "x", "start_time": "2031-01-02T00:00:00Z", "due_time": "2031-01-01T00:00:00Z"}, "task.due_time"),
    ]
    for fields, name in cases:
        error = await ann.refused("TaskService.CreateTask", task={"project": project["id"], **fields})
        assert isinstance(error, InvalidArgumentError), fields
        assert name in [each.field for each in error.field_violations], (fields, error)
    assert (await ann.call("TaskService.ListTasks", project=project["id"]))["tasks"] == []
    error = await ann.refused("TaskService.CreateTask", task={"title": "x"})
    assert [each.field for each in error.field_violations] == ["task.project"]


async def test_an_update_changes_what_its_mask_names(site: Site, ann: Person) -> None:
    """TASK-1: AIP-134; a field that is named and empty is cleared, one that is not named stays."""
    task = await ann.task((await ann.project())["id"], labels=["a"], due_time="2031-01-01T00:00:00Z")
    update = "TaskService.UpdateTask"
    changed = await ann.call(
        update, task={"id": task["key"], "title": "New", "labels": ["b"], "priority": "low"}, update_mask="title,labels"
    )
    assert (changed["title"], changed["labels"], changed["priority"]) == ("New", ["b"], "medium")
    assert changed["etag"] != task["etag"]
    cleared = await ann.call(update, task={"id": task["id"]}, update_mask="labels,due_time")
    assert (cleared["labels"], cleared.get("due_time"), cleared["title"]) == ([], None, "New")
    for path in ("state", "assignees", "key", "nothing"):
        error = await ann.refused(update, task={"id": task["id"]}, update_mask=path)
        assert (type(error), error.reason) == (InvalidArgumentError, "UPDATE_MASK_INVALID")


async def test_a_stale_etag_changes_nothing(site: Site, ann: Person) -> None:
    """TASK-1: AIP-154 on every call that takes an etag."""
    task = await ann.task((await ann.project())["id"])
    now = await ann.call("TaskService.UpdateTask", task={"id": task["id"], "title": "Newer"}, update_mask="title")
    old = task["etag"]
    for operation, request in (
        ("TaskService.UpdateTask", {"task": {"id": task["id"], "title": "Lost", "etag": old}, "update_mask": "title"}),
        ("TaskService.TransitionTask", {"task": task["id"], "state": "done", "etag": old}),
        ("TaskService.AssignTask", {"task": task["id"], "assignees": [ann.id], "etag": old}),
        ("TaskService.UnassignTask", {"task": task["id"], "assignees": [ann.id], "etag": old}),
        ("TaskService.DeleteTask", {"task": task["id"], "etag": old}),
    ):
        error = await ann.refused(operation, request)
        assert (type(error), error.reason, error.http_status) == (AbortedError, "ETAG_MISMATCH", 412), operation
    assert await ann.call("TaskService.GetTask", task=task["id"]) == now
    assert (await ann.call("TaskService.DeleteTask", task=task["id"], etag=now["etag"]))["delete_time"]


async def test_a_task_moves_along_its_workflow(site: Site, ann: Person) -> None:
    """TASK-3: reaching a final state sets its time, leaving it clears it."""
    task = await ann.task((await ann.project())["id"])
    move = "TaskService.TransitionTask"
    assert (await ann.call(move, task=task["key"], state="in_progress"))["state"] == "in_progress"
    done = await ann.call(move, task=task["id"], state="done")
    assert done["complete_time"]
    assert await ann.call(move, task=task["id"], state="done") == done
    reopened = await ann.call(move, task=task["id"], state="todo")
    assert (reopened["state"], reopened.get("complete_time")) == ("todo", None)


async def test_a_state_that_the_workflow_has_not_names_those_it_has(site: Site, ann: Person) -> None:
    """TASK-3: the error says what is possible."""
    task = await ann.task((await ann.project())["id"])
    error = await ann.refused("TaskService.TransitionTask", task=task["id"], state="nirvana")
    assert (type(error), error.reason) == (InvalidArgumentError, "TASK_STATE_UNKNOWN")
    assert error.metadata["states"] == "todo,in_progress,done"
    for state in ("todo", "in_progress", "done"):
        assert state in error.message


async def test_a_move_that_the_workflow_has_not_names_the_legal_ones(site: Site, ann: Person) -> None:
    """TASK-3: what is done is reopened first; the error says so and the task stays as it is."""
    task = await ann.task((await ann.project())["id"])
    done = await ann.call("TaskService.TransitionTask", task=task["id"], state="done")
    error = await ann.refused("TaskService.TransitionTask", task=task["id"], state="in_progress")
    assert (type(error), error.reason) == (FailedPreconditionError, "TASK_TRANSITION_NOT_ALLOWED")
    assert (error.metadata["state"], error.metadata["allowed"]) == ("done", "todo")
    assert "todo" in error.message
    assert await ann.call("TaskService.GetTask", task=task["id"]) == done


async def test_assigning_takes_members_alone(site: Site, ann: Person, bob: Person) -> None:
    """TASK-2: several assignees; nobody is assigned who could not see the task."""
    project = await ann.project()
    task = await ann.task(project["id"])
    error = await ann.refused("TaskService.AssignTask", task=task["id"], assignees=[bob.id])
    assert (type(error), error.reason) == (FailedPreconditionError, "ASSIGNEE_NOT_MEMBER")
    await ann.add(project["id"], bob)
    both = await ann.call("TaskService.AssignTask", task=task["key"], assignees=[bob.id, ann.id])
    assert both["assignees"] == [bob.id, ann.id]
    assert await ann.call("TaskService.AssignTask", task=task["id"], assignees=[bob.id]) == both
    one = await bob.call("TaskService.UnassignTask", task=task["id"], assignees=[ann.id, "user_nobody"])
    assert one["assignees"] == [bob.id]


async def test_nobody_is_given_work_once_they_were_shut_out(site: Site, admin: Person, ann: Person) -> None:
    """TASK-2, USER-1: at once, however often they were assigned before."""
    leaver = await site.new_person("Lea")
    project = await ann.project(visibility="organization")
    await ann.task(project["id"], assignees=[leaver.id])
    task = await ann.task(project["id"], assignees=[leaver.id])
    await admin.call("UserService.DeactivateUser", user=leaver.id)
    for operation, request in (
        ("TaskService.CreateTask", {"task": {"project": project["id"], "title": "x", "assignees": [leaver.id]}}),
        ("TaskService.AssignTask", {"task": task["id"], "assignees": [ann.id, leaver.id]}),
        ("TaskService.AddProjectMember", {"project": project["id"], "user": leaver.id, "role": "viewer"}),
    ):
        error = await ann.refused(operation, request)
        assert error.reason == "USER_UNKNOWN", operation
    await admin.call("UserService.ActivateUser", user=leaver.id)
    await ann.task(project["id"], assignees=[leaver.id])


async def test_the_trash_hides_a_task_until_it_is_restored(site: Site, ann: Person) -> None:
    """TASK-1: out of lists, out of reach of changes, and back as it was."""
    project = await ann.project()
    task = await ann.task(project["id"], "Bin me")
    gone = await ann.call("TaskService.DeleteTask", task=task["key"])
    assert gone["delete_time"]
    assert (await ann.call("TaskService.ListTasks", project=project["id"]))["tasks"] == []
    shown = await ann.call("TaskService.ListTasks", project=project["id"], show_deleted=True)
    assert [each["id"] for each in shown["tasks"]] == [task["id"]]
    error = await ann.refused("TaskService.UpdateTask", task={"id": task["id"], "title": "x"}, update_mask="title")
    assert (type(error), error.reason) == (FailedPreconditionError, "TASK_DELETED")
    back = await ann.call("TaskService.RestoreTask", task=task["id"])
    changing = ("etag", "update_time", "delete_time")
    assert {k: v for k, v in back.items() if k not in changing} == {k: v for k, v in task.items() if k not in changing}
    assert back.get("delete_time") is None
    assert [each["id"] for each in (await ann.call("TaskService.ListTasks", project=project["id"]))["tasks"]]


async def test_an_unknown_task_is_not_found(site: Site, ann: Person) -> None:
    """TASK-1."""
    for name in ("task_01j00000000000000000000000", "NOPE-1", "nope", "../../etc/passwd", "%", "'; --"):
        error = await ann.refused("TaskService.GetTask", task=name)
        assert (type(error), error.reason) == (NotFoundError, "TASK_NOT_FOUND"), name


async def test_text_of_any_script_comes_back_as_it_was(site: Site, ann: Person) -> None:
    """TASK-1: nothing is lost or escaped on the way."""
    title = "日本語 العربية 🦦 <b>&amp;</b> \" ' \\ % _ ; DROP TABLE"
    text = "a\tb\nc\u200d\u0301 \U0001f9a6" + "ß" * 5000
    task = await ann.task((await ann.project())["id"], title, description=text, labels=["日本", "a b", "x:y"])
    found = await ann.call("TaskService.GetTask", task=task["id"])
    assert (found["title"], found["description"], found["labels"]) == (title, text, ["日本", "a b", "x:y"])
