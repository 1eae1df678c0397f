"""Calls inside the process: to a server that runs in the same event loop, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

from taskman_sdk.codec import Message
from taskman_sdk.contract import Method
from taskman_sdk.errors import DeadlineExceededError, TaskManError

__all__ = ["LocalChannel", "LocalTransport"]


class LocalChannel(Protocol):
    """What an embedded server offers: the same two functions as a transport."""

    @property
    def unary(self) -> Callable[..., Awaitable[Message[Any]]]:
        """`await unary(method, request, metadata=…, timeout=…)`."""
        ...

    @property
    def stream(self) -> Callable[..., AsyncIterator[Message[Any]]]:
        """`stream(method, request, metadata=…, timeout=…)`."""
        ...


class LocalTransport:
    """Calls over a channel of an embedded server.

    Args:
        channel: the server's; it stays the server's to close.
        loop: the event loop that the server runs in, when it is not the caller's.
    """

    host = "local"

    def __init__(self, channel: LocalChannel, *, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._channel = channel
        self._loop = loop

    async def unary(
        self, method: Method, request: Message[Any], *, metadata: Mapping[str, str], timeout: float
    ) -> Message[Any]:
        """See `Transport.unary`."""
        call = self._channel.unary(method, request, metadata=metadata, timeout=timeout)
        answer: Message[Any] = await self._bounded(call, method, timeout)
        return answer

    async def stream(
        self, method: Method, request: Message[Any], *, metadata: Mapping[str, str], timeout: float
    ) -> AsyncIterator[Message[Any]]:
        """See `Transport.stream`."""
        answers = self._channel.stream(method, request, metadata=metadata, timeout=timeout)
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            while True:
                left = deadline - asyncio.get_running_loop().time()
                answer = await self._bounded(anext(answers, None), method, left)
                if answer is None:
                    return
                yield answer
        finally:
            close = getattr(answers, "aclose", None)
            if close is not None:
                await self._over(close())

    async def close(self) -> None:
        """Nothing to close."""

    async def _bounded(self, call: Awaitable[Any], method: Method, timeout: float) -> Any:
        try:
            async with asyncio.timeout(timeout):
                return await self._over(call)
        except TimeoutError as error:
            if isinstance(error, TaskManError):
                raise
            raise DeadlineExceededError(
                f"The server did not answer {method.operation_id} within {timeout:.3g} s."
            ) from None

    async def _over(self, call: Awaitable[Any]) -> Any:
        """Awaits, in the server's own loop where that is another one (the sync client has a private loop)."""
        if self._loop is None or self._loop is asyncio.get_running_loop():
            return await call

        async def run() -> Any:
            return await call

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), self._loop))
