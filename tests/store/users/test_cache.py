"""What is remembered of users is never older than what was acknowledged (USER-1, TASK-2)."""

from __future__ import annotations

import asyncio
from typing import Any

from taskman_sdk import codec
from taskman_sdk.codec import FieldMask
from taskman_sdk.proto.taskman.user.v1.user_pb import (
    ActivateUserRequest,
    BatchGetUsersRequest,
    BatchGetUsersResponse,
    DeactivateUserRequest,
    GetUserRequest,
    UpdateUserRequest,
    User,
)
from taskman_server.kit.rpc import Principal, service_principal
from tests.store.authentication.harness import House
from tests.store.users.test_users import person

TASKS = service_principal("tasks", "org_one")


async def _several(house: House, *users: str) -> dict[str, User]:
    request = BatchGetUsersRequest(users=list(users))
    answer = await house.call("UserService.BatchGetUsers", request, BatchGetUsersResponse, caller=TASKS)
    return {user.id: user for user in answer.users}


async def _get(house: House, caller: Principal, user: str) -> User:
    return await house.call("UserService.GetUser", GetUserRequest(user=user), User, caller=caller)


async def test_after_every_kind_of_write_the_next_read_has_it(house: House) -> None:
    """USER-1: whether one is asked for or several, a service or a person asks."""
    ann = await person(house, "ann@example.org", "admin", organization="org_one")
    ben = await person(house, "ben@example.org", organization="org_one")
    renamed = User(id=ben.id, display_name="Benno")
    writes: list[tuple[str, codec.Message[Any]]] = [
        ("DeactivateUser", DeactivateUserRequest(user=ben.id)),
        ("ActivateUser", ActivateUserRequest(user=ben.id)),
        ("UpdateUser", UpdateUserRequest(user=renamed, update_mask=FieldMask(paths=["display_name"]))),
    ]
    assert (await _several(house, ann.id, ben.id))[ben.id].state == "active"
    for operation, request in writes:
        told = await house.call(f"UserService.{operation}", request, User, caller=ann)
        assert codec.to_json((await _several(house, ann.id, ben.id))[ben.id]) == codec.to_json(told)
        assert codec.to_json(await _get(house, ann, ben.id)) == codec.to_json(told)


async def test_who_is_unknown_is_looked_for_again(house: House) -> None:
    """USER-1: only what was found is remembered; and everybody only within their organization."""
    ann = await person(house, "ann@example.org", organization="org_one")
    request = BatchGetUsersRequest(users=[ann.id, "user_00000000000000000000000000", ann.id])
    for _ in range(2):
        answer = await house.call("UserService.BatchGetUsers", request, BatchGetUsersResponse, caller=TASKS)
        assert [user.id for user in answer.users] == [ann.id]
    other = service_principal("tasks", "another")
    assert not (await house.call("UserService.BatchGetUsers", request, BatchGetUsersResponse, caller=other)).users


async def test_readers_beside_a_writer_never_see_less_than_was_acknowledged(house: House) -> None:
    """USER-1: for everybody, none is older than what the writer was told."""
    ann = await person(house, "ann@example.org", "admin", organization="org_one")
    acknowledged = 0

    async def write() -> None:
        nonlocal acknowledged
        for number in range(1, 40):
            user = User(id=ann.id, display_name=f"version {number}")
            request = UpdateUserRequest(user=user, update_mask=FieldMask(paths=["display_name"]))
            await house.call("UserService.UpdateUser", request, User, caller=ann)
            acknowledged = number
            await asyncio.sleep(0)

    async def read(writing: asyncio.Task[None]) -> int:
        reads = 0
        while not writing.done():
            least = acknowledged
            name = (await _several(house, ann.id))[ann.id].display_name
            assert (int(name.removeprefix("version ")) if name.startswith("version ") else 0) >= least
            reads += 1
            await asyncio.sleep(0)
        return reads

    writing = asyncio.create_task(write())
    reads = await asyncio.gather(*(read(writing) for _ in range(4)))
    await writing
    assert sum(reads) > 40
