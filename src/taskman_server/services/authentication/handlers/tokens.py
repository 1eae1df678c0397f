"""Whose token is this, and which keys verify it."""

from __future__ import annotations

from collections.abc import Sequence

from taskman_sdk.codec import Timestamp
from taskman_sdk.errors import UnauthenticatedError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import (
    GetJwksRequest,
    Jwks,
    Principal,
    ValidateTokenRequest,
    ValidateTokenResponse,
)
from taskman_server.kit.db import Row
from taskman_server.kit.rpc import Call
from taskman_server.services.authentication.parts import Parts
from taskman_server.services.authentication.tokens import Claims

__all__ = ["TokenHandlers"]


class TokenHandlers:
    """Verification."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def validate_token(self, request: ValidateTokenRequest, call: Call) -> ValidateTokenResponse:
        """Signature from a cache, session and user from the database each time: who is shut out is out (AUTHN-4). Where
        replicas share a cache, that a session lives is known for a moment."""
        claims = await self._parts.keys.verify(request.access_token)
        sessions = self._parts.sessions
        if sessions is None:
            await self._check_session(claims)
        elif not await sessions.lives(claims):
            asked = sessions.now()
            await self._check_session(claims)
            sessions.keep(claims, asked)
        return ValidateTokenResponse(
            principal=Principal(id=claims.user, type="user", organization=claims.organization, session=claims.session),
            expire_time=Timestamp.from_seconds(claims.expires),
            confirmed=await self._confirmed(request.known) if request.known else [],
        )

    async def _check_session(self, claims: Claims) -> None:
        if not _lives(await self._parts.store.session_state(claims.session), claims):
            raise UnauthenticatedError("The session has ended. Sign in again.", reason="SESSION_ENDED")

    async def _confirmed(self, marks: Sequence[bytes]) -> list[int]:
        """The places of those that are good, each looked at as the one token is; their sessions in one read."""
        known = await self._parts.keys.known(marks)
        sessions = sorted({claims.session for claims in known if claims is not None})
        states = await self._parts.store.session_states(sessions) if sessions else {}
        return [
            place
            for place, claims in enumerate(known)
            if claims is not None and _lives(states.get(claims.session), claims)
        ]

    async def get_jwks(self, request: GetJwksRequest, call: Call) -> Jwks:
        """The public half of every key that verifies, the signing one first (AUTHN-3)."""
        return Jwks(keys=list(await self._parts.keys.public_keys()))


def _lives(state: Row | None, claims: Claims) -> bool:
    return (
        state is not None
        and state.end_time is None
        and state.state == "active"
        and (state.user_id, state.organization) == (claims.user, claims.organization)
    )
