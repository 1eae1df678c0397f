"""Users over their pipeline, with the policies that every organization begins with."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from taskman_sdk.codec import FieldMask
from taskman_sdk.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from taskman_sdk.proto.taskman.iam.v1.iam_pb import (
    CreatePolicyRequest,
    Effect,
    Policy,
    ProvisionPrincipalRequest,
    ProvisionPrincipalResponse,
)
from taskman_sdk.proto.taskman.user.v1.user_pb import (
    ActivateUserRequest,
    BatchGetUsersRequest,
    BatchGetUsersResponse,
    CreateUserRequest,
    DeactivateUserRequest,
    GetMeRequest,
    GetUserRequest,
    ListUsersRequest,
    ListUsersResponse,
    ProvisionUserRequest,
    ProvisionUserResponse,
    UpdateUserRequest,
    User,
)
from taskman_server.kit.rpc import ANONYMOUS, Principal, service_principal
from tests.store.authentication.harness import House, open_house
from tests.store.databases import Databases

AUTHENTICATION = service_principal("authentication", "")


async def _provision(
    house: House, address: str, *, registration: str = "", role: str = "member", caller: Principal = AUTHENTICATION
) -> ProvisionUserResponse:
    request = ProvisionUserRequest(
        email=address, display_name=address.partition("@")[0].title(), registration=registration, default_role=role
    )
    return await house.call("UserService.ProvisionUser", request, ProvisionUserResponse, caller=caller)


async def person(house: House, address: str, *roles: str, organization: str = "") -> Principal:
    """A user with roles, known to the Authorization service."""
    caller = service_principal("authentication", organization)
    answer = await _provision(house, address, role=roles[0] if roles else "member", caller=caller)
    assert answer.user is not None
    for role in roles or ("member",):
        request = ProvisionPrincipalRequest(principal=answer.user.id, organization=answer.organization, role=role)
        await house.call("IamAdminService.ProvisionPrincipal", request, ProvisionPrincipalResponse, caller=caller)
    await house.settled()
    return Principal(answer.user.id, "user", answer.organization)


async def _get(house: House, caller: Principal, user: str) -> User:
    return await house.call("UserService.GetUser", GetUserRequest(user=user), User, caller=caller)


async def _update(house: House, caller: Principal, user: User, *paths: str) -> User:
    request = UpdateUserRequest(user=user, update_mask=FieldMask(paths=list(paths)) if paths else None)
    return await house.call("UserService.UpdateUser", request, User, caller=caller)


async def _create(house: House, caller: Principal, user: User) -> User:
    return await house.call("UserService.CreateUser", CreateUserRequest(user=user), User, caller=caller)


async def _list(house: House, caller: Principal, **values: object) -> ListUsersResponse:
    request = ListUsersRequest(**values)  # type: ignore[arg-type]
    return await house.call("UserService.ListUsers", request, ListUsersResponse, caller=caller)


async def _names(house: House, caller: Principal, **values: object) -> list[str]:
    return [user.email.partition("@")[0] for user in (await _list(house, caller, **values)).users]


async def test_an_administrator_creates_a_user_in_the_own_organization(house: House) -> None:
    """USER-1: the organization is the caller's; what the server decides cannot be given."""
    root = await person(house, "root@example.com", "admin", organization="org_one")
    given = User(
        id="user_mine", email="Ann@EXAMPLE.com", display_name="  Ann \t Example ", state="deactivated", locale="de"
    )
    ann = await _create(house, root, given)
    assert ann.id.startswith("user_")
    assert ann.id != "user_mine"
    assert (ann.email, ann.display_name, ann.state, ann.locale) == ("ann@example.com", "Ann Example", "active", "de")
    assert await _get(house, root, ann.id) == ann
    created = await house.events("user.created")
    assert created[-1].organization == "org_one"
    assert (created[-1].data["default_role"], created[-1].actor) == ("member", root.id)
    assert "registration" not in created[-1].data


async def test_an_address_has_one_user_in_all_organizations(house: House) -> None:
    """OPEN-POINTS 3: sign-in stays unambiguous."""
    one = await person(house, "one@example.com", "admin", organization="org_one")
    two = await person(house, "two@example.com", "admin", organization="org_two")
    await _create(house, one, User(email="ann@example.com", display_name="Ann"))
    for caller in (one, two):
        with pytest.raises(AlreadyExistsError) as caught:
            await _create(house, caller, User(email="ANN@example.com", display_name="Ann"))
        assert caught.value.reason == "EMAIL_TAKEN"
        assert "org_" not in str(caught.value)


@pytest.mark.parametrize(
    ("user", "field"),
    [
        (User(display_name="Ann"), "user.email"),
        (User(email="ann@example.com"), "user.display_name"),
        (User(email="ann@example.com", display_name=" \n "), "user.display_name"),
        (User(email="ann@example.com", display_name="Ann", time_zone="Mars/Olympus"), "user.time_zone"),
        (User(email="ann@example.com", display_name="Ann", locale="not a tag"), "user.locale"),
    ],
)
async def test_what_is_wrong_with_a_user_is_named(house: House, user: User, field: str) -> None:
    """USER-1, GATE-1."""
    root = await person(house, "root@example.com", "admin")
    with pytest.raises(InvalidArgumentError) as caught:
        await _create(house, root, user)
    assert [violation.field for violation in caught.value.field_violations] == [field]


async def test_a_member_reads_users_changes_the_own_profile_and_nothing_else(house: House) -> None:
    """USER-1, IAM-1: the policies that ship with the system."""
    ann, bob = await person(house, "ann@example.com"), await person(house, "bob@example.com")
    assert (await _get(house, ann, bob.id)).email == "bob@example.com"
    changed = await _update(house, ann, User(id="me", display_name="Ann B.", time_zone="Europe/Berlin"))
    assert (changed.id, changed.display_name, changed.time_zone) == (ann.id, "Ann B.", "Europe/Berlin")
    with pytest.raises(PermissionDeniedError):
        await _update(house, ann, User(id=bob.id, display_name="Mine"))
    with pytest.raises(PermissionDeniedError):
        await _create(house, ann, User(email="new@example.com", display_name="New"))
    request = DeactivateUserRequest(user=bob.id)
    with pytest.raises(PermissionDeniedError):
        await house.call("UserService.DeactivateUser", request, User, caller=ann)
    assert (await _get(house, bob, "me")).display_name == "Bob"


async def test_another_organization_is_not_there(house: House) -> None:
    """USER-1: 404 for an administrator too, by whatever way; no list and no batch shows it."""
    one = await person(house, "one@example.com", "admin", organization="org_one")
    two = await person(house, "two@example.com", "admin", organization="org_two")
    for attempt in (
        _get(house, one, two.id),
        _update(house, one, User(id=two.id, display_name="Mine")),
        house.call("UserService.DeactivateUser", DeactivateUserRequest(user=two.id), User, caller=one),
    ):
        with pytest.raises(NotFoundError) as caught:
            await attempt
        assert caught.value.reason == "USER_NOT_FOUND"
    assert await _names(house, one) == ["one"]
    request = BatchGetUsersRequest(users=[two.id, one.id], emails=["two@example.com"])
    answer = await house.call("UserService.BatchGetUsers", request, BatchGetUsersResponse, caller=one)
    assert [user.id for user in answer.users] == [one.id]


async def test_a_change_needs_the_etag_that_was_seen_where_one_is_sent(house: House) -> None:
    """USER-1, AIP-154: and of changes at the same time one wins."""
    ann = await person(house, "ann@example.com")
    seen = await _get(house, ann, "me")
    house.clock.advance(5)
    changed = await _update(house, ann, User(id=ann.id, locale="de", etag=seen.etag))
    assert changed.etag != seen.etag
    assert changed.update_time != seen.update_time
    assert changed.create_time == seen.create_time
    with pytest.raises(AbortedError) as caught:
        await _update(house, ann, User(id=ann.id, locale="fr", etag=seen.etag))
    assert caught.value.reason == "ETAG_MISMATCH"
    results = await asyncio.gather(
        *(_update(house, ann, User(id=ann.id, locale=tag, etag=changed.etag)) for tag in ("fr", "it", "es")),
        return_exceptions=True,
    )
    assert sum(isinstance(result, AbortedError) for result in results) == 2


async def test_a_mask_says_what_changes_and_can_empty_a_field(house: House) -> None:
    """USER-1, AIP-134."""
    ann = await person(house, "ann@example.com")
    await _update(house, ann, User(id=ann.id, locale="de", time_zone="UTC"))
    given = User(id=ann.id, display_name="Ann X", time_zone="Asia/Tokyo")
    changed = await _update(house, ann, given, "display_name", "locale")
    assert (changed.display_name, changed.locale, changed.time_zone) == ("Ann X", "", "UTC")
    with pytest.raises(InvalidArgumentError) as caught:
        await _update(house, ann, User(id=ann.id, email="mallory@example.com"), "email")
    assert caught.value.reason == "UPDATE_MASK_INVALID"
    updates = await house.events("user.updated")
    assert updates[-1].data["changed_fields"] == ["display_name", "locale"]
    assert (updates[-1].data["before"]["locale"], updates[-1].data["user"]["display_name"]) == ("de", "Ann X")
    same = await _update(house, ann, User(id=ann.id, display_name="Ann X"))
    assert same == changed
    assert len(await house.events("user.updated")) == len(updates)


async def test_deactivating_is_done_once_and_not_to_oneself(house: House) -> None:
    """USER-1."""
    root, ann = await person(house, "root@example.com", "admin"), await person(house, "ann@example.com")
    for _ in range(2):
        request = DeactivateUserRequest(user=ann.id)
        answer = await house.call("UserService.DeactivateUser", request, User, caller=root)
        assert answer.state == "deactivated"
    (event,) = await house.events("user.deactivated")
    assert (event.subject, event.actor, event.data["changed_fields"]) == (ann.id, root.id, ["state"])
    for name in ("me", root.id):
        with pytest.raises(FailedPreconditionError) as caught:
            await house.call("UserService.DeactivateUser", DeactivateUserRequest(user=name), User, caller=root)
        assert caught.value.reason == "SELF_DEACTIVATION"


async def test_letting_in_again_is_done_once_and_told(house: House) -> None:
    """USER-1: the permission is that of shutting out; whoever is in already stays as they are."""
    root, ann = await person(house, "root@example.com", "admin"), await person(house, "ann@example.com")
    request = ActivateUserRequest(user=ann.id)
    assert (await house.call("UserService.ActivateUser", request, User, caller=root)).state == "active"
    assert await house.events("user.activated") == []
    await house.call("UserService.DeactivateUser", DeactivateUserRequest(user=ann.id), User, caller=root)
    for _ in range(2):
        assert (await house.call("UserService.ActivateUser", request, User, caller=root)).state == "active"
    (event,) = await house.events("user.activated")
    assert (event.subject, event.actor, event.data["changed_fields"]) == (ann.id, root.id, ["state"])
    with pytest.raises(PermissionDeniedError):
        await house.call("UserService.ActivateUser", ActivateUserRequest(user=root.id), User, caller=ann)


async def test_users_are_not_created_where_that_would_tell_who_is_elsewhere(databases: Databases) -> None:
    """USER-1: with an organization for each sign-up, a taken address is answered like any other one."""
    async with open_house(databases, signup="organization") as house:
        boss = await person(house, "boss@example.com", "admin", organization="org_b")
        root = await person(house, "root@example.com", "admin", organization="default")
        errors = []
        for address in ("root@example.com", "boss@example.com", "free@example.com"):
            with pytest.raises(FailedPreconditionError) as caught:
                await _create(house, boss, User(email=address, display_name="X"))
            assert caught.value.reason == "INVITATIONS_NEEDED"
            errors.append(caught.value.message)
        assert len(set(errors)) == 1
        free = User(email="free@example.com", display_name="X")
        assert (await _create(house, root, free)).email == "free@example.com"


async def test_getting_oneself_needs_no_right(house: House) -> None:
    """USER-1."""
    answer = await _provision(house, "ann@example.com")
    assert answer.user is not None
    ann = Principal(answer.user.id, "user", answer.organization)
    me = await house.call("UserService.GetMe", GetMeRequest(), User, caller=ann)
    assert me == answer.user
    stranger = Principal("user_nobody", "user", "default")
    with pytest.raises(NotFoundError):
        await house.call("UserService.GetMe", GetMeRequest(), User, caller=stranger)


async def _crowd(house: House) -> Principal:
    """Five people, one second apart."""
    caller = await person(house, "eve@example.com")
    for name in ("dora", "carl", "bob", "ann"):
        house.clock.advance(1)
        await _provision(house, f"{name}@example.com")
    return caller


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("", ["eve", "dora", "carl", "bob", "ann"]),
        ("create_time desc", ["ann", "bob", "carl", "dora", "eve"]),
        ("display_name", ["ann", "bob", "carl", "dora", "eve"]),
        ("email desc", ["eve", "dora", "carl", "bob", "ann"]),
    ],
)
async def test_a_list_comes_in_order_page_by_page(house: House, order: str, names: Sequence[str]) -> None:
    """USER-1, AIP-158: every user once, whatever the page size."""
    eve = await _crowd(house)
    assert await _names(house, eve, order_by=order) == names
    found, token = [], ""
    while True:
        answer = await _list(house, eve, order_by=order, page_size=2, page_token=token)
        found += [user.email.partition("@")[0] for user in answer.users]
        token = answer.next_page_token
        if not token:
            break
    assert found == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('email.startsWith("a") || display_name == "Bob"', ["bob", "ann"]),
        ('state == "deactivated"', []),
        ("create_time < now", ["eve", "dora", "carl", "bob"]),
        ('email in ["carl@example.com", "x"]', ["carl"]),
    ],
)
async def test_a_filter_selects(house: House, text: str, names: Sequence[str]) -> None:
    """USER-1, AUTHZ-5: CEL in the WHERE."""
    eve = await _crowd(house)
    assert await _names(house, eve, filter=text) == names


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"filter": "email =="}, "filter"),
        ({"filter": "organization == 'x'"}, "filter"),
        ({"filter": "etag == 'x'"}, "filter"),
        ({"order_by": "state"}, "order_by"),
        ({"order_by": "email sideways"}, "order_by"),
        ({"page_token": "nonsense"}, "page_token"),
        ({"page_size": -1}, "page_size"),
    ],
)
async def test_a_list_that_cannot_be_made_names_the_field(house: House, values: dict[str, object], field: str) -> None:
    """USER-1, GATE-1."""
    eve = await person(house, "eve@example.com")
    with pytest.raises(InvalidArgumentError) as caught:
        await _list(house, eve, **values)
    assert [violation.field for violation in caught.value.field_violations] == [field]


async def test_a_page_token_belongs_to_its_query_and_its_organization(house: House) -> None:
    """USER-1, AIP-158."""
    eve = await _crowd(house)
    token = (await _list(house, eve, page_size=2)).next_page_token
    other = await person(house, "other@example.com", "admin", organization="org_two")
    for caller, values in ((eve, {"order_by": "email"}), (eve, {"filter": "true"}), (other, {})):
        with pytest.raises(InvalidArgumentError) as caught:
            await _list(house, caller, page_token=token, **values)
        assert caught.value.reason == "PAGE_TOKEN_INVALID"


async def test_a_policy_hides_users_from_lists_batches_and_reads_alike(house: House) -> None:
    """AUTHZ-5: one decision, in SQL and in Python."""
    root = await person(house, "root@example.com", "admin")
    eve = await _crowd(house)
    policy = Policy(
        name="no-bobs",
        effect=Effect.DENY,
        roles=["member"],
        permissions=["users.read"],
        condition='resource.email.startsWith("bob@") || resource.id == ""',
    )
    await house.call("IamAdminService.CreatePolicy", CreatePolicyRequest(policy=policy), Policy, caller=root)
    await house.settled()
    assert await _names(house, eve) == ["root", "eve", "dora", "carl", "ann"]
    assert "bob" in await _names(house, root)
    request = BatchGetUsersRequest(emails=["bob@example.com", "ann@example.com"])
    answer = await house.call("UserService.BatchGetUsers", request, BatchGetUsersResponse, caller=eve)
    assert [user.email for user in answer.users] == ["ann@example.com"]
    (bob,) = await house.rows("users", "users", email="bob@example.com")
    with pytest.raises(NotFoundError):
        await _get(house, eve, bob.id)


async def test_whoever_has_no_role_sees_nobody(house: House) -> None:
    """AUTHZ-1: deny by default."""
    await _crowd(house)
    nobody = Principal("user_01jzzzzzzzzzzzzzzzzzzzzzzz", "user", "default")
    with pytest.raises(PermissionDeniedError):
        await _list(house, nobody)


async def test_a_batch_keeps_the_order_and_leaves_out_the_unknown(house: House) -> None:
    """USER-1: ids first, then addresses, each user once."""
    await _crowd(house)
    rows = {row.email: row.id for row in await house.rows("users", "users")}
    ask = ["ann@example.com", "eve@example.com", "carl@example.com"]
    request = BatchGetUsersRequest(
        users=[*(rows[address] for address in ask), "user_nobody", rows[ask[0]]],
        emails=["BOB@example.com", "nothing", "ann@example.com"],
    )
    caller = service_principal("tasks", "default")
    answer = await house.call("UserService.BatchGetUsers", request, BatchGetUsersResponse, caller=caller)
    assert [user.email for user in answer.users] == [*ask, "bob@example.com"]


async def test_a_registration_makes_one_user_however_often_it_is_asked(house: House) -> None:
    """EVENT-1: idempotent by registration; another one of the address gets `created` false."""
    answers = await asyncio.gather(
        *(_provision(house, "ann@example.com", registration="registration_1") for _ in range(5))
    )
    assert len({answer.user.id for answer in answers if answer.user}) == 1
    assert all(answer.created for answer in answers)
    other = await _provision(house, "ANN@example.com", registration="registration_2")
    assert (other.created, other.user) == (False, answers[0].user)
    (event,) = await house.events("user.created")
    assert (event.data["registration"], event.data["default_role"]) == ("registration_1", "member")
    assert answers[0].user is not None
    assert (event.actor, event.organization) == (answers[0].user.id, "default")


@pytest.mark.parametrize(
    ("signup", "caller", "organization"),
    [
        ("open", "", "default"),
        ("closed", "default", "default"),
        ("organization", "default", "default"),
        ("organization", "", "org_"),
    ],
)
async def test_the_settings_say_where_a_sign_up_lands(
    databases: Databases, signup: str, caller: str, organization: str
) -> None:
    """OPEN-POINTS 22: unless the calling service speaks for an organization."""
    async with open_house(databases, events=False, signup=signup) as house:
        principal = service_principal("authentication", caller)
        answers = [await _provision(house, f"{name}@example.com", caller=principal) for name in ("ann", "bob")]
        assert all(answer.organization.startswith(organization) for answer in answers)
        assert (answers[0].organization == answers[1].organization) == (organization == "default")


async def test_provisioning_is_for_services_alone(house: House) -> None:
    """GATE-2."""
    ann = await person(house, "ann@example.com", "admin")
    with pytest.raises(PermissionDeniedError):
        await _provision(house, "bob@example.com", caller=ann)
    assert ANONYMOUS.type == "anonymous"


async def test_a_creation_is_repeated_safely_with_its_key(house: House) -> None:
    """GATE-5: the same answer, one user, one event."""
    root = await person(house, "root@example.com", "admin")
    request = CreateUserRequest(user=User(email="new@example.com", display_name="New"))
    answers = [
        await house.call("UserService.CreateUser", request, User, caller=root, idempotency_key="key-1")
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert len(await house.events("user.created")) == 2
