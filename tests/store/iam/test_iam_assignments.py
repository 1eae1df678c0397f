"""Assignments: given, ended, provisioned once, and never taken from the last administrator (IAM-1)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from taskman_sdk import codec
from taskman_sdk.codec import Timestamp
from taskman_sdk.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from taskman_sdk.proto.taskman.iam.v1.iam_pb import (
    Assignment,
    AssignmentEvent,
    DeleteAssignmentRequest,
    DeleteAssignmentResponse,
    GetAssignmentRequest,
    GetSnapshotRequest,
    ListAssignmentsRequest,
    ListAssignmentsResponse,
    ProvisionPrincipalRequest,
    ProvisionPrincipalResponse,
    Snapshot,
)
from taskman_sdk.proto.taskman.user.v1.user_pb import DeactivateUserRequest, User, UserEvent
from taskman_server.kit.broker import Message
from taskman_server.kit.ids import new_id
from taskman_server.kit.outbox import Event
from tests.store.iam.harness import ORGANIZATION, House, until


async def held(house: House, principal: str, **filters: Any) -> dict[str, str]:
    """The roles of somebody, with the ids of the assignments."""
    request = ListAssignmentsRequest(filter=f'principal == "{principal}"')
    page = await house.call(
        "service:test", "IamAdminService.ListAssignments", request, ListAssignmentsResponse, **filters
    )
    return {each.role: each.id for each in page.assignments}


async def take(house: House, key: str, by: str = "service:test") -> None:
    """Takes an assignment away."""
    request = DeleteAssignmentRequest(assignment=key)
    await house.call(by, "IamAdminService.DeleteAssignment", request, DeleteAssignmentResponse)


async def test_an_assignment_is_given_once_and_taken(house: House) -> None:
    """IAM-1: principal and role must exist; the same twice is refused; each change is told."""
    admin = await house.user("admin")
    user = await house.user()
    house.events.clear()
    made = await house.assign(user, "viewer", by=admin)
    got = await house.call(admin, "IamAdminService.GetAssignment", GetAssignmentRequest(assignment=made.id), Assignment)
    assert got == made
    with pytest.raises(AlreadyExistsError) as twice:
        await house.assign(user, "viewer", by=admin)
    assert twice.value.reason == "ASSIGNMENT_EXISTS"
    with pytest.raises(InvalidArgumentError) as nobody:
        await house.assign(new_id("user"), "viewer", by=admin)
    assert nobody.value.reason == "PRINCIPAL_UNKNOWN"
    with pytest.raises(InvalidArgumentError) as nothing:
        await house.assign(user, "vewer", by=admin)
    assert nothing.value.reason == "ROLE_UNKNOWN"
    assert "viewer" in nothing.value.message
    for principal, role in (("", "viewer"), (user, "")):
        with pytest.raises(InvalidArgumentError) as empty:
            await house.assign(principal, role, by=admin)
        assert empty.value.reason == "FIELD_REQUIRED"
    await take(house, made.id, by=admin)
    with pytest.raises(NotFoundError):
        await take(house, made.id, by=admin)
    await house.settle()
    told = [codec.from_value(AssignmentEvent, each.data) for each in house.events if "iam." in each.name]
    assert [each.assignment for each in told] == [made, made]
    assert told[1].version == told[0].version + 1


async def test_a_user_of_another_organization_is_no_user_here(house: House) -> None:
    """IAM-1, tenancy."""
    stranger = await house.user(organization="org_two")
    with pytest.raises(InvalidArgumentError) as refused:
        await house.assign(stranger, "viewer")
    assert refused.value.reason == "PRINCIPAL_UNKNOWN"


async def test_an_assignment_that_ended_can_be_given_again(house: House) -> None:
    """IAM-1: assignments that expire; a time that has passed is refused."""
    user = await house.user()
    soon = Timestamp.from_datetime(house.clock.now() + timedelta(minutes=5))
    made = await house.assign(user, "viewer", expire_time=soon)
    house.clock.advance(301)
    with pytest.raises(InvalidArgumentError) as late:
        await house.assign(user, "viewer", expire_time=soon)
    assert late.value.reason == "TIME_PASSED"
    again = await house.assign(user, "viewer")
    assert again.id != made.id
    assert (await held(house, user))["viewer"] == again.id


async def test_the_last_administrator_stays(house: House) -> None:
    """IAM-1: whoever ends or is shut out does not count; in doubt nothing is taken."""
    first = await house.user("admin")
    key = (await held(house, first))["admin"]
    with pytest.raises(FailedPreconditionError) as last:
        await take(house, key, by=first)
    assert last.value.reason == "LAST_ADMIN"
    second = await house.user()
    soon = Timestamp.from_datetime(house.clock.now() + timedelta(hours=1))
    ending = await house.assign(second, "admin", expire_time=soon)
    with pytest.raises(FailedPreconditionError):
        await take(house, key)
    await take(house, ending.id)
    await house.assign(second, "admin")
    await house.call("service:test", "UserService.DeactivateUser", DeactivateUserRequest(user=second), User)
    with pytest.raises(FailedPreconditionError):
        await take(house, key)
    third = await house.user("admin")
    house.lines["users"].cut = True
    with pytest.raises(UnavailableError):
        await take(house, key)
    house.lines["users"].cut = False
    await take(house, key)
    await take(house, (await held(house, second))["admin"])
    with pytest.raises(FailedPreconditionError):
        await take(house, (await held(house, third))["admin"])


async def test_a_role_that_is_denied_something_cannot_be_dropped_to_get_it(house: House) -> None:
    """IAM-1: leaving a role to which a policy denies something gives it back, and that must be held."""
    await house.role("clerk", "assignments.*")
    await house.policy("no-exports", ["tasks.export"], roles=["clerk"], deny=True)
    clerk = await house.user("clerk")
    with pytest.raises(PermissionDeniedError) as refused:
        await take(house, (await held(house, clerk))["clerk"], by=clerk)
    assert refused.value.metadata["missing"] == "tasks.export"


async def test_a_sign_up_gives_the_first_role_once(house: House) -> None:
    """USER-1, EVENT-1: event and direct call, in any order and number, make one assignment."""
    user = await house.user()
    assert list(await held(house, user)) == ["member"]
    answers = [
        await house.call(
            "service:authentication",
            "IamAdminService.ProvisionPrincipal",
            ProvisionPrincipalRequest(principal=user, organization=ORGANIZATION, role=role),
            ProvisionPrincipalResponse,
        )
        for role in ("", "member", "viewer", "")
    ]
    assert {answer.assignment.id for answer in answers if answer.assignment} == set((await held(house, user)).values())
    assert len(house.named("iam.assignment.created")) == 1
    await take(house, (await held(house, user))["member"])
    request = ProvisionPrincipalRequest(principal=user, organization=ORGANIZATION)
    late = await house.call(
        "service:authentication", "IamAdminService.ProvisionPrincipal", request, ProvisionPrincipalResponse
    )
    assert late.assignment is None
    assert await held(house, user) == {}
    with pytest.raises(PermissionDeniedError):
        await house.call(user, "IamAdminService.ProvisionPrincipal", request, ProvisionPrincipalResponse)


async def publish(house: House, data: dict[str, Any], organization: str = ORGANIZATION) -> Event:
    """An event of the Users service, as it would be read from the bus."""
    event = Event(
        id=new_id("event"),
        source="/taskman/users",
        type="taskman.user.created.v1",
        time=house.clock.now(),
        subject=new_id("user"),
        organization=organization,
        actor="user_who_invites",
        data=data,
    )
    await house.broker.publish([Message.of(event)])
    return event


@pytest.mark.parametrize(("named", "given"), [("viewer", "viewer"), ("admin", "admin"), ("vanished", "viewer")])
async def test_the_first_role_is_the_one_that_the_event_names(house: House, named: str, given: str) -> None:
    """USER-1: and the least one where that is not there any more."""
    user = new_id("user")
    await publish(house, codec.to_value(UserEvent(user=User(id=user), default_role=named)))
    await house.settle()
    assert list(await held(house, user)) == [given]
    (event,) = house.named("iam.assignment.created")
    assert event.actor == "user_who_invites"


async def test_an_event_that_says_nothing_is_put_aside(house: House) -> None:
    """EVENT-2: to the dead letters at once, with the reason."""
    await publish(house, {"default_role": "member"})
    await publish(house, {"user": "not an object"})

    async def aside() -> bool:
        return len(await house.broker.dead_letters("iam.user")) == 2

    await until(aside)
    reasons = [letter.reason for letter in await house.broker.dead_letters("iam.user")]
    assert any("names no user" in reason for reason in reasons)


async def test_the_snapshot_holds_what_decisions_rest_on(house: House) -> None:
    """AUTHZ-4: system objects too; assignments that ended are left out."""
    user = await house.user()
    await house.role("lead", "tasks.read")
    soon = Timestamp.from_datetime(house.clock.now() + timedelta(minutes=5))
    await house.assign(user, "lead", expire_time=soon)
    request = GetSnapshotRequest(organization=ORGANIZATION)
    before = await house.call("service:authorization", "IamAdminService.GetSnapshot", request, Snapshot)
    assert [role.name for role in before.roles] == ["admin", "member", "viewer", "lead"]
    assert [policy.name for policy in before.policies] == ["readers", "editors", "project-admins", "own-profile"]
    assert sorted(each.role for each in before.assignments) == ["lead", "member"]
    house.clock.advance(301)
    after = await house.call("service:authorization", "IamAdminService.GetSnapshot", request, Snapshot)
    assert [each.role for each in after.assignments] == ["member"]
    assert after.version == before.version
    with pytest.raises(PermissionDeniedError):
        await house.call(user, "IamAdminService.GetSnapshot", request, Snapshot)


async def test_pages_of_assignments(house: House) -> None:
    """IAM-1: in the order they were given, filtered by principal and role."""
    users = [await house.user() for _ in range(3)]
    names: list[str] = []
    token = ""
    while True:
        request = ListAssignmentsRequest(page_size=2, page_token=token, filter='role == "member"')
        page = await house.call("service:test", "IamAdminService.ListAssignments", request, ListAssignmentsResponse)
        names += [each.principal for each in page.assignments]
        token = page.next_page_token
        if not token:
            break
    assert names == users
