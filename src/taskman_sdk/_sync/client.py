"""`TaskMan`: the async client on a private event loop."""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from taskman_sdk import codec, contract
from taskman_sdk._portal import Portal
from taskman_sdk._sync import Resources
from taskman_sdk.client import AsyncTaskMan
from taskman_sdk.credentials import Credentials
from taskman_sdk.resilience import RetryPolicy
from taskman_sdk.transports import Transport

if TYPE_CHECKING:
    import httpx

__all__ = ["TaskMan"]

T = TypeVar("T")
Self = TypeVar("Self", bound="TaskMan")
_clients: weakref.WeakSet[TaskMan] = weakref.WeakSet()


class TaskMan(Resources):
    """A client of a TaskMan server.

    Each resource is an attribute: `client.tasks.get("WEB-42")`, `for user in client.users.list(): …`. It may be used
    by many threads, in notebooks, and in a process that was forked after it was made (SDK-7).

    Args:
        base_url: `http(s)://…` for REST, `grpc(s)://…` for gRPC. `TASKMAN_URL`, then the profile's, when not given.
        token: an access token, or `Credentials` that can be refreshed. `TASKMAN_TOKEN`, then the profile's, when not
            given.
        profile: a profile of the command line (`taskman login`); `TASKMAN_PROFILE` when not given.
        timeout: seconds for a whole call with its retries.
        max_retries: attempts after the first, for calls that may be repeated without harm.
        http_client: your own `httpx.AsyncClient`; it stays yours to close, and cannot follow into a forked process.
        transport: another way to the server; it stays yours to close, and cannot follow into a forked process.
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
        policy = retry or RetryPolicy(max_retries=max_retries)
        own = (http_client, transport)
        self._async = AsyncTaskMan(
            base_url, token, profile=profile, timeout=timeout, http_client=own[0], transport=own[1], retry=policy
        )
        self._again = partial(AsyncTaskMan, timeout=timeout, retry=policy)
        self._bound = own != (None, None)
        self._lost = False
        self._closed = False
        self._owner = self
        self._begin()
        _clients.add(self)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"

    @property
    def base_url(self) -> str:
        """Where the server is."""
        return self._async.base_url

    @property
    def credentials(self) -> Credentials:
        """The tokens in use."""
        return self._async.credentials

    def close(self) -> None:
        """Closes connections and ends the private thread; the client cannot be used after."""
        if not self._closed:
            self._closed = True
            if not self._lost:
                self._portal.run(self._async.close)
            self._finalizer()

    def call(
        self,
        method: contract.Method,
        request: codec.Message[Any],
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> codec.Message[Any]:
        """Calls any RPC of the contract with a message of it.

        Raises:
            TaskManError: see `taskman_sdk.errors`.
        """
        return self.wait(
            lambda: self.twin().call(
                method, request, idempotency_key=idempotency_key, timeout=timeout, extra_headers=extra_headers
            )
        )

    def twin(self) -> AsyncTaskMan:
        """The async client behind this one; for its resources."""
        return self._async

    def wait(self, make: Callable[[], Awaitable[T]]) -> T:
        """Runs what `make` answers on the private loop and waits for it; for its resources."""
        self._check()
        return self._portal.run(make)

    def iterate(self, make: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        """Walks what `make` answers on the private loop; for its resources."""
        self._check()
        return self._portal.iterate(make)

    def _check(self) -> None:
        if self._closed:
            raise RuntimeError("this client is closed; make a new one")
        if self._lost:
            raise RuntimeError(
                "a client with its own http_client or transport cannot be used after a fork; make a new one"
            )

    def _begin(self) -> None:
        self._portal = Portal()
        self._finalizer = weakref.finalize(self, self._portal.stop)

    def _forked(self) -> None:
        """In the child: the thread is gone and the connections are the parent's. A new loop, new connections."""
        if self._closed:
            return
        self._finalizer.detach()
        self._lost = self._bound
        if not self._bound:
            self._async = self._again(self._async.base_url, self._async.credentials)
        self._begin()


def _after_fork() -> None:
    for client in list(_clients):
        client._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
