"""Administrators are shut out and let in by administrators only, and one always stays (IAM-1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from taskman_sdk import codec, contract
from taskman_sdk.codec import Timestamp
from taskman_sdk.errors import AbortedError, FailedPreconditionError, PermissionDeniedError
from taskman_sdk.proto.taskman.iam.v1.iam_pb import (
    ResumePrincipalRequest,
    ResumePrincipalResponse,
    SuspendPrincipalRequest,
    SuspendPrincipalResponse,
)
from taskman_sdk.proto.taskman.user.v1.user_pb import (
    ActivateUserRequest,
    DeactivateUserRequest,
    UpdateUserRequest,
    User,
)
from taskman_server.kit.rpc import CallOptions
from tests.store.iam.harness import House
from tests.store.iam.test_iam_assignments import held, take


async def shut_out(house: House, user: str, by: str, name: str = "Deactivate") -> User:
    """Shuts somebody out, or lets them in again."""
    request: Any = (DeactivateUserRequest if name == "Deactivate" else ActivateUserRequest)(user=user)
    return await house.call(by, f"UserService.{name}User", request, User)


async def test_an_administrator_is_shut_out_and_let_in_by_another_administrator_only(house: House) -> None:
    """IAM-1: the permission over users is not enough against those who can do everything."""
    await house.role("clerk", "users.*")
    clerk, other = await house.user("clerk"), await house.user()
    first, second = await house.user("admin"), await house.user("admin")
    assert (await shut_out(house, other, clerk)).state == "deactivated"
    assert (await shut_out(house, other, clerk, "Activate")).state == "active"
    with pytest.raises(PermissionDeniedError) as refused:
        await shut_out(house, first, clerk)
    assert refused.value.reason == "ADMIN_NEEDED"
    assert (await shut_out(house, first, second)).state == "deactivated"
    with pytest.raises(PermissionDeniedError):
        await shut_out(house, first, clerk, "Activate")
    assert (await shut_out(house, first, second, "Activate")).state == "active"
    assert (await shut_out(house, second, first)).state == "deactivated"


async def test_the_last_administrator_is_not_shut_out(house: House) -> None:
    """IAM-1: not by a service either; who ends, or is shut out, is none who stays."""
    first, second = await house.user("admin"), await house.user()
    soon = Timestamp.from_datetime(house.clock.now() + timedelta(hours=1))
    await house.assign(second, "admin", expire_time=soon)
    for by in (second, "service:test"):
        with pytest.raises(FailedPreconditionError) as last:
            await shut_out(house, first, by)
        assert last.value.reason == "LAST_ADMIN"
    third = await house.user("admin")
    await shut_out(house, first, third)
    with pytest.raises(FailedPreconditionError):
        await shut_out(house, third, second)
    await shut_out(house, first, third, "Activate")
    assert (await shut_out(house, third, first)).state == "deactivated"


class Between:
    """IAM's line, on which something happens between IAM's decision to shut somebody out and the Users service's."""

    def __init__(self, house: House, happens: Callable[[], Awaitable[object]]) -> None:
        self._line = house.lines["iam"]
        self._happens = happens
        house.channels.add("iam", self)

    async def unary(
        self, method: contract.Method, request: codec.Message[Any], options: CallOptions
    ) -> codec.Message[Any]:
        """Calls; what happens, happens whether it was agreed to or not."""
        try:
            return await self._line.unary(method, request, options)
        finally:
            if method.name == "SuspendPrincipal":
                await self._happens()

    def stream(
        self, method: contract.Method, request: codec.Message[Any], options: CallOptions
    ) -> AsyncIterator[codec.Message[Any]]:
        """Nothing streams here."""
        return self._line.stream(method, request, options)


async def test_two_administrators_cannot_shut_each_other_out(house: House) -> None:
    """IAM-1: both are decided on before either is shut out; one of them stays."""
    first, second = await house.user("admin"), await house.user("admin")
    Between(house, asyncio.Barrier(2).wait)
    results = await asyncio.gather(
        shut_out(house, second, first), shut_out(house, first, second), return_exceptions=True
    )
    (refused,) = [each for each in results if isinstance(each, BaseException)]
    assert isinstance(refused, FailedPreconditionError)
    assert refused.reason == "LAST_ADMIN"
    (gone,) = [each for each in results if isinstance(each, User)]
    assert (await shut_out(house, gone.id, "service:test", "Activate")).state == "active"


async def test_shutting_out_one_administrator_while_the_other_loses_the_role(house: House) -> None:
    """IAM-1: who is about to be shut out is none who stays."""
    first, second = await house.user("admin"), await house.user("admin")
    key = (await held(house, second))["admin"]

    async def take_the_role() -> None:
        with pytest.raises(FailedPreconditionError) as refused:
            await take(house, key)
        assert refused.value.reason == "LAST_ADMIN"

    Between(house, take_the_role)
    assert (await shut_out(house, first, second)).state == "deactivated"


async def test_a_late_letting_in_does_not_undo_a_later_shutting_out(house: House) -> None:
    """IAM-1: what is noted of a later version of the record stays."""
    first, second = await house.user("admin"), await house.user("admin")

    async def note(name: str, revision: int) -> None:
        request: Any = {"Suspend": SuspendPrincipalRequest, "Resume": ResumePrincipalRequest}[name]
        answer: Any = {"Suspend": SuspendPrincipalResponse, "Resume": ResumePrincipalResponse}[name]
        await house.call(
            "service:users", f"IamAdminService.{name}Principal", request(principal=first, revision=revision), answer
        )

    key = (await held(house, second))["admin"]
    await note("Suspend", 3)
    await note("Resume", 2)
    await note("Resume", 3)
    await note("Suspend", 1)  # an older one, late
    await note("Resume", 3)
    with pytest.raises(FailedPreconditionError):
        await take(house, key)
    await note("Resume", 4)
    await take(house, key)


async def test_a_user_who_changed_on_the_way_is_not_shut_out(house: House) -> None:
    """IAM-1: what IAM has agreed to is about one version of the record."""
    admin, user = await house.user("admin"), await house.user()

    async def change() -> None:
        update = UpdateUserRequest(user=User(id=user, display_name="Other"))
        await house.call("service:test", "UserService.UpdateUser", update, User)

    Between(house, change)
    with pytest.raises(AbortedError):
        await shut_out(house, user, admin)
    house.channels.add("iam", house.lines["iam"])
    assert (await shut_out(house, user, admin)).state == "deactivated"
