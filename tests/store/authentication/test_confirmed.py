"""One question serves all whose tokens a service knows, and lets nobody stay whose session has ended (AUTHN-4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from taskman_sdk import codec, contract
from taskman_sdk.errors import UnauthenticatedError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import (
    LogoutRequest,
    LogoutResponse,
    ValidateTokenRequest,
)
from taskman_sdk.proto.taskman.user.v1.user_pb import DeactivateUserRequest, User
from taskman_server.kit import identity
from taskman_server.kit.identity import Authenticator
from taskman_server.kit.rpc import CallOptions, Channels, service_principal
from taskman_server.services.authentication import rotate_signing_key
from tests.store.authentication.harness import House

PEOPLE = 12


class _Asking:
    request_id = "req_1"


class Service:
    """A service that knows tokens, with a clock of its own for what it remembers, and the questions that it asked."""

    def __init__(self, house: House) -> None:
        self.questions: list[ValidateTokenRequest] = []
        self.time = 1000.0
        self._channels = house.runtime("authentication").channels
        self._authenticator = Authenticator(Channels({"authentication": self}), "tasks", house.clock)
        self._authenticator._known.monotonic = lambda: self.time

    async def unary(
        self, method: contract.Method, request: codec.Message[object], options: CallOptions
    ) -> codec.Message[object]:
        assert isinstance(request, ValidateTokenRequest)
        self.questions.append(request)
        return await self._channels.unary(method, request, options)

    def stream(self, method: contract.Method, request: object, options: object) -> AsyncIterator[codec.Message[object]]:
        raise AssertionError(method.operation_id)

    async def knows(self, *tokens: str) -> list[bool]:
        """Which of them are good, all asked at once; no question was asked before."""
        self.questions.clear()
        asked = (self._authenticator.authenticate(token, _Asking()) for token in tokens)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(each, UnauthenticatedError) for each in answers if isinstance(each, BaseException))
        return [not isinstance(answer, BaseException) for answer in answers]


@pytest.fixture
async def tokens(house: House) -> list[str]:
    """Of as many people."""
    return [(await house.person(f"p{n}@example.com"))[0].access_token for n in range(PEOPLE)]


async def test_one_question_serves_all_who_were_there_lately(house: House, tokens: list[str]) -> None:
    """AUTHN-4: within `TTL` nothing is asked, then one question for all; who was not there is left out of it."""
    service = Service(house)
    assert all(await service.knows(*tokens))
    assert len(service.questions) == PEOPLE
    assert all(await service.knows(*tokens))
    assert service.questions == []
    for _ in range(4):
        service.time += identity.TTL
        assert all(await service.knows(*tokens))
        assert [len(question.known) for question in service.questions] == [PEOPLE - 1]
    service.time += identity.USED
    assert all(await service.knows(tokens[0]))
    assert [len(question.known) for question in service.questions] == [0]


async def test_a_hot_token_is_asked_about_once(house: House, tokens: list[str]) -> None:
    """AUTHN-4: by a hundred at once, the first time and each time that its answer has grown old."""
    service = Service(house)
    for _ in range(3):
        assert all(await service.knows(*[tokens[0]] * 100))
        assert len(service.questions) == 1
        service.time += identity.TTL


async def test_who_was_shut_out_is_out_and_the_others_stay(house: House, tokens: list[str]) -> None:
    """AUTHN-4: by a log-out, by being deactivated; also where the one who asks for all is the one who is out."""
    service = Service(house)
    assert all(await service.knows(*tokens))
    shut_out = await house.validate(tokens[5])
    await house.call("AuthenticationService.Logout", LogoutRequest(), LogoutResponse, token=tokens[0])
    service.time += identity.TTL
    assert await service.knows(*tokens) == [False] + [True] * (PEOPLE - 1)
    assert await service.knows(tokens[0]) == [False]
    request = DeactivateUserRequest(user=shut_out.id)
    await house.call(
        "UserService.DeactivateUser", request, User, caller=service_principal("tests", "default", "user_admin")
    )
    await house.settled()
    service.time += identity.TTL
    good = [n not in (0, 5) for n in range(PEOPLE)]
    assert await service.knows(*tokens) == good
    service.time += identity.TTL
    assert await service.knows(*tokens) == good


async def test_a_token_of_a_key_that_is_out_is_not_confirmed(house: House, tokens: list[str]) -> None:
    """AUTHN-3: keys and times of those who are asked about with others are looked at too."""
    service = Service(house)
    assert all(await service.knows(*tokens))
    runtime = house.runtime("authentication")
    await rotate_signing_key(runtime)
    fresh = (await house.person("late@example.com"))[0].access_token
    assert all(await service.knows(fresh, *tokens))
    house.clock.advance(runtime.settings.access_token_seconds - 1)
    service.time += identity.TTL
    assert all(await service.knows(fresh, *tokens))
    house.clock.advance(120)
    service.time += identity.TTL
    assert not any(await service.knows(fresh, *tokens))


async def test_what_is_not_known_or_no_token_is_not_confirmed(house: House, tokens: list[str]) -> None:
    """GATE-2: a digest is good for nothing but a token that was verified."""
    request = ValidateTokenRequest(access_token=tokens[0], known=[b"\0" * 20, b"\1" * 20])
    caller = CallOptions(caller=service_principal("tasks", ""))
    method = contract.method("AuthenticationService.ValidateToken")
    answer = await house.runtime("authentication").channels.unary(method, request, caller)
    assert answer.confirmed == []  # type: ignore[attr-defined]
