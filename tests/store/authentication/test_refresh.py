"""Refresh tokens: a family that rotates, forgives a lost answer, and ends at the first theft."""

from __future__ import annotations

import asyncio

import pytest

from taskman_sdk.errors import UnauthenticatedError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import RefreshRequest, TokenResponse
from tests.store.authentication.harness import House


async def _refresh(house: House, token: str) -> TokenResponse:
    return await house.call("AuthenticationService.Refresh", RefreshRequest(refresh_token=token), TokenResponse)


async def _refused(house: House, token: str) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        await _refresh(house, token)
    assert token not in str(caught.value)
    return caught.value.reason


async def test_a_token_is_traded_for_a_pair_and_only_hashes_are_kept(house: House) -> None:
    """AUTHN-2."""
    tokens, ann = await house.person("ann@example.com")
    fresh = await _refresh(house, tokens.refresh_token)
    assert fresh.refresh_token != tokens.refresh_token
    assert await house.validate(fresh.access_token) == ann  # the same session
    stored = await house.rows("authentication", "refresh_tokens")
    assert len(stored) == 2
    assert not any(token.refresh_token in str(stored) for token in (tokens, fresh))
    (event,) = await house.events("auth.token.refreshed")
    assert (event.actor, event.organization) == (ann.id, "default")


async def test_a_lost_answer_does_not_sign_a_user_out(house: House) -> None:
    """AUTHN-2: the predecessor is honoured for ten seconds; both answers then work."""
    tokens, ann = await house.person("ann@example.com")
    lost = await _refresh(house, tokens.refresh_token)
    house.clock.advance(9)
    again = await _refresh(house, tokens.refresh_token)
    assert await house.validate(again.access_token) == ann
    onward = await _refresh(house, again.refresh_token)
    # The answer that was lost has the same age as the one in use: within its grace it may still arrive.
    assert await house.validate((await _refresh(house, lost.refresh_token)).access_token) == ann
    assert await house.validate((await _refresh(house, onward.refresh_token)).access_token) == ann
    assert await house.events("auth.token.reused") == []


@pytest.mark.parametrize("case", ["after the grace", "after its successor was used", "two generations old"])
async def test_a_used_token_ends_the_session(house: House, case: str) -> None:
    """AUTHN-2: reuse revokes the whole family, on record, although the call fails."""
    tokens, ann = await house.person("ann@example.com")
    newest = await _refresh(house, tokens.refresh_token)
    if case == "after the grace":
        house.clock.advance(10.001)
    else:
        newest = await _refresh(house, newest.refresh_token)
    if case == "two generations old":
        newest = await _refresh(house, newest.refresh_token)
    assert await _refused(house, tokens.refresh_token) == "REFRESH_TOKEN_REUSED"
    assert await _refused(house, newest.refresh_token) == "SESSION_ENDED"
    with pytest.raises(UnauthenticatedError):
        await house.validate(newest.access_token)
    (event,) = await house.events("auth.token.reused")
    assert (event.subject, event.result, event.data["session"]) == (ann.id, "failure", ann.session)
    assert event.ipaddress == "203.0.113.7"


async def test_another_session_of_the_user_goes_on(house: House) -> None:
    """AUTHN-2: the family ends, not the account."""
    stolen, _ = await house.person("ann@example.com")
    other = await house.login("ann@example.com")
    await _refresh(house, stolen.refresh_token)
    house.clock.advance(60)
    assert await _refused(house, stolen.refresh_token) == "REFRESH_TOKEN_REUSED"
    assert await house.validate((await _refresh(house, other.refresh_token)).access_token)


async def test_a_sibling_of_a_lost_answer_is_a_theft_later(house: House) -> None:
    """AUTHN-2: whoever got the second answer cannot keep a branch of their own."""
    tokens, _ = await house.person("ann@example.com")
    first = await _refresh(house, tokens.refresh_token)
    second = await _refresh(house, tokens.refresh_token)
    newest = await _refresh(house, second.refresh_token)
    house.clock.advance(11)
    assert await _refused(house, first.refresh_token) == "REFRESH_TOKEN_REUSED"
    assert await _refused(house, newest.refresh_token) == "SESSION_ENDED"


async def test_parallel_refreshes_of_one_token_all_get_the_same_session(house: House) -> None:
    """AUTHN-2: two tabs at once; one rotates, the others are forgiven, nobody is signed out."""
    tokens, ann = await house.person("ann@example.com")
    answers = await asyncio.gather(*(_refresh(house, tokens.refresh_token) for _ in range(8)))
    assert len({answer.refresh_token for answer in answers}) == 8
    for answer in answers:
        assert await house.validate(answer.access_token) == ann
    (session,) = await house.rows("authentication", "sessions")
    assert (session.generation, session.end_time) == (2, None)


async def test_parallel_reuse_is_reported_once_per_session(house: House) -> None:
    """AUTHN-2: one theft, one record."""
    tokens, _ = await house.person("ann@example.com")
    await _refresh(house, tokens.refresh_token)
    house.clock.advance(11)
    reasons = await asyncio.gather(*(_refused(house, tokens.refresh_token) for _ in range(6)))
    assert sorted(reasons) == ["REFRESH_TOKEN_REUSED", *["SESSION_ENDED"] * 5]
    assert len(await house.events("auth.token.reused")) == 1


async def test_an_unused_token_expires_and_each_use_begins_its_life_anew(house: House) -> None:
    """AUTHN-2: 30 days."""
    tokens, _ = await house.person("ann@example.com")
    house.clock.advance(29 * 86400)
    fresh = await _refresh(house, tokens.refresh_token)
    house.clock.advance(29 * 86400)
    fresh = await _refresh(house, fresh.refresh_token)
    house.clock.advance(30 * 86400)
    assert await _refused(house, fresh.refresh_token) == "REFRESH_TOKEN_EXPIRED"


@pytest.mark.parametrize("token", ["tmr_nothing", "x", "' OR 1=1 --", "\u0000", "tmr_" + "a" * 1000])
async def test_what_is_no_refresh_token_is_refused(house: House, token: str) -> None:
    """AUTHN-2."""
    assert await _refused(house, token) == "REFRESH_TOKEN_INVALID"


async def test_an_access_token_does_not_refresh(house: House) -> None:
    """AUTHN-1: each token does its own work."""
    tokens, _ = await house.person("ann@example.com")
    assert await _refused(house, tokens.access_token) == "REFRESH_TOKEN_INVALID"
