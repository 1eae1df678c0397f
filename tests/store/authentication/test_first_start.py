"""A deployment whose last administrator is gone gets one again at its next start (OPS-1, IAM-1)."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from taskman_sdk.errors import AlreadyExistsError, InvalidArgumentError, UnauthenticatedError
from taskman_sdk.proto.taskman.user.v1.user_pb import ActivateUserRequest, DeactivateUserRequest, User
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.kit.rpc import service_principal
from taskman_server.services.authentication import ensure_administrator, issue_setup_token
from taskman_server.services.iam.store import ASSIGNMENTS
from taskman_server.services.users.store import USERS
from tests.store.authentication.harness import PASSWORD, House
from tests.store.authentication.test_passwords import _roles, _set_up

ROOT = "root@example.com"
SERVICE = service_principal("tests", "default")


async def _lose(house: House, user: str, *, role: bool = False) -> None:
    """Nobody can do this by an API: an earlier release, or somebody at the database, has."""
    users = house.runtime("users").db
    # Who does so opens the file too.
    other = SqliteDatabase(users.path, alone=False) if isinstance(users, SqliteDatabase) else users
    async with other.transaction() as tx:
        await tx.execute(update(USERS).where(USERS.c.id == user).values(state="deactivated"))
        tx.invalidate()
    if other is not users:
        await other.close()
    if role:
        async with house.runtime("iam").db.transaction() as tx:
            await tx.execute(update(ASSIGNMENTS).where(ASSIGNMENTS.c.principal == user).values(role="viewer"))


@pytest.mark.parametrize("role", [False, True])
async def test_the_settings_administrator_is_let_in_again_when_nobody_is_left(house: House, role: bool) -> None:
    """OPS-1: the same person with the same password; as long as there is another one, nothing is done."""
    runtime = house.runtime("authentication")
    user = await ensure_administrator(runtime, ROOT, PASSWORD)
    await _lose(house, user, role=role)
    assert await ensure_administrator(runtime, ROOT, "a-new-otter-for-77") == user
    await house.settled()
    assert "admin" in await _roles(house, user)
    assert (await house.validate((await house.login(ROOT)).access_token)).id == user
    before = await _roles(house, user)
    assert await ensure_administrator(runtime, "other@example.com", PASSWORD) == user
    assert await _roles(house, user) == before


async def test_another_settings_administrator_is_made_when_nobody_is_left(house: House) -> None:
    """OPS-1: not of somebody who signed up with that address."""
    runtime = house.runtime("authentication")
    first = await ensure_administrator(runtime, ROOT, PASSWORD)
    await house.register("ann@example.com")
    await _lose(house, first)
    with pytest.raises(AlreadyExistsError):
        await ensure_administrator(runtime, "ann@example.com", PASSWORD)
    second = await ensure_administrator(runtime, "second@example.com", PASSWORD)
    assert second != first
    await house.settled()
    assert await _roles(house, second) == ["admin"]
    assert await ensure_administrator(runtime, ROOT, PASSWORD) == second
    # The one made first by these settings comes back by them too, although no longer the last one noted.
    await _lose(house, second)
    await _lose(house, first, role=True)
    assert await ensure_administrator(runtime, ROOT, PASSWORD) == first
    await house.settled()
    assert "admin" in await _roles(house, first)
    await house.login(ROOT)


async def test_a_set_up_token_is_issued_again_when_nobody_is_left(house: House) -> None:
    """OPS-1: and is void as soon as there is an administrator again."""
    runtime = house.runtime("authentication")
    token = await issue_setup_token(runtime)
    assert token is not None
    first = await _set_up(house, token)
    assert await issue_setup_token(runtime) is None
    await _lose(house, first)
    void = await issue_setup_token(runtime)
    assert void is not None
    await house.call("UserService.ActivateUser", ActivateUserRequest(user=first), User, caller=SERVICE)
    assert await issue_setup_token(runtime) is None
    with pytest.raises(InvalidArgumentError, match="set-up token"):
        await _set_up(house, void, "second@example.com")
    await _lose(house, first)
    again = await issue_setup_token(runtime)
    assert again is not None
    second = await _set_up(house, again, "second@example.com")
    assert await _roles(house, second) == ["admin"]
    assert await issue_setup_token(runtime) is None


async def test_whoever_was_shut_out_signs_in_again_once_let_in(house: House) -> None:
    """AUTHN-4: the sessions from before stay ended."""
    await ensure_administrator(house.runtime("authentication"), ROOT, PASSWORD)
    tokens, ann = await house.person("ann@example.com")
    request = DeactivateUserRequest(user=ann.id)
    await house.call("UserService.DeactivateUser", request, User, caller=SERVICE)
    await house.settled()
    with pytest.raises(UnauthenticatedError):
        await house.login("ann@example.com")
    await house.call("UserService.ActivateUser", ActivateUserRequest(user=ann.id), User, caller=SERVICE)
    await house.settled()
    assert (await house.validate((await house.login("ann@example.com")).access_token)).id == ann.id
    with pytest.raises(UnauthenticatedError):
        await house.validate(tokens.access_token)
