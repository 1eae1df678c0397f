"""Two processes of the Users service on one database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from taskman_sdk.errors import AbortedError, AlreadyExistsError
from taskman_sdk.proto.taskman.user.v1.user_pb import (
    CreateUserRequest,
    ProvisionUserRequest,
    ProvisionUserResponse,
    UpdateUserRequest,
    User,
)
from taskman_server.kit.rpc import service_principal
from tests.store.authentication.harness import House, open_house
from tests.store.databases import Databases

pytestmark = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
SERVICE = service_principal("authentication", "default")
TESTS = service_principal("tests", "default")
Pair = tuple[House, House]
ROUNDS = 8


@pytest.fixture
async def pair(databases: Databases, house: House) -> AsyncIterator[Pair]:
    """Two processes of each service; the second leaves its events to the first."""
    async with open_house(databases, events=False, clock=house.clock) as other:
        yield house, other


async def test_an_address_is_given_once(pair: Pair) -> None:
    """USER-1."""
    for turn in range(ROUNDS):
        request = CreateUserRequest(user=User(email=f"u{turn}@example.com", display_name="U"))
        results = await asyncio.gather(
            *(house.call("UserService.CreateUser", request, User, caller=TESTS) for house in pair),
            return_exceptions=True,
        )
        assert sorted(type(each).__name__ for each in results) == [AlreadyExistsError.__name__, User.__name__]
    assert len(await pair[0].rows("users", "users")) == ROUNDS


@pytest.mark.parametrize("same", [True, False])
async def test_a_sign_up_that_is_asked_for_twice_at_once_makes_one_user(pair: Pair, same: bool) -> None:
    """USER-1: both answers name it; with registrations of their own the second one was not what made it."""

    async def provision(house: House, turn: int, registration: str) -> ProvisionUserResponse:
        request = ProvisionUserRequest(email=f"u{turn}@example.com", registration=registration)
        return await house.call("UserService.ProvisionUser", request, ProvisionUserResponse, caller=SERVICE)

    for turn in range(ROUNDS):
        one, two = await asyncio.gather(
            *(provision(house, turn, f"registration_{turn}_{0 if same else n}") for n, house in enumerate(pair))
        )
        assert one.user == two.user
        assert sorted([one.created, two.created]) == [same, True]
    rows = await pair[0].rows("users", "users")
    assert len(rows) == ROUNDS


async def test_of_two_changes_by_one_etag_one_is_made(pair: Pair) -> None:
    """AIP-154."""
    made = CreateUserRequest(user=User(email="ann@example.com", display_name="Ann"))
    user = await pair[0].call("UserService.CreateUser", made, User, caller=TESTS)
    for turn in range(ROUNDS):
        results = await asyncio.gather(
            *(
                house.call(
                    "UserService.UpdateUser",
                    UpdateUserRequest(user=User(id=user.id, display_name=f"{turn} {n}", etag=user.etag)),
                    User,
                    caller=TESTS,
                )
                for n, house in enumerate(pair)
            ),
            return_exceptions=True,
        )
        assert len([each for each in results if isinstance(each, AbortedError)]) == 1
        (user,) = [each for each in results if isinstance(each, User)]
