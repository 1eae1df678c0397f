"""What the Authentication service decides: no I/O, no clock, no randomness."""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

__all__ = [
    "ACCOUNT_LIMIT", "ADDRESS_LIMIT", "CLOCK_LEEWAY", "FORGET", "GRACE", "MAX_PASSWORD", "MIN_PASSWORD", "PAIR_LIMIT",
    "Limit", "PasswordProblem", "RefreshDecision", "SessionState", "address_prefix", "decide_refresh",
    "password_problem", "pause", "remembered", "wait",
]  # fmt: skip

MIN_PASSWORD: Final = 8
MAX_PASSWORD: Final = 1024
GRACE: Final = timedelta(seconds=10)
CLOCK_LEEWAY: Final = 5
_FOLD: Final = str.casefold


@dataclass(frozen=True, slots=True)
class PasswordProblem:
    """Why a password is refused: for a program and for a person."""

    reason: str
    description: str


def password_problem(password: str, known: Container[str], personal: Sequence[str] = ()) -> PasswordProblem | None:
    """Why a password may not be chosen, after NIST SP 800-63B 5.1.1.2; None for a good one (AUTHN-7).

    Nothing is demanded of its characters: length and not being known are what counts.

    Args:
        password: as typed.
        known: passwords known from breaches, case-folded.
        personal: the account's address, its local part and the person's name.
    """
    normal = unicodedata.normalize("NFKC", password)
    if len(normal) < MIN_PASSWORD:
        return PasswordProblem("PASSWORD_TOO_SHORT", f"use at least {MIN_PASSWORD} characters")
    if len(password) > MAX_PASSWORD:
        return PasswordProblem("PASSWORD_TOO_LONG", f"use at most {MAX_PASSWORD} characters")
    folded = _FOLD(normal)
    if folded in {_FOLD(unicodedata.normalize("NFKC", word)) for word in personal if word}:
        return PasswordProblem("PASSWORD_PERSONAL", "it is your own name or address; choose something else")
    if folded in known or len(set(folded)) <= 2:
        return PasswordProblem(
            "PASSWORD_TOO_COMMON", "it is among the passwords that attackers try first; choose a longer, unusual one"
        )
    return None


@dataclass(frozen=True, slots=True)
class SessionState:
    """Where the refresh tokens of a session stand: the generation in force, and since when."""

    generation: int
    rotate_time: datetime
    ended: bool


RefreshDecision = Literal["rotate", "repeat", "reused", "expired", "ended"]


def decide_refresh(
    token_generation: int, expire_time: datetime, session: SessionState, now: datetime
) -> RefreshDecision:
    """What becomes of a refresh token (AUTHN-2, RFC 9700 section 4.14.2).

    `rotate`: it is in force, the next generation begins. `repeat`: it is the immediate predecessor and nobody has
    used the successor, so its answer was probably lost: one more token of the generation in force. `reused`: it was
    used up before; somebody else may hold a copy.
    """
    if session.ended:
        return "ended"
    if token_generation == session.generation:
        return "expired" if expire_time <= now else "rotate"
    # A successor that was used has begun a generation of its own, and this token is not the immediate predecessor.
    if token_generation == session.generation - 1 and now - session.rotate_time <= GRACE:
        return "repeat"
    return "reused"


@dataclass(frozen=True, slots=True)
class Limit:
    """How many failures are free, and how long the longest pause after the others is.

    Attributes:
        free: failures without a pause.
        longest: seconds that a pause lasts at most; it doubles with each failure until then.
        burst: attempts that may be under way at once before the first failure.
    """

    free: int
    longest: int
    burst: int


PAIR_LIMIT: Final = Limit(free=5, longest=900, burst=50)
"""For an account from one address: somebody guesses a password. No other address waits for it."""

ADDRESS_LIMIT: Final = Limit(free=100, longest=900, burst=1000)
"""For an address, whatever the account: somebody tries one password on many accounts."""

ACCOUNT_LIMIT: Final = Limit(free=50, longest=60, burst=1000)
"""For an account from all addresses that it was never signed in from: somebody guesses from many addresses."""

FORGET: Final = timedelta(hours=1)
"""Failures count no more when there was none for so long."""


def remembered(failures: int, last_time: datetime, now: datetime) -> int:
    """The failures that still count: none after an hour without one."""
    return failures if now - last_time < FORGET else 0


def pause(limit: Limit, failures: int) -> int:
    """Seconds to wait after so many failures."""
    over = failures - limit.free
    return 0 if over < 0 else min(2 ** min(over, 30), limit.longest)


def wait(limit: Limit, failures: int, last_time: datetime, under_way: int, now: datetime) -> float:
    """Seconds until the next attempt may begin; 0 for now (AUTHN-8).

    Args:
        limit: the limit of the counter.
        failures: how many it has.
        last_time: when the last of them was.
        under_way: attempts of the same kind that are not decided yet; they may all turn out to be failures.
        now: the time.
    """
    failures = remembered(failures, last_time, now)
    if failures == 0:
        return 1.0 if under_way >= limit.burst else 0.0
    left = pause(limit, failures) - (now - last_time).total_seconds()
    if left > 0:
        return left
    return 1.0 if under_way and failures + under_way >= limit.free else 0.0


def address_prefix(ip_address: str) -> str:
    """What of an address stands for one subscriber: all of IPv4, the first 64 bits of IPv6; empty when unknown."""
    try:
        address = ipaddress.ip_address(ip_address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
