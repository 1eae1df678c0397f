"""Signing in: one answer for everything that is wrong, and brakes that do not lock the owner out."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import argon2
import pytest
import sqlalchemy as sa

from taskman_sdk.errors import ResourceExhaustedError, TaskManError, UnauthenticatedError, UnavailableError
from taskman_sdk.proto.taskman.user.v1.user_pb import CreateUserRequest, DeactivateUserRequest, User
from taskman_server.kit.crypto import PasswordHasher
from taskman_server.kit.rpc import service_principal
from taskman_server.services.authentication.rules import ACCOUNT_LIMIT, ADDRESS_LIMIT, PAIR_LIMIT
from tests.store.authentication.harness import PASSWORD, TABLES, House, open_house
from tests.store.databases import Databases

HOME, ATTACKER = "203.0.113.7", "198.51.100.66"
TESTS = service_principal("tests", "default", "user_admin")


async def _fails(house: House, email: str = "ann@example.com", password: str = "wrong", ip: str = HOME) -> TaskManError:
    with pytest.raises(TaskManError) as caught:
        await house.login(email, password, ip)
    return caught.value


async def _guess(house: House, times: int, email: str = "ann@example.com", ip: str = ATTACKER) -> None:
    """Wrong passwords, as fast as the brakes let them through."""
    for _ in range(times):
        error = await _fails(house, email, ip=ip)
        while isinstance(error, ResourceExhaustedError):
            assert error.retry_after
            house.clock.advance(error.retry_after)
            error = await _fails(house, email, ip=ip)


async def _people(house: House) -> dict[str, str]:
    """An address for every way in which a sign-in can be wrong."""
    await house.register("ann@example.com")
    await house.register("gone@example.com")
    gone = await house.validate((await house.login("gone@example.com")).access_token)
    user = User(email="new@example.com", display_name="New")
    await house.call("UserService.CreateUser", CreateUserRequest(user=user), User, caller=TESTS)
    await house.settled()
    await house.call("UserService.DeactivateUser", DeactivateUserRequest(user=gone.id), User, caller=TESTS)
    await house.settled()
    return {
        "password": "ann@example.com",
        "unknown_account": "nobody@example.com",
        "deactivated": "gone@example.com",
        "no_password": "new@example.com",
    }


async def test_every_wrong_sign_in_gets_the_same_answer(house: House) -> None:
    """AUTHN-5: unknown, wrong, shut out, without password; the record alone tells which it was."""
    people = await _people(house)
    errors = [await _fails(house, email, "not the password") for email in people.values()]
    errors.append(await _fails(house, "no address at all", "x"))
    for error in errors:
        error.request_id = ""
    assert all(error == errors[0] for error in errors)
    assert (type(errors[0]), errors[0].reason) == (UnauthenticatedError, "CREDENTIALS_INVALID")
    failed = await house.events("auth.login.failed")
    assert [event.data["failure"] for event in failed] == [*people, "unknown_account"]
    assert {event.result for event in failed} == {"failure"}
    assert not any(word in event.to_json() for event in failed for word in ("example.com", "not the password"))


async def test_every_wrong_sign_in_does_the_same_work(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """AUTHN-5: as many hashes of the same cost, and as many writes, whatever is wrong."""
    people = await _people(house)
    verified: list[str] = []
    original = argon2.PasswordHasher.verify

    def verify(self: argon2.PasswordHasher, encoded: str, password: bytes) -> Any:
        verified.append(encoded.rpartition("$")[0].rpartition("$")[0])
        return original(self, encoded, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", verify)
    for email in people.values():
        await _fails(house, email, PASSWORD if email != "ann@example.com" else "wrong")
    assert len(verified) == len(people)
    assert len(set(verified)) == 1
    assert len(await house.events("auth.login.failed")) == len(people)


async def test_an_address_is_found_however_it_is_typed(house: House) -> None:
    """OPEN-POINTS 3."""
    await house.register("Ann.Example@EXAMPLE.com")
    tokens = await house.login(" ann.EXAMPLE@example.COM ")
    assert (tokens.token_type, tokens.expires_in) == ("Bearer", 900)
    (event,) = await house.events("auth.login.succeeded")
    assert (event.actor, event.organization, event.ipaddress) == (event.subject, "default", HOME)
    (session,) = await house.rows("authentication", "sessions")
    assert (session.ip_address, session.user_agent) == (HOME, "tests/1.0")


async def test_guessing_is_slowed_down_and_the_right_password_does_not_help_during_a_pause(house: House) -> None:
    """AUTHN-8: five free failures, then pauses that double; the answer says how long."""
    await house.register("ann@example.com")
    for _ in range(PAIR_LIMIT.free):
        assert (await _fails(house)).reason == "CREDENTIALS_INVALID"
    pauses = []
    for _ in range(4):
        error = await _fails(house, password=PASSWORD)
        assert (type(error), error.reason) == (ResourceExhaustedError, "LOGIN_THROTTLED")
        pauses.append(error.retry_after)
        assert error.retry_after
        house.clock.advance(error.retry_after)
        assert (await _fails(house)).reason == "CREDENTIALS_INVALID"
    assert pauses == [1, 2, 4, 8]
    house.clock.advance(16)
    await house.login("ann@example.com")
    assert (await _fails(house)).reason == "CREDENTIALS_INVALID"  # a success begins afresh


async def test_an_account_that_does_not_exist_is_slowed_down_alike(house: House) -> None:
    """AUTHN-5, AUTHN-8: the brakes do not tell either."""
    await house.register("ann@example.com")

    async def answers(email: str) -> list[tuple[str, float | None]]:
        errors = [await _fails(house, email) for _ in range(PAIR_LIMIT.free + 3)]
        return [(error.reason, error.retry_after) for error in errors]

    assert await answers("ann@example.com") == await answers("nobody@example.com")


async def test_an_attacker_does_not_lock_the_owner_out(house: House) -> None:
    """AUTHN-8: the attacker's address waits, the owner's does not."""
    await house.register("ann@example.com")
    await _guess(house, 30)
    assert (await _fails(house, ip=ATTACKER)).reason == "LOGIN_THROTTLED"
    await house.login("ann@example.com", ip="192.0.2.1")  # an address never seen before
    assert (await _fails(house, ip=ATTACKER)).reason == "LOGIN_THROTTLED"  # the owner's success frees no attacker


async def test_an_attack_from_many_addresses_slows_strangers_and_never_a_known_address(house: House) -> None:
    """AUTHN-8: the account's own counter, and where the owner was signed in before."""
    await house.register("ann@example.com")
    await house.login("ann@example.com", ip=HOME)
    for number in range(ACCOUNT_LIMIT.free + 3):
        error = await _fails(house, ip=f"198.51.100.{number}")
        if error.retry_after:
            house.clock.advance(error.retry_after)
            await _fails(house, ip=f"198.51.100.{number}")
    assert (await _fails(house, ip="198.51.100.250")).reason == "LOGIN_THROTTLED"
    await house.login("ann@example.com", ip=HOME)
    house.clock.advance(ACCOUNT_LIMIT.longest)
    await house.login("ann@example.com", ip="192.0.2.9")


async def test_one_password_on_many_accounts_is_slowed_down_by_the_address(house: House) -> None:
    """AUTHN-8: spraying; a success of the attacker's own account does not set it back. IPv6: the /64 is one."""
    await house.register("eve@example.com")
    for number in range(ADDRESS_LIMIT.free):
        await _fails(house, f"user{number}@example.com", ip=f"2001:db8:0:1::{number:x}")
        if number == 50:
            await house.login("eve@example.com", ip="2001:db8:0:1::ffff")
    assert (await _fails(house, "next@example.com", ip="2001:db8:0:1::eeee")).reason == "LOGIN_THROTTLED"
    assert (await _fails(house, "next@example.com", ip="2001:db8:0:2::1")).reason == "CREDENTIALS_INVALID"


async def test_guesses_at_the_same_time_count_like_guesses_in_a_row(house: House) -> None:
    """AUTHN-8: concurrency is no way around the brakes."""
    await house.register("ann@example.com")
    await _fails(house)
    errors = await asyncio.gather(*(_fails(house) for _ in range(40)))
    assert sum(error.reason == "CREDENTIALS_INVALID" for error in errors) < PAIR_LIMIT.free
    assert sum(error.reason == "LOGIN_THROTTLED" for error in errors) > 40 - PAIR_LIMIT.free


async def test_a_pause_is_put_on_record_once(house: House) -> None:
    """AUDIT-1: a flood does not flood the record."""
    await house.register("ann@example.com")
    for _ in range(PAIR_LIMIT.free + 20):
        await _fails(house)
    failures = [event.data["failure"] for event in await house.events("auth.login.failed")]
    assert failures == ["password"] * PAIR_LIMIT.free + ["throttled"]


async def test_an_old_hash_is_made_anew_at_sign_in(house: House) -> None:
    """AUTHN-7: parameters change, passwords stay."""
    await house.register("ann@example.com")
    old = argon2.PasswordHasher(time_cost=3, memory_cost=16, parallelism=1).hash(PASSWORD)
    table = TABLES["authentication"].tables["credentials"]
    await house.runtime("authentication").db.execute(sa.update(table).values(password_hash=old))
    await house.login("ann@example.com")
    (row,) = await house.rows("authentication", "credentials")
    assert row.password_hash != old
    await house.login("ann@example.com")
    assert await house.rows("authentication", "credentials") == [row]


async def test_a_flood_of_sign_ins_is_told_to_come_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """AUTHN-8: hashing is bounded; the answer is 503 with a time, not a queue without end."""
    await house.register("ann@example.com")
    passwords = house.services["authentication"].parts.handlers._parts.passwords  # type: ignore[attr-defined]
    monkeypatch.setattr(passwords, "_limit", PasswordHasher("fast", at_once=1, waiting=0)._limit)
    verify, go_on = passwords._verify, threading.Event()

    def slow(*arguments: Any) -> Any:
        go_on.wait(30)
        return verify(*arguments)

    monkeypatch.setattr(passwords, "_verify", slow)
    logins = [asyncio.create_task(house.login("ann@example.com", ip=f"192.0.2.{n}")) for n in range(8)]
    done, waiting = await asyncio.wait(logins, return_when=asyncio.FIRST_COMPLETED)
    while len(waiting) > 1:
        more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        done |= more
    go_on.set()
    refused = [task.exception() for task in done]
    assert len(refused) == 7
    assert all(isinstance(error, UnavailableError) for error in refused)
    assert all(error.reason == "PASSWORD_QUEUE_FULL" and error.retry_after for error in refused)  # type: ignore[union-attr]
    assert (await waiting.pop()).access_token


async def test_sessions_and_brakes_survive_a_restart(databases: Databases) -> None:
    """AUTHN-4: the database is the truth."""
    async with open_house(databases) as house:
        tokens, ann = await house.person("ann@example.com")
        await house.register("bob@example.com")
        for _ in range(PAIR_LIMIT.free + 6):
            await _fails(house, "bob@example.com")
        await house.settled()
        clock = house.clock
    async with open_house(databases, clock=clock) as house:
        assert await house.validate(tokens.access_token) == ann
        assert (await _fails(house, "bob@example.com", PASSWORD)).reason == "LOGIN_THROTTLED"
