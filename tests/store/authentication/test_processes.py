"""Two processes of Authentication on one database: nothing is used twice, nothing is lost, nobody is made twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from taskman_sdk.errors import TaskManError, UnauthenticatedError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import RefreshRequest, TokenResponse
from taskman_server.kit.crypto import digest
from taskman_server.services.authentication import ensure_administrator, issue_setup_token
from taskman_server.services.authentication.handlers.registration import COOL_DOWN
from taskman_server.services.authentication.housekeeping import Housekeeper
from taskman_server.services.authentication.rules import ACCOUNT_LIMIT, FORGET
from taskman_server.services.authentication.store import METADATA, AuthenticationStore
from taskman_server.services.authentication.tokens import KeyRing
from tests.store.authentication.harness import PASSWORD, House, open_house
from tests.store.authentication.test_passwords import Tap, _reset, _roles, _set_up, _wish
from tests.store.databases import Databases

pytestmark = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
Pair = tuple[House, House]
ROUNDS = 6


@pytest.fixture
async def pair(databases: Databases, house: House) -> AsyncIterator[Pair]:
    """Two processes of each service; the second leaves its events to the first."""
    async with open_house(databases, events=False, clock=house.clock) as other:
        yield house, other


async def both(pair: Pair, call: Callable[[House], Coroutine[Any, Any, Any]]) -> list[Any]:
    """What comes of a call that both processes get at once; faults of ours are none of it."""
    results = await asyncio.gather(*map(call, pair), return_exceptions=True)
    assert all(not isinstance(each, BaseException) or isinstance(each, TaskManError) for each in results), results
    assert not [each for each in results if isinstance(each, TaskManError) and each.reason == "INTERNAL"], results
    return results


def store_of(house: House) -> AuthenticationStore:
    return AuthenticationStore(house.runtime("authentication").db)


async def _refresh(house: House, token: str) -> TokenResponse:
    return await house.call("AuthenticationService.Refresh", RefreshRequest(refresh_token=token), TokenResponse)


async def test_a_token_that_is_traded_twice_at_once_begins_one_generation(pair: Pair) -> None:
    """AUTHN-2: the second finds what the first did, and repeats it: nobody is signed out."""
    tokens, ann = await pair[0].person("ann@example.com")
    for turn in range(ROUNDS):
        one, two = await both(pair, lambda house, token=tokens.refresh_token: _refresh(house, token))
        assert one.refresh_token != two.refresh_token
        assert await pair[0].validate(two.access_token) == await pair[1].validate(one.access_token) == ann
        (session,) = await pair[0].rows("authentication", "sessions")
        assert (session.generation, session.end_time) == (turn + 2, None)
        tokens = one


async def test_a_used_token_that_comes_twice_at_once_ends_the_session_once(pair: Pair) -> None:
    """AUTHN-2: one end, one event; the other one hears that it has ended."""
    for turn in range(ROUNDS):
        tokens, ann = await pair[0].person(f"u{turn}@example.com")
        newest = await _refresh(pair[0], tokens.refresh_token)
        newest = await _refresh(pair[1], newest.refresh_token)
        results = await both(pair, lambda house, token=tokens.refresh_token: _refresh(house, token))
        assert sorted(each.reason for each in results) == ["REFRESH_TOKEN_REUSED", "SESSION_ENDED"]
        with pytest.raises(UnauthenticatedError):
            await _refresh(pair[1], newest.refresh_token)
        (session,) = await pair[0].rows("authentication", "sessions", user_id=ann.id)
        assert session.end_reason == "reused"


async def test_no_failure_is_lost_in_the_count(pair: Pair) -> None:
    """AUTHN-8: guesses that two processes get at once count as many as they are."""
    store, now = store_of(pair[0]), pair[0].clock.now()

    async def count(house: House) -> None:
        async with house.runtime("authentication").db.transaction() as tx:
            for key in ("pair:x", "account:y"):
                await store.count_failure(tx, key, now, now - FORGET)

    await asyncio.gather(*(count(pair[n % 2]) for n in range(20)))
    assert {key: row.failures for key, row in (await store.throttles(["pair:x", "account:y"])).items()} == {
        "pair:x": 20,
        "account:y": 20,
    }
    later = now + FORGET
    async with pair[0].runtime("authentication").db.transaction() as tx:
        await store.count_failure(tx, "pair:x", later, later - FORGET)
    assert (await store.throttles(["pair:x"]))["pair:x"].failures == 1


async def test_wrong_passwords_from_many_addresses_at_once_slow_the_account_down(pair: Pair) -> None:
    """AUTHN-8: the counter of the account is one, whichever process is asked."""
    await pair[0].register("ann@example.com")
    guesses = ACCOUNT_LIMIT.free
    await asyncio.gather(
        *(pair[n % 2].login("ann@example.com", "a wrong guess", ip=f"192.0.2.{n}") for n in range(guesses)),
        return_exceptions=True,
    )
    (row,) = [r for r in await pair[0].rows("authentication", "throttles") if r.key.startswith("account:")]
    assert row.failures == guesses


async def test_signing_in_twice_at_once_makes_two_sessions(pair: Pair) -> None:
    """AUTHN-1, AUTHN-8: also the first time from an address."""
    await pair[0].register("ann@example.com")
    for turn in range(ROUNDS):
        results = await both(pair, lambda house, ip=f"198.51.100.{turn}": house.login("ann@example.com", ip=ip))
        assert all(isinstance(each, TokenResponse) for each in results)
    assert len(await pair[0].rows("authentication", "sessions")) == 2 * ROUNDS
    assert len(await pair[0].rows("authentication", "known_addresses")) == ROUNDS


async def test_the_first_start_of_two_processes_makes_one_key(pair: Pair) -> None:
    """AUTHN-3."""
    db = pair[0].runtime("authentication").db
    for _ in range(ROUNDS):
        await db.execute(sa.delete(METADATA.tables["signing_keys"]))
        rings = [KeyRing(house.runtime("authentication"), store_of(house)) for house in pair]
        await asyncio.gather(*(ring.start() for ring in rings))
        (key,) = await pair[0].rows("authentication", "signing_keys")
        assert [(await ring.public_keys())[0].kid for ring in rings] == [key.kid, key.kid]


async def test_keys_that_two_processes_change_at_once_leave_one_that_signs(pair: Pair) -> None:
    """AUTHN-3: what the other one signed is good until it expires."""
    rings = [KeyRing(house.runtime("authentication"), store_of(house)) for house in pair]
    for ring in rings:
        await ring.start()
    for _ in range(ROUNDS):
        await asyncio.gather(*(ring.rotate() for ring in rings))
        tokens = [ring.sign("user_x", "default", "session_x") for ring in rings]
        keys = await pair[0].rows("authentication", "signing_keys")
        assert len([key for key in keys if key.retire_time is None]) == 1
        pair[0].clock.advance(2)
        for ring in rings:
            for token in tokens:
                assert (await ring.verify(token)).user == "user_x"


async def test_one_address_that_is_signed_up_twice_at_once_is_one_user(pair: Pair) -> None:
    """USER-1, AUTHN-5: both are answered alike; whoever was first has set the password."""
    for turn in range(ROUNDS):
        address = f"u{turn}@example.com"
        one, two = await both(pair, lambda house, address=address: house.register(address))
        assert one == two
        assert len(await pair[0].rows("users", "users", email=address)) == 1
        (credential,) = await pair[0].rows("authentication", "credentials", email=address)
        assert credential.password_hash
    assert await pair[0].rows("authentication", "registrations") == []


async def test_a_repeated_sign_up_is_reported_once_in_a_while(pair: Pair) -> None:
    """AUTHN-5: however many there are at once."""
    await pair[0].register("ann@example.com")
    for turn in range(1, 4):
        await asyncio.gather(*(pair[n % 2].register("ann@example.com") for n in range(6)))
        pair[0].services["authentication"].relay.wake()
        assert len(await pair[0].events("auth.registration.repeated")) == turn
        pair[0].clock.advance(COOL_DOWN.total_seconds() + 1)


async def test_a_link_is_used_once(pair: Pair) -> None:
    """AUTHN-5."""
    taken: list[Any] = []
    for house in pair:
        house.channels.add("notification", Tap(house.channels._by_area["notification"], taken))
    for turn in range(ROUNDS):
        await pair[0].register(f"u{turn}@example.com")
        await _wish(pair[0], f"u{turn}@example.com")
        workers = [house.services["authentication"].parts.workers[0] for house in pair]
        # Both look for mails at the same moment: one of them sends it.
        await asyncio.gather(*(worker.send_due() for worker in workers))  # type: ignore[attr-defined]
        assert len(taken) == turn + 1
        (link,) = (each.substitution for each in taken[-1].variables if each.name == "link")
        token = link.partition("=")[2]
        results = await both(pair, lambda house, token=token: _reset(house, token))
        assert sorted(getattr(each, "reason", "") for each in results) == ["", "RESET_TOKEN_INVALID"]
    assert await pair[0].rows("authentication", "mail_requests") == []


async def test_a_mail_that_a_process_took_and_did_not_send_is_sent_by_the_other(pair: Pair) -> None:
    """AUTHN-5: after the lease."""
    store = store_of(pair[0])
    await pair[0].register("ann@example.com")
    await _wish(pair[0], "ann@example.com")
    (row,) = await store.due_mails(pair[0].clock.now())
    assert await store.claim_mail(row, pair[0].clock.now() + timedelta(seconds=60))
    assert not await store_of(pair[1]).claim_mail(row, pair[0].clock.now() + timedelta(seconds=60))
    worker: Any = pair[1].services["authentication"].parts.workers[0]
    assert await worker.send_due() == 0
    pair[0].clock.advance(61)
    assert await worker.send_due() == 1
    assert await pair[0].rows("authentication", "mail_requests") == []


async def test_two_first_starts_at_once_make_one_administrator(pair: Pair) -> None:
    """OPS-1."""
    one, two = await asyncio.gather(
        *(ensure_administrator(house.runtime("authentication"), "root@example.com", PASSWORD) for house in pair)
    )
    assert one == two
    assert len(await pair[0].rows("users", "users")) == 1
    assert await _roles(pair[0], one) == ["admin"]
    assert len(await pair[0].rows("authentication", "milestones")) == 1
    assert (await pair[1].validate((await pair[1].login("root@example.com")).access_token)).id == one
    for house in pair:
        assert await ensure_administrator(house.runtime("authentication"), "root@example.com", PASSWORD) == one


async def test_of_the_set_up_tokens_of_two_starts_one_is_good(pair: Pair) -> None:
    """OPS-1: one link, one administrator; used in both processes at once too."""
    tokens = await asyncio.gather(*(issue_setup_token(house.runtime("authentication")) for house in pair))
    (kept,) = await pair[0].rows("authentication", "action_tokens")
    (good,) = [each for each in tokens if each is not None and digest(each) == kept.hash]
    results = await asyncio.gather(
        *(_set_up(pair[n % 2], good, f"root{n}@example.com") for n in range(4)),
        *(
            _set_up(house, token, "other@example.com")
            for house in pair
            for token in tokens
            if token not in (None, good)
        ),
        return_exceptions=True,
    )
    assert len([each for each in results if isinstance(each, str)]) == 1
    assert len(await pair[0].rows("users", "users")) == 1


async def test_processes_that_tidy_at_once_are_in_nobody_s_way(pair: Pair) -> None:
    """OPS-1: what has run out goes once."""
    for turn in range(3):
        await pair[0].person(f"u{turn}@example.com")
    pair[0].clock.advance(timedelta(days=400).total_seconds())
    keepers = [Housekeeper(house.runtime("authentication"), store_of(house)) for house in pair]
    one, two = await asyncio.gather(*(keeper.tidy() for keeper in keepers))
    assert sorted([one > 0, two > 0]) == [False, True]
    assert await pair[0].rows("authentication", "sessions") == []


async def test_a_key_that_one_process_retires_is_good_no_longer_in_the_other(pair: Pair) -> None:
    """AUTHN-3: also where nobody signs in: an erased key may have been stolen."""
    rings = [KeyRing(house.runtime("authentication"), store_of(house)) for house in pair]
    for ring in rings:
        await ring.start()
    token = rings[0].sign("user_x", "default", "session_x")
    assert (await rings[1].verify(token)).user == "user_x"
    await rings[0].rotate()
    db = pair[0].runtime("authentication").db
    keys = METADATA.tables["signing_keys"]
    await db.execute(sa.delete(keys).where(keys.c.retire_time.is_not(None)))
    pair[0].clock.advance(31)
    with pytest.raises(UnauthenticatedError) as caught:
        await rings[1].verify(token)
    assert caught.value.reason == "TOKEN_INVALID"
