"""Two processes of IAM, Users and Authorization on one database each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from taskman_sdk.codec import FieldMask
from taskman_sdk.errors import AbortedError, AlreadyExistsError, FailedPreconditionError, TaskManError
from taskman_sdk.proto.taskman.iam.v1.iam_pb import (
    Assignment,
    DeleteAssignmentRequest,
    DeleteAssignmentResponse,
    DeleteRoleRequest,
    DeleteRoleResponse,
    Policy,
    ProvisionPrincipalRequest,
    ProvisionPrincipalResponse,
    Role,
    UpdateRoleRequest,
)
from taskman_sdk.proto.taskman.user.v1.user_pb import User
from taskman_server.kit.event_tables import OUTBOX
from taskman_server.kit.events import Event
from taskman_server.services.iam import rules
from taskman_server.services.iam.store import ASSIGNMENTS, POLICIES, ROLES, IamStore
from tests.store.databases import Databases
from tests.store.iam.harness import ORGANIZATION, House, open_house
from tests.store.iam.test_shut_out import shut_out

pytestmark = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
Pair = tuple[House, House]
ROUNDS = 6


@pytest.fixture
async def pair(databases: Databases, house: House) -> AsyncIterator[Pair]:
    """Two processes of each service; the second leaves its events to the first."""
    async with open_house(databases, beside=house) as other:
        yield house, other


def kinds(results: Sequence[Any]) -> list[str]:
    """What came of calls."""
    assert all(not isinstance(each, BaseException) or isinstance(each, TaskManError) for each in results), results
    return sorted(type(each).__name__ for each in results)


async def test_two_administrators_who_take_each_other_s_role_leave_one(pair: Pair) -> None:
    """IAM-1: an organization keeps an administrator."""
    house = pair[0]
    for turn in range(ROUNDS):
        organization = f"org_{turn}"
        one, two = [await house.user(organization=organization) for _ in pair]
        given = [await house.assign(each, "admin", organization=organization) for each in (one, two)]
        await house.settle()
        results = await asyncio.gather(
            *(
                each.call(
                    by,
                    "IamAdminService.DeleteAssignment",
                    DeleteAssignmentRequest(assignment=taken.id),
                    DeleteAssignmentResponse,
                    organization=organization,
                )
                for each, by, taken in zip(pair, (one, two), reversed(given), strict=True)
            ),
            return_exceptions=True,
        )
        assert kinds(results) == [DeleteAssignmentResponse.__name__, FailedPreconditionError.__name__]
        left = await IamStore(house.runtimes["iam"].db).holders(organization, "admin")
        assert len(left) == 1


async def test_two_administrators_who_shut_each_other_out_leave_one(pair: Pair) -> None:
    """IAM-1."""
    for _ in range(ROUNDS):
        one, two = [await pair[0].user("admin") for _ in pair]
        results = await asyncio.gather(shut_out(pair[0], two, one), shut_out(pair[1], one, two), return_exceptions=True)
        assert kinds(results).count(User.__name__) == 1, results
        (gone,) = [each for each in results if isinstance(each, User)]
        left = one if gone.id == two else two
        await pair[0].settle()
        with pytest.raises(FailedPreconditionError):
            await shut_out(pair[1], left, "service:test")
        await shut_out(pair[1], gone.id, "service:test", "Activate")
        for user in (one, two):  # for the next round
            await pair[0].runtimes["iam"].db.execute(sa.delete(ASSIGNMENTS).where(ASSIGNMENTS.c.principal == user))


async def test_versions_are_in_the_order_of_commits_and_none_is_left_out(pair: Pair) -> None:
    """AUTHZ-4, EVENT-1: what the copy is made from."""
    await asyncio.gather(
        *(pair[n % 2].role(f"role-{n}", "tasks.read") for n in range(10)),
        *(pair[n % 2].policy(f"policy-{n}", ["tasks.read"]) for n in range(10)),
    )
    pair[0].relays["iam"].wake()
    await pair[0].settle()
    told = [event.data["version"] for event in pair[0].events if event.name.startswith("iam.")]
    assert sorted(map(int, told)) == list(range(1, 21))
    assert await IamStore(pair[0].runtimes["iam"].db).version(ORGANIZATION) == 20


async def test_a_principal_gets_one_first_role(pair: Pair) -> None:
    """USER-1: both answers name it."""
    request = ProvisionPrincipalRequest(principal="user_new", organization=ORGANIZATION, role="member")
    for turn in range(ROUNDS):
        request = ProvisionPrincipalRequest(principal=f"user_{turn}", organization=ORGANIZATION, role="member")
        one, two = await asyncio.gather(
            *(
                house.call(
                    "service:authentication", "IamAdminService.ProvisionPrincipal", request, ProvisionPrincipalResponse
                )
                for house in pair
            )
        )
        assert one.assignment == two.assignment is not None
    rows = await pair[0].runtimes["iam"].db.fetch_all(sa.select(ASSIGNMENTS))
    assert len(rows) == ROUNDS


async def test_a_role_that_is_given_is_not_deleted(pair: Pair) -> None:
    """IAM-1: whoever is first; no assignment names a role that is gone."""
    house = pair[0]
    user = await house.user()
    for turn in range(ROUNDS):
        role = await house.role(f"role-{turn}", "tasks.read")
        delete = DeleteRoleRequest(role=role.id)
        results = await asyncio.gather(
            house.assign(user, role.name),
            pair[1].call("service:test", "IamAdminService.DeleteRole", delete, DeleteRoleResponse),
            return_exceptions=True,
        )
        assert len([each for each in results if isinstance(each, TaskManError)]) == 1, kinds(list(results))
    iam = house.runtimes["iam"].db
    roles = {row.name for row in await iam.fetch_all(sa.select(ROLES.c.name))}
    given = {row.role for row in await iam.fetch_all(sa.select(ASSIGNMENTS.c.role))}
    assert given <= {*roles, "member"}


async def test_an_assignment_and_a_name_are_given_once(pair: Pair) -> None:
    """IAM-1."""
    user = await pair[0].user()
    for turn in range(ROUNDS):
        results = await asyncio.gather(
            *(house.role(f"role-{turn}", "tasks.read") for house in pair), return_exceptions=True
        )
        assert kinds(list(results)) == [AlreadyExistsError.__name__, Role.__name__]
        results = await asyncio.gather(*(house.assign(user, f"role-{turn}") for house in pair), return_exceptions=True)
        assert kinds(list(results)) == [AlreadyExistsError.__name__, Assignment.__name__]


async def test_of_two_changes_by_one_etag_one_is_made_and_told_of(pair: Pair) -> None:
    """AIP-154, EVENT-1."""
    role = await pair[0].role("kept", "tasks.read")
    for turn in range(ROUNDS):

        async def change(house: House, text: str, seen: Role = role) -> Role:
            wanted = Role(id=seen.id, description=text, etag=seen.etag)
            request = UpdateRoleRequest(role=wanted, update_mask=FieldMask(paths=["description"]))
            return await house.call("service:test", "IamAdminService.UpdateRole", request, Role)

        results = await asyncio.gather(
            *(change(house, f"{turn} {n}") for n, house in enumerate(pair)), return_exceptions=True
        )
        assert kinds(list(results)) == [AbortedError.__name__, Role.__name__]
        (role,) = [each for each in results if isinstance(each, Role)]


async def test_policies_that_do_not_fit_together_do_not_come_about_at_once(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AUTHZ-2: each fits to what there was, both do not: one is refused."""

    def one_is_enough(policy: Policy, others: list[Policy]) -> None:
        if any(not each.system for each in others):
            raise FailedPreconditionError("too many", reason="POLICIES_TOO_COMPLEX")

    monkeypatch.setattr(rules, "check_fits_together", one_is_enough)
    results = await asyncio.gather(
        *(pair[n % 2].policy(f"p{n}", ["tasks.read"]) for n in range(6)), return_exceptions=True
    )
    assert kinds(list(results)).count(Policy.__name__) == 1
    assert len(await pair[0].runtimes["iam"].db.fetch_all(sa.select(POLICIES))) == 1


async def test_the_outbox_is_in_the_order_of_versions(pair: Pair) -> None:
    """EVENT-1: of one role, and so of everything of the organization."""
    for consumer in pair[0].consumers.values():
        await consumer.stop()
    for relay in pair[0].relays.values():
        await relay.stop()
    await asyncio.gather(*(pair[n % 2].role(f"role-{n}", "tasks.read") for n in range(20)))
    rows = await pair[0].runtimes["iam"].db.fetch_all(sa.select(OUTBOX.c.envelope).order_by(OUTBOX.c.sequence))
    told = [int(Event.from_json(row.envelope).data["version"]) for row in rows]
    assert told == list(range(1, 21))
