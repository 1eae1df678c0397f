"""Password hashes, off the loop and bounded."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

import argon2
import pytest

from taskman_sdk.errors import UnavailableError
from taskman_server.kit.crypto import PasswordHasher, digest, new_secret


async def test_a_password_matches_its_own_hash_only() -> None:
    """AUTHN-7: Argon2id with a salt of its own each time, nothing cut off."""
    hasher = PasswordHasher("fast")
    first, second = await hasher.hash("x" * 1023 + "y"), await hasher.hash("x" * 1023 + "y")
    assert first != second
    assert first.startswith("$argon2id$")
    assert (await hasher.verify(first, "x" * 1023 + "y")).matches
    assert not (await hasher.verify(first, "x" * 1023 + "z")).matches


async def test_the_standard_profile_is_the_one_that_owasp_recommends() -> None:
    """AUTHN-7: 19 MiB, two passes, one lane."""
    parameters = argon2.extract_parameters(await PasswordHasher().hash("pw"))
    assert (parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (19_456, 2, 1)


async def test_a_hash_with_other_parameters_matches_and_is_outdated() -> None:
    """AUTHN-7: upgraded at login."""
    old = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash("secret")
    verdict = await PasswordHasher("fast").verify(old, "secret")
    assert (verdict.matches, verdict.outdated) == (True, True)


@pytest.mark.parametrize("encoded", [None, "", "not a hash", "$argon2id$v=19$m=8,t=1,p=1$AAAA$AAAA"])
async def test_without_a_good_hash_nothing_matches(encoded: str | None) -> None:
    """AUTHN-5: no account, no password, a damaged row: never right."""
    assert not (await PasswordHasher("fast").verify(encoded, "anything")).matches


async def test_the_same_letters_match_in_any_unicode_form() -> None:
    """AUTHN-7: NIST SP 800-63B asks for normalisation."""
    hasher = PasswordHasher("fast")
    assert (await hasher.verify(await hasher.hash("caf\u00e9 noir"), "cafe\u0301 noir")).matches
    assert (await hasher.verify(await hasher.hash("\ud800 lone"), "\ud800 lone")).matches


async def test_a_flood_is_refused_instead_of_queued_without_end() -> None:
    """AUTHN-8: bounded work; the slots come back, those of callers who left too."""
    hasher = PasswordHasher("fast", at_once=1, waiting=2)
    answers = await asyncio.gather(*(hasher.hash("p") for _ in range(10)), return_exceptions=True)
    refused = [each for each in answers if isinstance(each, UnavailableError)]
    assert len(refused) == 7
    assert all(each.retry_after for each in refused)
    gone = asyncio.create_task(hasher.hash("p"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    for _ in range(5):
        assert await hasher.hash("p")


def test_secrets_are_long_random_and_kept_as_hashes() -> None:
    """AUTHN-2: 256 bits."""
    first, second = new_secret("tmr"), new_secret("tmr")
    assert first != second
    assert len(first) == len("tmr_") + 43
    assert digest(first) != digest(second)
    assert first not in digest(first)


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has no priority of its own elsewhere")
async def test_passwords_are_checked_behind_everything_else() -> None:
    """GATE-9: a flood of sign-ins takes what the event loop leaves of the processors."""
    hasher = PasswordHasher("fast")
    await hasher.hash("x")
    usual = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    theirs = {os.getpriority(os.PRIO_PROCESS, each.native_id or 0) for each in hasher._pool._threads}
    assert min(theirs) > usual
