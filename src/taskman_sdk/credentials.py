"""Tokens: kept, refreshed before they expire by one caller at a time, and handed to whoever stores them (SDK-6)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from taskman_sdk.errors import TaskManError, UnauthenticatedError

__all__ = ["Credentials", "TokenKeeper"]

# Refreshed this many seconds before expiry, or at a tenth of a life that is shorter.
MARGIN: Final = 60.0


@dataclass
class Credentials:
    """The tokens of a session.

    Attributes:
        access_token: sent with every call.
        refresh_token: trades for the next pair, once; empty when there is none.
        expires_at: when the access token expires, in seconds since 1970; None when not known.
        lifetime: seconds from issue to expiry; 0 when not known.
        on_change: told after every change, to store them; called in the client's event loop, so it must be quick.
    """

    access_token: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)
    expires_at: float | None = None
    lifetime: float = 0.0
    on_change: Callable[[Credentials], None] | None = field(default=None, repr=False, compare=False)

    def store(self, access_token: str, refresh_token: str, expires_in: float) -> None:
        """Takes over a new pair of tokens."""
        self.access_token = access_token
        self.refresh_token = refresh_token
        self.lifetime = expires_in
        self.expires_at = time.time() + expires_in if expires_in > 0 else None
        if self.on_change is not None:
            self.on_change(self)

    def clear(self) -> None:
        """Forgets the tokens."""
        self.access_token = self.refresh_token = ""
        self.expires_at = None
        if self.on_change is not None:
            self.on_change(self)

    def due(self) -> bool:
        """Whether the access token should be refreshed before the next call."""
        if not self.refresh_token:
            return False
        if not self.access_token:
            return True
        margin = min(MARGIN, self.lifetime / 10) if self.lifetime else MARGIN
        return self.expires_at is not None and time.time() >= self.expires_at - margin


class TokenKeeper:
    """Hands out access tokens of some credentials.

    Args:
        credentials: the tokens.
        refresh: trades a refresh token; answers the message with the new pair.
    """

    def __init__(self, credentials: Credentials, refresh: Callable[[str], Awaitable[Any]]) -> None:
        self.credentials = credentials
        self._refresh = refresh
        self._running: asyncio.Task[None] | None = None

    async def token(self) -> str:
        """An access token that is good for a while; empty when there is none.

        Raises:
            TaskManError: it has expired and cannot be refreshed.
        """
        credentials = self.credentials
        if credentials.due():
            try:
                await self._renew()
            except TaskManError:
                if credentials.expires_at is None or time.time() >= credentials.expires_at:
                    raise
        return credentials.access_token

    async def renewed(self, stale: str) -> str:
        """Another access token than `stale`, which the server refused; empty when there is none to be had."""
        if self.credentials.access_token == stale:
            if not self.credentials.refresh_token:
                return ""
            await self._renew()
        return self.credentials.access_token

    async def _renew(self) -> None:
        # One task for all who wait; shielded, because a cancelled caller must not lose the others a rotated token.
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(self._trade(self.credentials.refresh_token))
        await asyncio.shield(self._running)

    async def _trade(self, refresh_token: str) -> None:
        try:
            answer = await self._refresh(refresh_token)
        except UnauthenticatedError as error:
            raise UnauthenticatedError(
                "The session is over. Sign in again.",
                reason=error.reason,
                request_id=error.request_id,
            ) from None
        self.credentials.store(answer.access_token, answer.refresh_token, answer.expires_in)
