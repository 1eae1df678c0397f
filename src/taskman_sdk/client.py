"""The clients: `AsyncTaskMan`, and `TaskMan`, which is the same for code without an event loop."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from taskman_sdk import codec, contract
from taskman_sdk._version import __version__
from taskman_sdk.credentials import Credentials, TokenKeeper
from taskman_sdk.errors import TaskManError, UnauthenticatedError
from taskman_sdk.resilience import Gate, Resilience, RetryBudget, RetryPolicy
from taskman_sdk.resources import AsyncResources
from taskman_sdk.transports import Transport, open_transport

if TYPE_CHECKING:
    import httpx

__all__ = ["DEFAULT_URL", "AsyncTaskMan"]

T = TypeVar("T")
Self = TypeVar("Self", bound="AsyncTaskMan")
DEFAULT_URL: Final = "http://127.0.0.1:8080"
# A stream goes on for as long as it has something to say.
STREAM_TIMEOUT: Final = 3600.0


class AsyncTaskMan(AsyncResources):
    """A client of a TaskMan server, for asyncio.

    Each resource is an attribute: `await client.tasks.get("WEB-42")`, `async for user in client.users.list(): …`.
    One client may be used by any number of tasks at once.

    Args:
        base_url: `http(s)://…` for REST, `grpc(s)://…` for gRPC. `TASKMAN_URL`, then the profile's, when not given.
        token: an access token, or `Credentials` that can be refreshed. `TASKMAN_TOKEN`, then the profile's, when not
            given.
        profile: a profile of the command line (`taskman login`); `TASKMAN_PROFILE` when not given.
        timeout: seconds for a whole call with its retries.
        max_retries: attempts after the first, for calls that may be repeated without harm.
        http_client: your own `httpx.AsyncClient`; it stays yours to close.
        transport: another way to the server, for example to one in this process; it stays yours to close.
        retry: more about retries than `max_retries` says.

    Raises:
        ValueError: the URL is none, or the profile does not exist.
    """

    def __init__(
        self,
        base_url: str | None = None,
        token: str | Credentials | None = None,
        *,
        profile: str | None = None,
        timeout: float = 30.0,
        max_retries: int = 2,
        http_client: httpx.AsyncClient | None = None,
        transport: Transport | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.base_url, self.credentials = _resolve(base_url, token, profile, transport is not None)
        self.timeout = timeout
        self._http_client = http_client
        self._given = transport
        self._transport: Transport | None = transport or open_transport(self.base_url, http_client=http_client)
        self._policy = retry or RetryPolicy(max_retries=max_retries)
        self._budget = RetryBudget()
        self._gate = Gate(self._transport.host)
        self._keeper = TokenKeeper(self.credentials, self._refresh)
        self._resilience = Resilience(self._transport.host, self._policy, budget=self._budget, gate=self._gate)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._caller = self

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"

    async def close(self) -> None:
        """Closes connections; the client cannot be used after."""
        transport, self._transport = self._transport, None
        if transport is not None and transport is not self._given:
            await transport.close()

    async def call(
        self,
        method: contract.Method,
        request: codec.Message[Any],
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> codec.Message[Any]:
        """Calls any RPC of the contract with a message of it; what all verbs of the resources are made of.

        Raises:
            TaskManError: see `taskman_sdk.errors`.
        """
        transport = self._ready()
        seconds = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        metadata, safe = self._metadata(method, idempotency_key, extra_headers)

        async def attempt(left: float) -> codec.Message[Any]:
            return await transport.unary(method, request, metadata=metadata, timeout=left)

        try:
            token = await self._authorize(method, metadata)
            try:
                answer = await self._resilience.call(attempt, timeout=seconds, safe=safe)
            except UnauthenticatedError:
                if not token or not await self._authorize(method, metadata, stale=token):
                    raise
                left = max(deadline - time.monotonic(), 0.001)
                answer = await self._resilience.call(attempt, timeout=left, safe=safe)
        except TaskManError as error:
            error.request_id = error.request_id or metadata["x-request-id"]
            raise
        self._observe(method, answer)
        return answer

    async def stream(
        self,
        method: contract.Method,
        request: codec.Message[Any],
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[codec.Message[Any]]:
        """Calls any streaming RPC of the contract. Attempts are repeated until the first answer has come.

        Raises:
            TaskManError: see `taskman_sdk.errors`.
        """
        transport = self._ready()
        seconds = STREAM_TIMEOUT if timeout is None else timeout
        metadata, safe = self._metadata(method, idempotency_key, extra_headers)
        opened: list[AsyncIterator[codec.Message[Any]]] = []

        async def attempt(left: float) -> codec.Message[Any] | None:
            answers = transport.stream(method, request, metadata=metadata, timeout=left)
            first = await anext(answers, None)
            opened.append(answers)
            return first

        try:
            token = await self._authorize(method, metadata)
            try:
                answer = await self._resilience.call(attempt, timeout=seconds, safe=safe)
            except UnauthenticatedError:
                if not token or not await self._authorize(method, metadata, stale=token):
                    raise
                answer = await self._resilience.call(attempt, timeout=seconds, safe=safe)
            while answer is not None:
                yield answer
                answer = await anext(opened[-1], None)
        except TaskManError as error:
            error.request_id = error.request_id or metadata["x-request-id"]
            raise
        finally:
            for answers in opened:
                if (close := getattr(answers, "aclose", None)) is not None:
                    await close()

    def _ready(self) -> Transport:
        """The transport; a new one when this is another event loop than before, whose connections are no use here."""
        if self._transport is None:
            raise RuntimeError("this client is closed; make a new one")
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and self._given is None and self._http_client is None:
                self._transport = open_transport(self.base_url)
                self._keeper = TokenKeeper(self.credentials, self._refresh)
            self._loop = loop
        return self._transport

    def _metadata(
        self, method: contract.Method, key: str | None, extra: Mapping[str, str] | None
    ) -> tuple[dict[str, str], bool]:
        """The headers of a call, the same for all its attempts, and whether it may be repeated."""
        metadata = {
            "user-agent": _user_agent(),
            "x-request-id": f"req_{uuid.uuid4().hex}",
            "traceparent": _traceparent(),
        }
        if key is None and not method.read_only and not method.sensitive:
            key = str(uuid.uuid4())
        if key is not None and not method.read_only:
            metadata["idempotency-key"] = key
        metadata.update({name.lower(): value for name, value in (extra or {}).items()})
        return metadata, method.read_only or "idempotency-key" in metadata

    async def _authorize(self, method: contract.Method, metadata: dict[str, str], stale: str | None = None) -> str:
        """Puts the token into the metadata and answers it; empty for public calls and where there is none."""
        if method.access == "public" or (stale is None and "authorization" in metadata):
            return ""
        token = await self._keeper.token() if stale is None else await self._keeper.renewed(stale)
        if token:
            metadata["authorization"] = f"Bearer {token}"
        return token if token != stale else ""

    async def _refresh(self, refresh_token: str) -> Any:
        method = contract.service("authentication").methods["Refresh"]
        metadata, _ = self._metadata(method, None, None)
        request = codec.from_value(method.input, {"refresh_token": refresh_token})
        transport = self._ready()

        async def attempt(left: float) -> codec.Message[Any]:
            return await transport.unary(method, request, metadata=metadata, timeout=left)

        # A refresh token's immediate predecessor is honoured for a while (AUTHN-2): a second attempt does no harm.
        return await self._resilience.call(attempt, timeout=self.timeout, safe=True)

    def _observe(self, method: contract.Method, answer: Any) -> None:
        """Keeps the tokens of an answer that holds some, and forgets them at logout."""
        if hasattr(answer, "access_token") and hasattr(answer, "refresh_token"):
            self.credentials.store(answer.access_token, answer.refresh_token, float(answer.expires_in))
        elif method.operation_id == "AuthenticationService.Logout":
            self.credentials.clear()


def _resolve(
    base_url: str | None, token: str | Credentials | None, profile: str | None, local: bool
) -> tuple[str, Credentials]:
    """Arguments win over the environment, which wins over the profile."""
    if local:  # a transport of its own leads elsewhere than the environment says: its tokens stay out of it
        return base_url or "local", token if isinstance(token, Credentials) else Credentials(access_token=token or "")
    url = base_url or os.environ.get("TASKMAN_URL", "")
    found = token if token is not None else os.environ.get("TASKMAN_TOKEN") or None
    name = profile or os.environ.get("TASKMAN_PROFILE", "")
    if name and (not url or found is None):
        from taskman_sdk.profiles import Profiles

        chosen = Profiles().get(name)
        if chosen is None:
            raise ValueError(f"there is no profile {name!r}; `taskman --profile {name} login` makes one")
        url = url or chosen.url
        if found is None and url == chosen.url:  # a profile's tokens are for its own server alone
            found = Profiles().credentials(chosen)
    if isinstance(found, Credentials):
        return url or DEFAULT_URL, found
    return url or DEFAULT_URL, Credentials(access_token=found or "")


@cache
def _user_agent() -> str:
    return f"taskman-sdk/{__version__} python/{platform.python_version()} ({platform.system()})"


def _traceparent() -> str:
    """W3C trace context: of OpenTelemetry's current span where the program uses it, else a new trace."""
    if "opentelemetry" in sys.modules:
        try:
            from opentelemetry import trace

            context = trace.get_current_span().get_span_context()
            if context.is_valid:
                return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        except (ImportError, AttributeError):
            pass
    return f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-00"
