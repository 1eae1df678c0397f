"""Signing up across three services: alike for every address, and whole again after a crash at any point."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from taskman_sdk import codec, contract
from taskman_sdk.errors import InvalidArgumentError, PermissionDeniedError, UnauthenticatedError, UnavailableError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import RegisterRequest
from taskman_sdk.proto.taskman.iam.v1.iam_pb import ListAssignmentsRequest, ListAssignmentsResponse
from taskman_sdk.proto.taskman.user.v1.user_pb import GetMeRequest, User
from taskman_server.kit.crypto import PasswordHasher
from taskman_server.kit.outbox import RejectEvent
from taskman_server.kit.rpc import CallOptions, Channel, service_principal
from taskman_server.services.authentication.handlers.registration import BEAT
from tests.store.authentication.harness import PASSWORD, House, open_house
from tests.store.databases import Databases


class Cut:
    """A channel that fails for one RPC, before or after the service behind it has done its work."""

    def __init__(self, behind: Channel, name: str, *, after: bool = False) -> None:
        self._behind = behind
        self._name = name
        self._after = after

    async def unary(
        self, method: contract.Method, request: codec.Message[Any], options: CallOptions
    ) -> codec.Message[Any]:
        """Answers an RPC."""
        if method.name != self._name:
            return await self._behind.unary(method, request, options)
        if self._after:
            await self._behind.unary(method, request, options)
        raise UnavailableError("the line was cut")

    def stream(self, method: contract.Method, request: codec.Message[Any], options: CallOptions) -> Any:
        """No RPC here streams."""
        return self._behind.stream(method, request, options)


def _cut(house: House, area: str, name: str, *, after: bool = False) -> Channel:
    """Cuts the line for one RPC; answers the whole line."""
    behind = house.channels._by_area[area]
    house.channels.add(area, Cut(behind, name, after=after))
    return behind


async def test_a_new_account_can_be_used_at_once(house: House) -> None:
    """AUTHN-1: signed up, signed in, with a role, before any event has arrived anywhere."""
    answer = await house.register("Ann@Example.com")
    assert answer.email == "ann@example.com"
    tokens = await house.login("ann@example.com")
    me = await house.call("UserService.GetMe", GetMeRequest(), User, token=tokens.access_token)
    assert (me.email, me.display_name, me.state) == ("ann@example.com", "Ann Example", "active")
    assignments = await house.call(
        "IamAdminService.ListAssignments",
        ListAssignmentsRequest(filter=f'principal == "{me.id}"'),
        ListAssignmentsResponse,
        caller=service_principal("tests", "default"),
    )
    assert [(each.principal, each.role) for each in assignments.assignments] == [(me.id, "member")]
    assert await house.rows("authentication", "registrations") == []


async def test_a_known_address_gets_the_same_answer_and_its_owner_is_told(house: House) -> None:
    """AUTHN-5: same body; nothing is changed; one event for the owner's mail."""
    first = await house.register("ann@example.com")
    again = await house.register("ANN@example.com", "another-fine-otter", "Mallory")
    assert first == again
    with pytest.raises(UnauthenticatedError):
        await house.login("ann@example.com", "another-fine-otter")
    await house.login("ann@example.com")
    (user,) = await house.rows("users", "users")
    assert user.display_name == "Ann Example"
    assert await house.rows("authentication", "registrations") == []
    await house.register("ann@example.com")
    (event,) = await house.events("auth.registration.repeated")  # not a mail for every try
    assert (event.data["user"], event.organization) == (user.id, "default")
    house.clock.advance(601)
    await house.register("ann@example.com")
    assert len(await house.events("auth.registration.repeated")) == 2


async def test_a_known_address_takes_as_long_as_a_new_one(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AUTHN-5: both hash, and both answers leave on the next beat after that."""
    hashed = 0.0
    original = PasswordHasher.hash

    async def hash_and_note(self: PasswordHasher, password: str) -> str:
        nonlocal hashed
        answer = await original(self, password)
        hashed = time.perf_counter()
        return answer

    monkeypatch.setattr(PasswordHasher, "hash", hash_and_note)
    async with open_house(databases, password_hash="standard") as house:
        await house.register("ann@example.com")
        spent: dict[str, list[float]] = {"known": [], "new": []}
        for number in range(5):
            for kind, email in (("known", "ann@example.com"), ("new", f"new{number}@example.com")):
                await house.settled()
                hashed = 0.0
                await house.register(email)
                spent[kind].append(time.perf_counter() - hashed)
        # The quickest of each: what a busy machine adds to the others says nothing about the address.
        assert {kind: round(min(times) / BEAT) for kind, times in spent.items()} == {"known": 1, "new": 1}, spent


async def test_no_password_leaves_the_service(house: House) -> None:
    """OPEN-POINTS 2: neither events nor the other services' databases hold a password or its hash."""
    await house.person("ann@example.com")
    (row,) = await house.rows("authentication", "credentials")
    await house.settled()
    users = await house.rows("users", "users")
    everything = "".join(event.to_json() for event in house.heard) + str(users)
    assert house.heard
    assert PASSWORD not in everything
    assert "argon2" not in everything
    assert row.password_hash.startswith("$argon2id$")


@pytest.mark.parametrize(("signup", "reason"), [("closed", "SIGNUP_CLOSED"), ("invite", "SIGNUP_CLOSED")])
async def test_where_sign_up_is_closed_nobody_gets_in(databases: Databases, signup: str, reason: str) -> None:
    """OPEN-POINTS 22: the answer is the same for every address, and nothing was looked up."""
    async with open_house(databases, events=False, signup=signup) as house:
        for email in ("ann@example.com", "bob@example.com"):
            with pytest.raises(PermissionDeniedError) as caught:
                await house.register(email)
            assert caught.value.reason == reason
        assert await house.rows("users", "users") == []


async def test_each_sign_up_can_have_an_organization_of_its_own(databases: Databases) -> None:
    """OPEN-POINTS 22: `organization`; its first user administers it and cannot see another's."""
    async with open_house(databases, signup="organization") as house:
        _, ann = await house.person("ann@example.com")
        _, bob = await house.person("bob@example.com")
        assert ann.organization.startswith("org_")
        assert ann.organization != bob.organization
        created = await house.events("user.created")
        assert [event.data["default_role"] for event in created] == ["admin", "admin"]
        assert [event.organization for event in created] == [ann.organization, bob.organization]


@pytest.mark.parametrize("password", ["password123", "ann@example.com", "Ann Example", "aaaaaaaa"])
async def test_a_guessable_password_is_refused_for_every_address_alike(house: House, password: str) -> None:
    """AUTHN-5, AUTHN-7."""
    await house.register("ann@example.com")
    errors = []
    for email in ("ann@example.com", "new@example.com"):
        with pytest.raises(InvalidArgumentError) as caught:
            await house.register(email, password if "@" not in password else email)
        caught.value.request_id = ""
        errors.append(caught.value)
    assert errors[0] == errors[1]
    assert errors[0].field_violations[0].field == "password"


async def test_two_sign_ups_of_one_address_at_once_make_one_account(house: House) -> None:
    """USER-1: e-mail unique; one of the two passwords, never a mixture."""
    passwords = ["the-first-of-otters", "the-second-of-otters"]
    answers = await asyncio.gather(*(house.register("ann@example.com", password) for password in passwords))
    assert answers[0] == answers[1]
    assert len(await house.rows("users", "users")) == 1
    results = await asyncio.gather(
        *(house.login("ann@example.com", password) for password in passwords), return_exceptions=True
    )
    assert sum(isinstance(result, UnauthenticatedError) for result in results) == 1


async def test_a_crash_between_user_and_password_is_repaired_by_the_event(house: House) -> None:
    """EVENT-1: the user was made, the answer never came; the event finds the pending registration."""
    whole = _cut(house, "user", "ProvisionUser", after=True)
    with pytest.raises(UnavailableError):
        await house.register("ann@example.com")
    house.channels.add("user", whole)
    await house.settled()
    tokens = await house.login("ann@example.com")
    me = await house.call("UserService.GetMe", GetMeRequest(), User, token=tokens.access_token)
    assert me.email == "ann@example.com"
    assert await house.rows("authentication", "registrations") == []


async def test_a_sign_up_that_never_reached_the_users_leaves_nothing_behind(house: House) -> None:
    """EVENT-1: it may be tried again; what was put down for it is forgotten after a day."""
    whole = _cut(house, "user", "ProvisionUser")
    with pytest.raises(UnavailableError):
        await house.register("ann@example.com")
    house.channels.add("user", whole)
    assert len(await house.rows("authentication", "registrations")) == 1
    await house.register("ann@example.com", "the-second-of-otters")
    await house.login("ann@example.com", "the-second-of-otters")
    house.clock.advance(2 * 86400)
    _, housekeeper = house.services["authentication"].parts.workers
    await housekeeper.tidy()  # type: ignore[attr-defined]
    assert await house.rows("authentication", "registrations") == []


async def test_without_iam_the_account_is_made_and_its_role_comes_with_the_event(house: House) -> None:
    """EVENT-1: the direct call is for speed alone, and a failure of it tells nobody that the address was new."""
    whole = _cut(house, "iam", "ProvisionPrincipal")
    await house.register("ann@example.com")
    house.channels.add("iam", whole)
    await house.settled()
    answer = await house.call(
        "IamAdminService.ListAssignments",
        ListAssignmentsRequest(),
        ListAssignmentsResponse,
        caller=service_principal("tests", "default"),
    )
    assert [each.role for each in answer.assignments] == ["member"]


async def test_the_event_of_a_user_may_come_twice_or_late(house: House) -> None:
    """EVENT-1: the empty record is made once, and never takes a password away."""
    await house.register("ann@example.com")
    await house.settled()
    (event,) = await house.events("user.created")
    before = await house.rows("authentication", "credentials")
    runtime = house.runtime("authentication")
    (subscription,) = house.services["authentication"].parts.subscriptions
    async with runtime.db.transaction() as tx:
        await subscription.handler(event, tx)
    assert await house.rows("authentication", "credentials") == before


async def test_an_event_that_names_nobody_is_given_up(house: House) -> None:
    """EVENT-2: it goes to the dead letters, not around for ever."""
    await house.register("ann@example.com")
    (event,) = await house.events("user.created")
    runtime = house.runtime("authentication")
    (subscription,) = house.services["authentication"].parts.subscriptions
    for broken in (replace(event, data={}), replace(event, organization="")):
        with pytest.raises(RejectEvent):
            async with runtime.db.transaction() as tx:
                await subscription.handler(broken, tx)


async def test_a_request_is_checked_before_anything_is_done(house: House) -> None:
    """GATE-1."""
    for request in (
        RegisterRequest(email="nothing", password=PASSWORD, display_name="A"),
        RegisterRequest(email="a@example.com", password="short", display_name="A"),
        RegisterRequest(email="a@example.com", password=PASSWORD),
    ):
        with pytest.raises(InvalidArgumentError):
            await house.call("AuthenticationService.Register", request, User)
