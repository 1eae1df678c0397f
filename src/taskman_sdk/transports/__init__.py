"""How a call travels: REST (`http`), gRPC (`grpc`) or inside the process (`local`), alike in all that a caller sees.

Each transport makes exactly one attempt. Retries, breaker, credentials and idempotency keys stand above it, once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from taskman_sdk.codec import Message
from taskman_sdk.contract import Method

__all__ = ["Transport", "open_transport"]


class Transport(Protocol):
    """One way to reach a server."""

    @property
    def host(self) -> str:
        """What the breaker counts failures by, for example `tasks.example:443`."""
        ...

    async def unary(
        self, method: Method, request: Message[Any], *, metadata: Mapping[str, str], timeout: float
    ) -> Message[Any]:
        """One attempt of a call.

        Args:
            method: the RPC.
            request: its message.
            metadata: headers, names in lower case.
            timeout: seconds after which the attempt is given up.

        Raises:
            TaskManError: what the server answered; UnavailableError where none did, DeadlineExceededError in time.
        """
        ...

    def stream(
        self, method: Method, request: Message[Any], *, metadata: Mapping[str, str], timeout: float
    ) -> AsyncIterator[Message[Any]]:
        """One attempt of a call whose answer is a stream; `timeout` is for all of it.

        Raises:
            TaskManError: as `unary`, also after some answers.
        """
        ...

    async def close(self) -> None:
        """Closes what this transport opened."""
        ...


def open_transport(base_url: str, *, http_client: Any = None) -> Transport:
    """The transport for a URL: `http(s)://host…`, `grpc(s)://host:50051` or `grpc(s)://host:50050?ports=one`.

    Raises:
        ValueError: the URL has another scheme or no host.
    """
    scheme, separator, rest = base_url.partition("://")
    if separator and rest.strip("/") and scheme in ("http", "https"):
        from taskman_sdk.transports.http import HttpTransport

        return HttpTransport(base_url, client=http_client)
    if separator and rest.strip("/") and scheme in ("grpc", "grpcs"):
        from taskman_sdk.transports.grpc import GrpcTransport

        return GrpcTransport(base_url)
    raise ValueError(f"{base_url!r} is no address of a server; write http://…, https://…, grpc://… or grpcs://…")
