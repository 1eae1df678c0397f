"""Decisions of the Authentication service: passwords, refresh tokens, pauses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskman_sdk.errors import InvalidArgumentError
from taskman_server.services.authentication import rules
from taskman_server.services.authentication.passwords import check_password, common_passwords

NOW = datetime(2030, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("short-7", "PASSWORD_TOO_SHORT"),
        ("ﬃﬃ", "PASSWORD_TOO_SHORT"),
        ("x" * 1025, "PASSWORD_TOO_LONG"),
        ("Password123", "PASSWORD_TOO_COMMON"),
        ("QWERTYUIOP", "PASSWORD_TOO_COMMON"),
        ("1qaz2wsx", "PASSWORD_TOO_COMMON"),
        ("aaaaaaaaaaaaaaaaaaaaaaa", "PASSWORD_TOO_COMMON"),
        ("Ann@Example.com", "PASSWORD_PERSONAL"),
        ("ann.example", "PASSWORD_PERSONAL"),
        ("ANN EXAMPLE", "PASSWORD_PERSONAL"),
    ],
)
def test_guessable_passwords_are_refused_with_their_reason(password: str, reason: str) -> None:
    """AUTHN-7: length, known passwords, the person's own name; NIST SP 800-63B."""
    personal = ("ann@example.com", "ann.example", "Ann Example")
    problem = rules.password_problem(password, common_passwords(), personal)
    assert problem is not None
    assert problem.reason == reason


@pytest.mark.parametrize("password", ["a-stapled-otter-91", "ünïcödé pässwörd", "x7$kQ2mz", "only lower case words"])
def test_unusual_passwords_are_taken_whatever_characters_they_have(password: str) -> None:
    """AUTHN-7: no composition rules."""
    assert rules.password_problem(password, common_passwords(), ("bob@example.com", "bob", "Bob")) is None


def test_a_refused_password_is_not_in_the_error() -> None:
    """AUTHN-7: no secret in an error."""
    with pytest.raises(InvalidArgumentError) as caught:
        check_password("password123", email="a@example.com", field="new_password")
    assert "password123" not in str(caught.value)
    assert caught.value.field_violations[0].field == "new_password"


def test_the_list_of_known_passwords_is_folded_and_without_the_short() -> None:
    """AUTHN-7: shipped in the package, checked without case."""
    known = common_passwords()
    assert len(known) > 3000
    assert all(word == word.casefold() and len(word) >= rules.MIN_PASSWORD for word in known)


def _session(generation: int, *, rotated: float, ended: bool = False) -> rules.SessionState:
    return rules.SessionState(generation, NOW - timedelta(seconds=rotated), ended)


LATER = NOW + timedelta(days=1)


def test_the_token_in_force_rotates_and_a_lost_answer_is_repeated() -> None:
    """AUTHN-2: the immediate predecessor is honoured for ten seconds, while its successor is unused."""
    assert rules.decide_refresh(3, LATER, _session(3, rotated=5000), NOW) == "rotate"
    assert rules.decide_refresh(2, LATER, _session(3, rotated=9.9), NOW) == "repeat"
    assert rules.decide_refresh(2, LATER, _session(3, rotated=10.1), NOW) == "reused"
    assert rules.decide_refresh(3, NOW, _session(3, rotated=5000), NOW) == "expired"
    assert rules.decide_refresh(3, LATER, _session(3, rotated=1, ended=True), NOW) == "ended"


@given(st.integers(1, 50), st.integers(0, 50), st.floats(0, 100))
def test_whatever_is_older_than_the_predecessor_is_reuse(generation: int, age: int, rotated: float) -> None:
    """AUTHN-2: only two generations are ever honoured."""
    token = generation - age
    decision = rules.decide_refresh(token, LATER, _session(generation, rotated=rotated), NOW)
    if age >= 2:
        assert decision == "reused"
    elif age == 0:
        assert decision == "rotate"


@given(st.sampled_from([rules.PAIR_LIMIT, rules.ADDRESS_LIMIT, rules.ACCOUNT_LIMIT]), st.integers(0, 2000))
def test_pauses_grow_to_their_longest_and_never_shrink(limit: rules.Limit, failures: int) -> None:
    """AUTHN-8: exponential, bounded."""
    assert 0 <= rules.pause(limit, failures) <= rules.pause(limit, failures + 1) <= limit.longest
    assert (rules.pause(limit, failures) == 0) == (failures < limit.free)


def test_a_pause_runs_out_and_failures_are_forgotten() -> None:
    """AUTHN-8: nobody is locked out for good."""
    limit = rules.PAIR_LIMIT
    assert rules.wait(limit, limit.free + 3, NOW, 0, NOW) == 8
    assert rules.wait(limit, limit.free + 3, NOW, 0, NOW + timedelta(seconds=8)) == 0
    assert rules.wait(limit, 500, NOW, 0, NOW + timedelta(seconds=limit.longest)) == 0
    assert rules.remembered(500, NOW, NOW + timedelta(hours=1)) == 0


def test_guesses_that_are_under_way_count_as_failures_once_there_was_one() -> None:
    """AUTHN-8: many guesses at once are as slow as one after the other."""
    limit = rules.PAIR_LIMIT
    assert rules.wait(limit, 0, NOW, limit.burst - 1, NOW) == 0
    assert rules.wait(limit, 0, NOW, limit.burst, NOW) > 0
    assert rules.wait(limit, 3, NOW, 1, NOW) == 0
    assert rules.wait(limit, 3, NOW, 2, NOW) > 0
    assert rules.wait(limit, 9, NOW - timedelta(seconds=20), 1, NOW) > 0
    assert rules.wait(limit, 9, NOW - timedelta(seconds=20), 0, NOW) == 0


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix", ""),
    ],
)
def test_an_address_stands_for_its_subscriber(address: str, prefix: str) -> None:
    """AUTHN-8: whoever has an IPv6 network has 2^64 addresses, and is one."""
    assert rules.address_prefix(address) == prefix
