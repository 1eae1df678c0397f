"""Secrets: made at random, kept as hashes. Passwords with Argon2id (OWASP's 19 MiB profile), off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import sys
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import argon2

from taskman_sdk.errors import UnavailableError

__all__ = ["PasswordHasher", "Verdict", "digest", "new_secret"]

T = TypeVar("T")
Profile = Literal["standard", "fast"]
# OWASP Password Storage Cheat Sheet: 19 MiB, two passes, one lane. `fast` is for tests and benches alone.
_PROFILES: Final[dict[Profile, argon2.PasswordHasher]] = {
    "standard": argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1),
    "fast": argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1),
}

_NICE: Final = 10


def new_secret(prefix: str) -> str:
    """A secret of 256 random bits in URL-safe letters, after a prefix by which scanners find a leaked one."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def digest(secret: str) -> str:
    """What is stored of a random secret: SHA-256 in hex. Too weak for passwords, which can be guessed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found.

    Attributes:
        matches: the password is the right one.
        outdated: it was hashed with other parameters than today's, and should be hashed again.
    """

    matches: bool
    outdated: bool = False


class PasswordHasher:
    """Argon2id in a few threads, with a bound on how many wait: a flood of logins cannot take the memory or the CPU."""

    def __init__(self, profile: Profile = "standard", *, at_once: int = 2, waiting: int = 200) -> None:
        """Args:
        profile: `standard`, or `fast` for tests.
        at_once: how many hashes are worked out at the same time; each takes 19 MiB.
        waiting: how many more may wait for their turn.
        """
        self._argon2 = _PROFILES[profile]
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="password", initializer=_give_way)
        self._limit = at_once + waiting
        self._taken = 0
        # Verified where there is no hash, so that it takes as long as where there is one.
        self._decoy = self._argon2.hash(secrets.token_urlsafe(16))

    async def hash(self, password: str) -> str:
        """The encoded hash, with its parameters and salt.

        Raises:
            UnavailableError: too many are waiting.
        """
        return await self._run(lambda: self._argon2.hash(_normal(password)))

    async def verify(self, encoded: str | None, password: str) -> Verdict:
        """Whether the password has this hash. Without a hash it takes as long, and is never right.

        Raises:
            UnavailableError: too many are waiting.
        """
        return await self._run(lambda: self._verify(encoded, password))

    def _verify(self, encoded: str | None, password: str) -> Verdict:
        try:
            self._argon2.verify(encoded or self._decoy, _normal(password))
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return Verdict(False)
        if encoded is None:
            return Verdict(False)
        return Verdict(True, self._argon2.check_needs_rehash(encoded))

    async def _run(self, work: Callable[[], T]) -> T:
        if self._taken >= self._limit:
            raise UnavailableError(
                "Too many passwords are being checked right now. Try again in a moment.",
                reason="PASSWORD_QUEUE_FULL",
                retry_after=1,
            )
        self._taken += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        future.add_done_callback(self._release)  # not `finally`: the thread works on when the caller has gone
        return await future

    def _release(self, _: object) -> None:
        self._taken -= 1


def _give_way() -> None:
    """Those who sign in may use what of the processors the event loop leaves, not the other way round."""
    if sys.platform == "linux":  # elsewhere a priority is the whole process's
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _normal(password: str) -> bytes:
    # NIST SP 800-63B 5.1.1.2: the same password typed on another keyboard may arrive in another Unicode form.
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
