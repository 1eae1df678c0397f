"""Brakes on guessing passwords that do not lock an owner out (AUTHN-8).

Three counters of failures, each with a pause that doubles: for an account from one address, for an address whatever
the account, and for an account from all addresses together. The last one does not hold for an address that the
account was signed in from before. An attacker therefore slows down only the addresses they attack from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from taskman_sdk.errors import ResourceExhaustedError
from taskman_server.kit.crypto import digest
from taskman_server.kit.db import Transaction
from taskman_server.services.authentication import rules
from taskman_server.services.authentication.store import AuthenticationStore

__all__ = ["Attempt", "Throttle"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """Somebody tries a password.

    Attributes:
        pair: the counter of the account from this address.
        counters: all counters that a failure adds to.
        checked: those that the attempt has to wait for.
    """

    pair: str
    counters: Sequence[tuple[str, rules.Limit]]
    checked: Sequence[tuple[str, rules.Limit]]


class Throttle:
    """Counts failures in the database and attempts that are under way here."""

    def __init__(self, store: AuthenticationStore) -> None:
        self._store = store
        self._under_way: Counter[str] = Counter()

    @staticmethod
    def attempt(account: str, ip_address: str, *, known_address: bool) -> Attempt:
        """The counters of an attempt.

        Args:
            account: the address of the account, whether there is one or not.
            ip_address: where the attempt comes from; empty when that is not known.
            known_address: the account was signed in from there before.
        """
        name = digest(account)[:32]  # the table holds no address of somebody who has no account
        prefix = rules.address_prefix(ip_address)
        pair = f"pair:{name}:{prefix}"
        everywhere = (f"account:{name}", rules.ACCOUNT_LIMIT)
        checked = [(pair, rules.PAIR_LIMIT)]
        if prefix:
            checked.append((f"address:{prefix}", rules.ADDRESS_LIMIT))
        counters = [*checked, everywhere]
        return Attempt(pair, counters, checked if known_address else counters)

    async def check(self, attempt: Attempt, now: datetime) -> tuple[str, float]:
        """The counter that says to wait longest, and for how many seconds; 0 for an attempt that may begin."""
        rows = await self._store.throttles([key for key, _ in attempt.checked])
        longest = ("", 0.0)
        for key, limit in attempt.checked:
            row = rows.get(key)
            failures, last_time = (row.failures, row.last_time) if row is not None else (0, now)
            seconds = rules.wait(limit, failures, last_time, self._under_way[key], now)
            if seconds > longest[1]:
                longest = (key, seconds)
        return longest

    @contextmanager
    def under_way(self, attempt: Attempt) -> Iterator[None]:
        """Around the checking of the password, so that many guesses at once count as many."""
        for key, _ in attempt.counters:
            self._under_way[key] += 1
        try:
            yield
        finally:
            for key, _ in attempt.counters:
                self._under_way[key] -= 1
                if not self._under_way[key]:
                    del self._under_way[key]

    async def failed(self, tx: Transaction, attempt: Attempt, now: datetime) -> None:
        """Counts a failure."""
        # Always in the same order of kinds, so that no two transactions wait for each other.
        for key, _ in attempt.counters:
            await self._store.count_failure(tx, key, now, now - rules.FORGET)

    async def succeeded(self, tx: Transaction, attempt: Attempt) -> None:
        """Forgets the failures of the account from this address; not those of the address: an attacker who signs in
        to an account of their own now and then must not start afresh."""
        await self._store.clear_throttle(tx, attempt.pair)


def throttled(seconds: float) -> ResourceExhaustedError:
    """The error for an attempt that has to wait; the same whether there is such an account or not."""
    whole = max(1, int(seconds + 0.999))
    return ResourceExhaustedError(
        f"Too many failed attempts from here. Try again in {whole} s, or reset the password.",
        reason="LOGIN_THROTTLED",
        retry_after=whole,
    )
