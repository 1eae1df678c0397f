"""Tokens: before every call, refreshed once for all, kept after login, forgotten after logout (SDK-6)."""

from __future__ import annotations

import asyncio
import time

import pytest

from taskman_sdk.client import AsyncTaskMan
from taskman_sdk.credentials import Credentials
from taskman_sdk.errors import UnauthenticatedError, UnavailableError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import LogoutResponse, RefreshRequest, TokenResponse
from taskman_sdk.proto.taskman.task.v1.task_pb import Task
from tests.unit.sdk.stage import TRANSPORTS, Message, Seen, Stage, reach


class Issuer:
    """Answers like the authentication service: each refresh token works once, only the newest access token is good."""

    def __init__(self) -> None:
        self.generation = 1
        self.refreshes = 0
        self.asked = asyncio.Event()
        self.release = asyncio.Event()
        self.release.set()
        self.alive = True

    def pair(self) -> TokenResponse:
        n = self.generation
        return TokenResponse(access_token=f"access-{n}", refresh_token=f"refresh-{n}", expires_in=900)

    async def __call__(self, seen: Seen) -> Message:
        if seen.method.name == "Login":
            return self.pair()
        if seen.method.name == "Logout":
            return LogoutResponse(ended_sessions=1)
        if seen.method.name == "Refresh":
            self.refreshes += 1
            self.asked.set()
            await self.release.wait()
            given = seen.request.refresh_token if isinstance(seen.request, RefreshRequest) else None
            if not self.alive or (given is not None and given != f"refresh-{self.generation}"):
                raise UnauthenticatedError("That token is used up.", reason="SESSION_REVOKED")
            self.generation += 1
            return self.pair()
        if seen.metadata.get("authorization") != f"Bearer access-{self.generation}":
            raise UnauthenticatedError("Expired.", reason="TOKEN_EXPIRED")
        return Task(key="WEB-1")


def session(issuer: Issuer, *, expires_in: float = 900) -> Credentials:
    pair = issuer.pair()
    return Credentials(pair.access_token, pair.refresh_token, time.time() + expires_in, 900)


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_login_keeps_the_tokens_and_logout_forgets_them(kind: str) -> None:
    """SDK-6"""
    stage = Stage(Issuer())
    async with reach(stage, kind) as transport, AsyncTaskMan(transport=transport) as client:
        with pytest.raises(UnauthenticatedError):
            await client.tasks.get("WEB-1")
        await client.auth.login(email="ada@example.org", password="correct horse")
        assert (await client.tasks.get("WEB-1")).key == "WEB-1"
        await client.auth.logout()
        with pytest.raises(UnauthenticatedError):
            await client.tasks.get("WEB-1")
    assert [seen.metadata.get("authorization") for seen in stage.seen] == [
        None, None, "Bearer access-1", "Bearer access-1", None,
    ]  # fmt: skip


async def test_a_token_that_is_about_to_expire_is_refreshed_by_one_of_many_callers() -> None:
    """SDK-6: a second refresh with the same token would revoke the session."""
    issuer = Issuer()
    issuer.release.clear()
    stored: list[str] = []
    credentials = session(issuer, expires_in=30)
    credentials.on_change = lambda changed: stored.append(changed.refresh_token)
    async with reach(Stage(issuer), "local") as transport:
        client = AsyncTaskMan(token=credentials, transport=transport)
        calls = [asyncio.ensure_future(client.tasks.get("WEB-1")) for _ in range(20)]
        await issuer.asked.wait()
        issuer.release.set()
        assert {task.key for task in await asyncio.gather(*calls)} == {"WEB-1"}
    assert issuer.refreshes == 1
    assert stored == ["refresh-2"]


async def test_a_caller_who_gives_up_does_not_lose_the_new_tokens() -> None:
    """SDK-6: the old refresh token is used up on the server by then."""
    issuer = Issuer()
    issuer.release.clear()
    async with reach(Stage(issuer), "local") as transport:
        client = AsyncTaskMan(token=session(issuer, expires_in=0), transport=transport)
        call = asyncio.ensure_future(client.tasks.get("WEB-1"))
        await issuer.asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        issuer.release.set()
        assert (await client.tasks.get("WEB-1")).key == "WEB-1"
    assert issuer.refreshes == 1


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_a_refused_token_is_refreshed_once_and_the_call_made_again(kind: str) -> None:
    """SDK-6"""
    issuer = Issuer()
    stage = Stage(issuer)
    async with reach(stage, kind) as transport:
        client = AsyncTaskMan(token=Credentials("access-0", "refresh-1"), transport=transport)
        created = await client.tasks.create(project="WEB", title="x")
    assert created.key == "WEB-1"
    names = [seen.method.name for seen in stage.seen]
    assert names == ["CreateTask", "Refresh", "CreateTask"]
    assert stage.seen[0].metadata["idempotency-key"] == stage.seen[2].metadata["idempotency-key"]


async def test_a_session_that_is_over_says_so() -> None:
    """SDK-6"""
    issuer = Issuer()
    issuer.alive = False
    async with reach(Stage(issuer), "local") as transport:
        client = AsyncTaskMan(token=session(issuer, expires_in=-1), transport=transport)
        with pytest.raises(UnauthenticatedError, match="session is over"):
            await client.tasks.get("WEB-1")
    assert issuer.refreshes == 1


async def test_a_token_that_is_still_good_is_used_when_it_cannot_be_refreshed_yet() -> None:
    """SDK-6: refreshing early is a courtesy, not a need."""
    issuer = Issuer()

    async def answer(seen: Seen) -> Message:
        if seen.method.name == "Refresh":
            raise UnavailableError("down")
        return await issuer(seen)

    async with reach(Stage(answer), "local") as transport:
        client = AsyncTaskMan(token=session(issuer, expires_in=30), transport=transport, max_retries=0)
        assert (await client.tasks.get("WEB-1")).key == "WEB-1"


def test_secrets_are_in_no_repr() -> None:
    """SDK-5"""
    assert "s3cret" not in repr(Credentials("s3cret-a", "s3cret-r"))
    from taskman_sdk.models import TokenResponse as Model

    assert "s3cret" not in repr(Model(access_token="s3cret", refresh_token="s3cret"))
