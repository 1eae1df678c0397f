"""Tokens to principals: every service asks the Authentication service itself and trusts no header (GATE-2).

An answer is kept for `TTL` seconds from when it was asked for (see `kit.answers`), so that a signature is not verified
for every request; a session that ended or a user who was shut out is therefore out within `TTL` of the Authentication
service's knowing it.
That is at once, or where the service reads from Redis and could not tell it, within 2 s more: 3 s of the 5 s that
AUTHN-4 allows, the rest is for the way of `user.deactivated`. With Redis a session's end is also told to all who
listen, which mostly makes it a matter of milliseconds; nobody relies on that.

An answer that has grown old is not asked for alone: the question names all tokens that were used lately, and each is
looked at as the one is (its key, its times, its session, its user). So thousands of people are one call a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from cachebox import TTLCache

from taskman_sdk import contract
from taskman_sdk.errors import TaskManError, UnauthenticatedError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import ValidateTokenRequest, ValidateTokenResponse
from taskman_server.kit.answers import AnswerCache
from taskman_server.kit.coalesce import Coalescer
from taskman_server.kit.rpc.call import Principal, service_principal
from taskman_server.kit.rpc.channel import CallOptions, Channels
from taskman_server.kit.telemetry import CacheUse

if TYPE_CHECKING:
    from taskman_server.kit.clock import Clock
    from taskman_server.kit.redis import Redis
    from taskman_server.kit.telemetry import Telemetry

__all__ = ["ENDED", "TTL", "Authenticator"]

TTL: Final = 1.0
SIZE: Final = 10_000
ENDED: Final = "ended"
"""The channel on which the Authentication service tells of sessions that ended: their ids, with blanks between."""
USED: Final = 10.0
"""Seconds; tokens that were not used for so long are not asked about with others."""
MOST: Final = 2000
"""As many tokens as ValidateToken takes."""
LONGEST: Final = 8192
"""No token of ours is longer; ValidateToken takes no longer one."""


class Identified(Protocol):
    """A request that has an id."""

    @property
    def request_id(self) -> str: ...


class Authenticator:
    """Verifies access tokens by `AuthenticationService.ValidateToken`, with a short memory."""

    def __init__(
        self,
        channels: Channels,
        service: str,
        clock: Clock,
        telemetry: Telemetry | None = None,
        redis: Redis | None = None,
    ) -> None:
        """Args:
        channels: to the Authentication service.
        service: who asks.
        clock: the time.
        telemetry: counts how often the memory helps.
        redis: tells of sessions that ended.
        """
        self._channels = channels
        self._caller = service_principal(service, "")
        self._clock = clock
        use = telemetry.cache("tokens") if telemetry is not None else CacheUse()
        self._known: AnswerCache[bytes, tuple[Principal, float]] = AnswerCache(SIZE, TTL, use)
        self._confirming: Coalescer[str, None] = Coalescer()
        # For as long as an answer from before may be known.
        self._ended: TTLCache[str, bool] | None = None
        if redis is not None:
            self._ended = TTLCache(SIZE, global_ttl=TTL)
            redis.subscribe("authentication", ENDED, self._hear)

    def follow(self, changes: Callable[[], int]) -> None:
        """Looks at the Authentication service's database beside it; see `AnswerCache.follow`."""
        self._known.follow(changes)

    async def authenticate(self, token: str, caller: Identified) -> Principal:
        """Whose token it is.

        Raises:
            UnauthenticatedError: it is not good, expired, or its session has ended.
        """
        if len(token) > LONGEST:
            raise UnauthenticatedError("The access token is not valid. Sign in again.", reason="TOKEN_INVALID")
        key = _key(token.encode("utf-8", "surrogatepass"))
        known = self._known.get(key, self._good)
        if known is None:
            request_id = caller.request_id
            if not self._known.follows and self._known.knows(key):
                # One question for all whose answers have grown old.
                await self._confirming.get("", lambda: self._confirm(key, token, request_id))
                known = self._known.look(key, self._good)
            if known is None:
                known = await self._known.ask(key, lambda: self._ask(token, request_id), self._good)
        return known[0]

    def known(self, token: bytes) -> Principal | None:
        """Whose token it is, where nobody has to be asked."""
        known = self._known.look(_key(token), self._good)
        return known[0] if known is not None else None

    def _good(self, known: tuple[Principal, float], asked: float) -> bool:
        return known[1] > self._clock.now().timestamp() and (self._ended is None or known[0].session not in self._ended)

    def _hear(self, sessions: str) -> None:
        assert self._ended is not None
        for session in sessions.split():
            self._ended[session] = True

    async def _confirm(self, key: bytes, token: str, request_id: str) -> None:
        """Asks about a token, and with it about all that were used lately."""
        others = [each for each in self._known.old(USED, MOST) if each != key]
        asked = self._known.monotonic()
        try:
            answer = await self._validate(token, request_id, others)
        except UnauthenticatedError:
            self._known.forget(key)
        except TaskManError:
            return  # each asks for itself, and is told
        else:
            self._known.confirm([key, *(others[place] for place in answer.confirmed)], asked)

    async def _ask(self, token: str, request_id: str) -> tuple[Principal, float]:
        answer = await self._validate(token, request_id, [])
        assert answer.principal is not None
        assert answer.expire_time is not None
        found = answer.principal
        return Principal(found.id, "user", found.organization, found.session), answer.expire_time.to_seconds()

    async def _validate(self, token: str, request_id: str, known: list[bytes]) -> ValidateTokenResponse:
        answer = await self._channels.unary(
            contract.method("AuthenticationService.ValidateToken"),
            ValidateTokenRequest(access_token=token, known=known),
            CallOptions(caller=self._caller, timeout=5, metadata={"x-request-id": request_id}),
        )
        assert isinstance(answer, ValidateTokenResponse)
        return answer


def _key(token: bytes) -> bytes:
    # Hashed: a memory dump of the cache gives away no token.
    return hashlib.blake2b(token, digest_size=20).digest()
