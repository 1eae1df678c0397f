"""Tokens to principals: every service asks the Authentication service itself and trusts no header (GATE-2).

An answer is kept for `TTL` seconds, so that a signature is not verified for every request; a session that ended or a
user who was shut out is therefore out within `TTL` (AUTHN-4 allows 5 s).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, Protocol

from cachebox import TTLCache

from taskman_sdk import contract
from taskman_sdk.errors import UnauthenticatedError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import ValidateTokenRequest, ValidateTokenResponse
from taskman_server.kit.coalesce import Coalescer
from taskman_server.kit.rpc.call import Principal, service_principal
from taskman_server.kit.rpc.channel import CallOptions, Channels

if TYPE_CHECKING:
    from taskman_server.kit.clock import Clock

__all__ = ["TTL", "Authenticator"]

TTL: Final = 1.0
SIZE: Final = 10_000
LONGEST: Final = 8192
"""No token of ours is longer; ValidateToken takes no longer one."""


class Identified(Protocol):
    """A request that has an id."""

    @property
    def request_id(self) -> str: ...


class Authenticator:
    """Verifies access tokens by `AuthenticationService.ValidateToken`, with a short memory."""

    def __init__(self, channels: Channels, service: str, clock: Clock) -> None:
        self._channels = channels
        self._caller = service_principal(service, "")
        self._clock = clock
        self._known: TTLCache[bytes, tuple[Principal, float]] = TTLCache(SIZE, global_ttl=TTL)
        self._asking: Coalescer[bytes, tuple[Principal, float]] = Coalescer()

    async def authenticate(self, token: str, caller: Identified) -> Principal:
        """Whose token it is.

        Raises:
            UnauthenticatedError: it is not good, expired, or its session has ended.
        """
        if len(token) > LONGEST:
            raise UnauthenticatedError("The access token is not valid. Sign in again.", reason="TOKEN_INVALID")
        # Hashed: a memory dump of the cache gives away no token.
        key = hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=20).digest()
        known = self._known.get(key)
        if known is None or known[1] <= self._clock.now().timestamp():
            request_id = caller.request_id
            known = await self._asking.get(key, lambda: self._ask(token, request_id))
            self._known[key] = known
        return known[0]

    async def _ask(self, token: str, request_id: str) -> tuple[Principal, float]:
        answer = await self._channels.unary(
            contract.method("AuthenticationService.ValidateToken"),
            ValidateTokenRequest(access_token=token),
            CallOptions(caller=self._caller, timeout=5, metadata={"x-request-id": request_id}),
        )
        assert isinstance(answer, ValidateTokenResponse)
        assert answer.principal is not None
        assert answer.expire_time is not None
        found = answer.principal
        principal = Principal(found.id, "user", found.organization, found.session)
        return principal, answer.expire_time.to_seconds()
