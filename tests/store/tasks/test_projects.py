"""Projects and their members (TASK-1, open point 23)."""

from __future__ import annotations

import asyncio

import pytest

from taskman_sdk import codec
from taskman_sdk.codec import FieldMask
from taskman_sdk.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    TaskManError,
)
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    AddProjectMemberRequest,
    CreateProjectRequest,
    GetProjectRequest,
    ListProjectsRequest,
    ListProjectsResponse,
    Project,
    ProjectEvent,
    RemoveProjectMemberRequest,
    UpdateProjectRequest,
)
from tests.store.tasks.harness import House


async def _get(house: House, user: str, name: str) -> Project:
    return await house.call(user, "GetProject", GetProjectRequest(project=name), Project)


async def _update(house: House, user: str, project: Project, *paths: str) -> Project:
    request = UpdateProjectRequest(project=project, update_mask=FieldMask(paths=list(paths)))
    return await house.call(user, "UpdateProject", request, Project)


async def _add(house: House, owner: str, user: str, role: str, project: str = "WEB") -> Project:
    request = AddProjectMemberRequest(project=project, user=user, role=role)
    return await house.call(owner, "AddProjectMember", request, Project)


async def _remove(house: House, owner: str, user: str) -> Project:
    request = RemoveProjectMemberRequest(project="WEB", user=user)
    return await house.call(owner, "RemoveProjectMember", request, Project)


async def test_whoever_starts_a_project_is_its_admin_and_finds_it_by_id_and_key(house: House) -> None:
    """TASK-1: keys in any case; private unless said otherwise; the event is in the same commit (EVENT-1)."""
    ann = house.peers.user()
    made = await house.project(ann)
    assert [(m.user, m.role) for m in made.members] == [(ann, "admin")]
    assert made.visibility == "private"
    for name in (made.id, "WEB", "web", "Web"):
        assert await _get(house, ann, name) == made
    (event,) = await house.events()
    assert (event.name, event.subject, event.actor) == ("project.created", made.id, ann)
    assert codec.from_value(ProjectEvent, event.data) == ProjectEvent(project=made)
    assert await house.rows('SELECT project, "user", role FROM project_members') == [(made.id, ann, "admin")]


async def test_a_key_is_unique_in_its_organization_alone(house: House) -> None:
    """TASK-1; the other tenant neither collides with it nor sees it."""
    ann, other = house.peers.user(), house.peers.user(organization="org_two")
    first = await house.project(ann)
    with pytest.raises(AlreadyExistsError) as caught:
        await house.project(ann)
    assert caught.value.reason == "PROJECT_KEY_TAKEN"
    second = await house.project(other)
    assert second.id != first.id
    assert await _get(house, other, "WEB") == second
    for name in (first.id, first.key):
        assert (await _get(house, ann, name)).id == first.id
    with pytest.raises(NotFoundError):
        await _get(house, other, first.id)


async def test_a_project_needs_key_and_name(house: House) -> None:
    """TASK-1: both are named at once, and a key has a shape."""
    ann = house.peers.user()
    for project, fields in (
        (Project(), ["project.key", "project.display_name"]),
        (Project(key="web", display_name="x"), ["project.key"]),
        (Project(key="WEB", display_name=" \n "), ["project.display_name"]),
        (Project(key="WEB", display_name="x", description="a\0b"), ["project.description"]),
        (Project(key="WEB", display_name="x", visibility="public"), ["project.visibility"]),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            await house.call(ann, "CreateProject", CreateProjectRequest(project=project), Project)
        assert [v.field for v in caught.value.field_violations] == fields
    assert await house.events() == []


async def test_an_update_changes_what_the_mask_names_and_nothing_else(house: House) -> None:
    """TASK-1: before, after and the changed fields go out; a change of nothing is none."""
    ann = house.peers.user()
    made = await house.project(ann)
    await house.events()
    house.clock.advance(5)
    wanted = Project(id="web", display_name="New", description="Why", visibility="organization")
    changed = await _update(house, ann, wanted, "display_name", "visibility")
    assert (changed.display_name, changed.description, changed.visibility) == ("New", "", "organization")
    assert changed.etag != made.etag
    assert changed.update_time != made.update_time
    assert changed.create_time == made.create_time
    (event,) = await house.events()
    payload = codec.from_value(ProjectEvent, event.data)
    assert (event.name, payload.project, payload.before) == ("project.updated", changed, made)
    assert list(payload.changed_fields) == ["display_name", "visibility"]
    assert await _update(house, ann, wanted, "display_name", "visibility") == changed
    assert await house.events() == []


async def test_an_empty_mask_means_the_fields_that_are_set(house: House) -> None:
    """AIP-134; and a wrong path names the right ones."""
    ann = house.peers.user()
    await house.project(ann)
    changed = await _update(house, ann, Project(id="WEB", description="Why"))
    assert (changed.description, changed.display_name) == ("Why", "The WEB")
    with pytest.raises(InvalidArgumentError, match="display_name, description, visibility"):
        await _update(house, ann, Project(id="WEB", key="NEW"), "key")
    with pytest.raises(InvalidArgumentError) as caught:
        await _update(house, ann, Project(display_name="x"))
    assert caught.value.field_violations[0].field == "project.id"


async def test_of_parallel_updates_with_one_etag_one_wins(house: House) -> None:
    """TASK-1, AIP-154."""
    ann = house.peers.user()
    made = await house.project(ann)
    await house.events()
    answers = await asyncio.gather(
        *(
            _update(house, ann, Project(id="WEB", display_name=f"Name {n}", etag=made.etag), "display_name")
            for n in range(10)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, Project) for answer in answers) == 1
    lost = [answer for answer in answers if isinstance(answer, AbortedError)]
    assert len(lost) == 9
    assert {error.reason for error in lost} == {"ETAG_MISMATCH"}
    assert len(await house.events()) == 1


async def test_members_come_change_and_leave(house: House) -> None:
    """TASK-1: each is an event with the member; a role they have already is none."""
    ann, bob = house.peers.user(), house.peers.user()
    await house.project(ann)
    await house.events()
    await _add(house, ann, bob, "viewer")
    changed = await _add(house, ann, bob, "editor")
    assert [(m.user, m.role) for m in changed.members] == [(ann, "admin"), (bob, "editor")]
    assert await _add(house, ann, bob, "editor") == changed
    left = await _remove(house, ann, bob)
    assert [m.user for m in left.members] == [ann]
    with pytest.raises(NotFoundError, match="member"):
        await _remove(house, ann, bob)
    seen = [(e.name, codec.from_value(ProjectEvent, e.data).member) for e in await house.events()]
    assert [(name, member.user, member.role) for name, member in seen if member] == [
        ("project.member_added", bob, "viewer"),
        ("project.member_added", bob, "editor"),
        ("project.member_removed", bob, "editor"),
    ]
    assert await house.rows('SELECT "user", role FROM project_members') == [(ann, "admin")]


async def test_the_last_admin_stays(house: House) -> None:
    """TASK-1: neither removal nor a lesser role; with a second admin both are possible."""
    ann, bob = house.peers.user(), house.peers.user()
    await house.project(ann, editor=bob)
    for attempt in (lambda: _remove(house, ann, ann), lambda: _add(house, ann, ann, "viewer")):
        with pytest.raises(FailedPreconditionError) as caught:
            await attempt()
        assert caught.value.reason == "LAST_PROJECT_ADMIN"
    await _add(house, ann, bob, "admin")
    await _remove(house, ann, ann)
    assert [(m.user, m.role) for m in (await _get(house, bob, "WEB")).members] == [(bob, "admin")]


async def test_of_two_admins_who_leave_at_once_one_stays(house: House) -> None:
    """TASK-1: decided inside the transaction."""
    ann, bob = house.peers.user(), house.peers.user()
    await house.project(ann, admin=bob)
    answers = await asyncio.gather(_remove(house, ann, ann), _remove(house, bob, bob), return_exceptions=True)
    assert sum(isinstance(answer, FailedPreconditionError) for answer in answers) == 1
    assert len(await house.rows("SELECT 1 FROM project_members WHERE role = 'admin'")) == 1


async def test_a_member_is_an_active_user_of_the_organization(house: House) -> None:
    """TASK-1: not one who is shut out, of another organization, or made up."""
    ann = house.peers.user()
    await house.project(ann)
    for stranger in (house.peers.user(active=False), house.peers.user(organization="org_two"), "user_nobody"):
        with pytest.raises(InvalidArgumentError) as caught:
            await _add(house, ann, stranger, "viewer")
        assert caught.value.reason == "USER_UNKNOWN"
        assert caught.value.field_violations[0].field == "user"


async def test_a_stranger_is_told_nothing_and_a_viewer_why(house: House) -> None:
    """Open point 23: 404 for who may not know, 403 for who may; both on record (AUDIT-1)."""
    ann, cem, zoe = (house.peers.user() for _ in range(3))
    made = await house.project(ann, viewer=cem)
    for user, kind in ((zoe, NotFoundError), (cem, PermissionDeniedError)):
        for attempt in (
            lambda user=user: _update(house, user, Project(id=made.id, display_name="x")),
            lambda user=user: _add(house, user, user, "admin", made.id),
            lambda user=user: _remove(house, user, ann),
        ):
            with pytest.raises(kind):
                await attempt()
    with pytest.raises(NotFoundError) as caught:
        await _get(house, zoe, "WEB")
    unknown = await _refused(house, zoe, "ANY")
    assert caught.value.message.replace("WEB", "ANY") == unknown.message
    assert len(house.peers.denials) == 7
    assert await _get(house, cem, "WEB") == made


async def _refused(house: House, user: str, name: str) -> TaskManError:
    with pytest.raises(NotFoundError) as caught:
        await _get(house, user, name)
    return caught.value


async def test_an_open_project_is_read_by_the_organization_and_by_nobody_else(house: House) -> None:
    """Open point 23."""
    ann, cem, zoe = house.peers.user(), house.peers.user("viewer"), house.peers.user(organization="org_two")
    made = await house.project(ann, visibility="organization")
    assert await _get(house, cem, "WEB") == made
    with pytest.raises(NotFoundError):
        await _get(house, zoe, made.id)


async def test_the_list_holds_what_one_may_see_in_the_order_of_keys(house: House) -> None:
    """AUTHZ-5, AIP-158: over pages, with and without a filter."""
    ann, bob, root = house.peers.user(), house.peers.user(), house.peers.user("admin")
    keys = [f"P{n:02}" for n in (7, 3, 9, 1, 5, 8)]
    for key in keys:
        await house.project(ann, key, "organization" if key == "P05" else "")
    await _add(house, ann, bob, "viewer", "P09")

    async def listed(user: str, size: int, text: str = "") -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            request = ListProjectsRequest(page_size=size, page_token=token, filter=text)
            answer = await house.call(user, "ListProjects", request, ListProjectsResponse)
            found += [project.key for project in answer.projects]
            token = answer.next_page_token
            if not token:
                return found

    assert await listed(ann, 2) == sorted(keys)
    assert await listed(root, 6) == sorted(keys)
    assert await listed(bob, 1) == ["P05", "P09"]
    assert await listed(bob, 1, 'visibility == "private"') == ["P09"]
    assert await listed(ann, 4, 'key.startsWith("P0") && !(key in ["P03", "P09"])') == ["P01", "P05", "P07", "P08"]
    house.peers.policies["projects.read"] = "principal.id in resource.editors || resource.key == 'P01'"
    other = house.peers.user()
    await _add(house, ann, other, "editor", "P08")
    assert await listed(other, 1) == ["P01", "P08"]
    with pytest.raises(InvalidArgumentError) as caught:
        await listed(ann, 2, 'nokey == "x"')
    assert caught.value.field_violations[0].field == "filter"
