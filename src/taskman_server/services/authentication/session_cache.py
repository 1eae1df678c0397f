"""What replicas of this service know of living sessions, in Redis (AUTHN-4).

The database is the truth, and only that a session lives is ever kept: a hit spares a read, everything else asks the
database. So a flush logs nobody out, and no fault of Redis revives a session for longer than this:

- An entry says until when it counts, `KEPT` seconds from when the database was asked. However late it arrives in Redis,
  or is found there again after a fail-over, it counts no longer, and a session's end works within `KEPT` at worst.
  Together with the second for which every service remembers an answer (`kit.identity`) these are 3 s of the 5 s.
  (Replicas' clocks may differ: an entry from a clock that goes ahead counts for as much longer, `AHEAD` at most.)
- A session's end leaves a tombstone in the place of the entry: then it works at once. Entries are put where there is
  nothing, so that a replica that has read the session before its end does not put it back over the tombstone, which
  stays for longer than any entry counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from taskman_server.kit.identity import ENDED

if TYPE_CHECKING:
    from taskman_server.kit.redis import Redis
    from taskman_server.kit.rpc import Runtime
    from taskman_server.services.authentication.tokens import Claims

__all__ = ["SessionCache"]

KEPT: Final = 2.0
AHEAD: Final = 1.0
TOMBSTONE: Final = 10.0


class SessionCache:
    """The sessions that are known to live."""

    def __init__(self, runtime: Runtime, redis: Redis) -> None:
        self._clock = runtime.clock
        self._redis = redis
        self._use = runtime.telemetry.cache("sessions")

    async def lives(self, claims: Claims) -> bool:
        """Whether the session of a token is known to live; False says nothing."""
        found = await self._redis.get(_key(claims.session))
        left = 0.0
        if found:
            until, _, whose = found.partition(b" ")
            if whose == _whose(claims):
                left = float(until) - self.now()
        known = 0 < left <= KEPT + AHEAD
        if known:
            self._use.hits += 1
        else:
            self._use.misses += 1
        return known

    def keep(self, claims: Claims, asked: float) -> None:
        """Remembers that the session lived when the database was asked (see `now`); does not wait for it."""
        until = asked + KEPT
        if (left := until - self.now()) > 0:
            value = f"{until:.6f} ".encode() + _whose(claims)
            self._redis.soon(self._redis.add(_key(claims.session), value, left))

    def end(self, sessions: Sequence[str]) -> None:
        """Tells all replicas that these have ended; does not wait for it. To be called after the commit."""
        self._redis.soon(self._end(sessions))

    def now(self) -> float:
        """The time, as `keep` takes it."""
        return self._clock.now().timestamp()

    async def _end(self, sessions: Sequence[str]) -> None:
        await self._redis.mset({_key(session): b"" for session in sessions}, TOMBSTONE)
        for start in range(0, len(sessions), 100):
            await self._redis.publish(ENDED, " ".join(sessions[start : start + 100]))


def _key(session: str) -> str:
    return f"session:{session}"


def _whose(claims: Claims) -> bytes:
    return f"{claims.user} {claims.organization}".encode()
