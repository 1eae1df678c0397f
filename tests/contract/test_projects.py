"""Projects, their members and who sees them, over every wire (TASK-1, open point 23)."""

from __future__ import annotations

from taskman_sdk.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from tests.contract.world import Person, Site, project_key


async def test_a_project_answers_to_id_and_key(site: Site, ann: Person) -> None:
    """TASK-1: its creator is its first admin; it is private."""
    key = project_key()
    made = await ann.project(key=key, display_name="Website", description="# Plan")
    assert made["id"].startswith("project_")
    assert made["visibility"] == "private"
    assert made["members"] == [{"user": ann.id, "role": "admin"}]
    assert made["create_time"].endswith("Z")
    for name in (made["id"], key):
        assert await ann.call("TaskService.GetProject", project=name) == made


async def test_a_key_is_taken_once(site: Site, ann: Person, bob: Person) -> None:
    """TASK-1: unique in the organization, also for who cannot see the project that has it."""
    made = await ann.project()
    error = await bob.refused("TaskService.CreateProject", project={"key": made["key"], "display_name": "Mine"})
    assert (type(error), error.reason) == (AlreadyExistsError, "PROJECT_KEY_TAKEN")


async def test_a_project_needs_key_and_name(site: Site, ann: Person) -> None:
    """TASK-1, GATE-1: every field that is wrong is named."""
    error = await ann.refused("TaskService.CreateProject", project={"display_name": " "})
    assert isinstance(error, InvalidArgumentError)
    assert {"project.key", "project.display_name"} == {each.field for each in error.field_violations}
    error = await ann.refused("TaskService.CreateProject", project={"key": "lower", "display_name": "x"})
    assert [each.field for each in error.field_violations] == ["project.key"]


async def test_a_stranger_does_not_learn_of_a_private_project(site: Site, ann: Person, bob: Person) -> None:
    """AUTHZ-1, TASK-1: 404 for everything, and in no list."""
    made = await ann.project()
    task = await ann.task(made["id"])
    calls = [
        ("TaskService.GetProject", {"project": made["id"]}),
        ("TaskService.GetProject", {"project": made["key"]}),
        ("TaskService.UpdateProject", {"project": {"id": made["id"], "display_name": "x"}}),
        ("TaskService.AddProjectMember", {"project": made["id"], "user": bob.id, "role": "admin"}),
        ("TaskService.RemoveProjectMember", {"project": made["id"], "user": ann.id}),
        ("TaskService.CreateTask", {"task": {"project": made["key"], "title": "x"}}),
        ("TaskService.GetTask", {"task": task["key"]}),
        ("TaskService.UpdateTask", {"task": {"id": task["id"], "title": "x"}}),
        ("TaskService.DeleteTask", {"task": task["id"]}),
        ("TaskService.TransitionTask", {"task": task["id"], "state": "done"}),
        ("TaskService.AssignTask", {"task": task["id"], "assignees": [bob.id]}),
        ("TaskService.ListTasks", {"project": made["id"]}),
        ("TaskService.ExportTasks", {"project": made["id"]}),
        ("TaskService.ImportTasks", {"project": made["id"], "tasks": [{"title": "x"}]}),
    ]
    for operation, request in calls:
        error = await bob.refused(operation, request)
        assert isinstance(error, NotFoundError), (operation, error)
    listed = await bob.call("TaskService.ListProjects", filter=f'key == "{made["key"]}"')
    assert listed["projects"] == []
    assert (await bob.call("TaskService.ListTasks", filter=f'project == "{made["id"]}"'))["tasks"] == []
    assert await ann.call("TaskService.GetTask", task=task["id"]) == task


async def test_a_project_open_to_the_organization_is_read_by_all_and_changed_by_members(
    site: Site, ann: Person, bob: Person
) -> None:
    """TASK-1, AUTHZ-2: `visibility: organization`; reading makes 403 of what was 404."""
    made = await ann.project(visibility="organization")
    task = await ann.task(made["id"])
    assert (await bob.call("TaskService.GetProject", project=made["id"]))["id"] == made["id"]
    assert await bob.call("TaskService.GetTask", task=task["key"]) == task
    listed = await bob.call("TaskService.ListTasks", project=made["key"])
    assert [each["id"] for each in listed["tasks"]] == [task["id"]]
    for operation, request in (
        ("TaskService.UpdateProject", {"project": {"id": made["id"], "display_name": "x"}}),
        ("TaskService.CreateTask", {"task": {"project": made["key"], "title": "x"}}),
        ("TaskService.UpdateTask", {"task": {"id": task["id"], "title": "x"}}),
    ):
        error = await bob.refused(operation, request)
        assert (type(error), error.reason) == (PermissionDeniedError, "PERMISSION_MISSING"), operation


async def test_members_do_what_their_role_says(site: Site, ann: Person, bob: Person) -> None:
    """TASK-1, AUTHZ-2: viewer reads, editor works, admin manages."""
    made = await ann.project()
    task = await ann.task(made["id"])
    create = {"task": {"project": made["id"], "title": "x"}}
    manage = {"project": {"id": made["id"], "display_name": "Managed"}}

    await ann.add(made["id"], bob, "viewer")
    assert await bob.call("TaskService.GetTask", task=task["id"])
    assert isinstance(await bob.refused("TaskService.CreateTask", create), PermissionDeniedError)

    project = await ann.add(made["id"], bob, "editor")
    assert {"user": bob.id, "role": "editor"} in project["members"]
    assert (await bob.call("TaskService.CreateTask", create))["creator"] == bob.id
    assert isinstance(await bob.refused("TaskService.UpdateProject", manage), PermissionDeniedError)

    await ann.add(made["id"], bob, "admin")
    assert (await bob.call("TaskService.UpdateProject", manage))["display_name"] == "Managed"

    await ann.call("TaskService.RemoveProjectMember", project=made["id"], user=bob.id)
    assert isinstance(await bob.refused("TaskService.GetTask", task=task["id"]), NotFoundError)


async def test_a_project_keeps_an_admin(site: Site, ann: Person, bob: Person) -> None:
    """TASK-1: the last one can neither leave nor be made less."""
    made = await ann.project()
    await ann.add(made["id"], bob, "editor")
    for operation, request in (
        ("TaskService.RemoveProjectMember", {"project": made["id"], "user": ann.id}),
        ("TaskService.AddProjectMember", {"project": made["id"], "user": ann.id, "role": "viewer"}),
    ):
        error = await ann.refused(operation, request)
        assert (type(error), error.reason) == (FailedPreconditionError, "LAST_PROJECT_ADMIN")


async def test_only_people_of_the_organization_become_members(site: Site, ann: Person) -> None:
    """TASK-1."""
    made = await ann.project()
    request = {"project": made["id"], "user": "user_nobody", "role": "editor"}
    error = await ann.refused("TaskService.AddProjectMember", request)
    assert (type(error), error.reason) == (InvalidArgumentError, "USER_UNKNOWN")
    assert [each.field for each in error.field_violations] == ["user"]


async def test_a_project_changes_by_mask_and_etag(site: Site, ann: Person) -> None:
    """TASK-1: AIP-134, AIP-154; the key does not change."""
    made = await ann.project()
    update = "TaskService.UpdateProject"
    changed = await ann.call(
        update, project={"id": made["key"], "description": "new", "etag": made["etag"]}, update_mask="description"
    )
    assert (changed["description"], changed["display_name"]) == ("new", made["display_name"])
    stale = await ann.refused(
        update, project={"id": made["id"], "description": "lost", "etag": made["etag"]}, update_mask="description"
    )
    assert (type(stale), stale.reason) == (AbortedError, "ETAG_MISMATCH")
    error = await ann.refused(update, project={"id": made["id"], "key": "OTHER"}, update_mask="key")
    assert (type(error), error.reason) == (InvalidArgumentError, "UPDATE_MASK_INVALID")
    assert await ann.call("TaskService.GetProject", project=made["id"]) == changed
