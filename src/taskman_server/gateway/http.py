"""The little HTTP that the gateway needs of ASGI: reading a request with its limits, writing an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from taskman_sdk import wire
from taskman_sdk.errors import (
    CancelledError,
    DeadlineExceededError,
    InvalidArgumentError,
    TaskManError,
    UnauthenticatedError,
)
from taskman_server.kit.forwarded import HEADER, Networks, client_address
from taskman_server.kit.ids import request_id_of
from taskman_server.kit.limits import Limiter, Verdict

__all__ = [
    "JSON",
    "NDJSON",
    "Receive",
    "Request",
    "Scope",
    "Send",
    "head_of",
    "limit_headers",
    "problem",
    "read_body",
    "respond",
]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON: Final = b"application/json"
NDJSON: Final = b"application/x-ndjson"
PROBLEM: Final = b"application/problem+json"
MAX_HEADERS: Final = 100
MAX_TARGET: Final = 16_384
MAX_BODY_SECONDS: Final = 30.0
_SECURITY: Final[Headers] = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
]


@dataclass(slots=True)
class Request:
    """A request at the edge.

    Attributes:
        verb: the HTTP method.
        path: the path as sent, percent-encoded.
        query: the query string as sent.
        headers: by name in lower case; of several the last one counts.
        ip_address: the client's address, from the connection or a trusted proxy.
        request_id: from the client where it is well formed, else made here.
    """

    verb: str
    path: str
    query: bytes
    headers: Mapping[str, str]
    ip_address: str
    request_id: str

    @classmethod
    def of(cls, scope: Scope, trusted: Networks) -> Request:
        """Reads the head of a request.

        Raises:
            InvalidArgumentError: it is larger than any that we answer.
        """
        raw = scope["headers"]
        path = scope.get("raw_path") or scope["path"].encode()
        if len(path) + len(scope["query_string"]) > MAX_TARGET:
            raise InvalidArgumentError(
                f"The address of the request is longer than {MAX_TARGET} bytes.", reason="REQUEST_URI_TOO_LONG"
            )
        if len(raw) > MAX_HEADERS:
            raise InvalidArgumentError(
                f"The request has more than {MAX_HEADERS} headers.", reason="REQUEST_HEADERS_TOO_LARGE"
            )
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}
        address = client_address(str((scope.get("client") or ("",))[0]), headers.get(HEADER, ""), trusted)
        return cls(
            scope["method"],
            path.decode("latin-1"),
            scope["query_string"],
            headers,
            address,
            request_id_of(headers.get("x-request-id", "")),
        )


async def read_body(receive: Receive, limit: int, declared: str) -> bytes:
    """Reads the body.

    Raises:
        InvalidArgumentError: it is larger than the limit; no more than that was read.
        CancelledError: the client went away.
        DeadlineExceededError: it came too slowly.
    """
    too_large = InvalidArgumentError(
        f"The body is larger than {limit} bytes. Send less at once.", reason="REQUEST_TOO_LARGE"
    )
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    try:
        async with asyncio.timeout(MAX_BODY_SECONDS):
            return await _read(receive, limit, too_large)
    except TimeoutError:
        raise DeadlineExceededError(
            f"The body did not arrive within {MAX_BODY_SECONDS:.0f} s. Send it faster, or less at once.",
            reason="REQUEST_TIMEOUT",
        ) from None


async def _read(receive: Receive, limit: int, too_large: InvalidArgumentError) -> bytes:
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CancelledError("The client went away before its request was whole.")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise too_large
        more = message.get("more_body", False)
    return b"".join(chunks)  # of one it is that one


async def respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Sends an answer."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def head_of(body: bytes, kind: bytes) -> Headers:
    """The headers that every answer has."""
    return [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *_SECURITY]


def limit_headers(limiter: Limiter | None, verdict: Verdict | None) -> Headers:
    """What is left of the limit (the IETF's draft on RateLimit header fields)."""
    if limiter is None or verdict is None:
        return []
    left = f'"default";r={verdict.remaining};t={verdict.reset}'
    return [(b"ratelimit-policy", limiter.policy.encode()), (b"ratelimit", left.encode())]


def problem(error: TaskManError, instance: str) -> tuple[int, bytes, Headers]:
    """An error as status, problem document and headers (RFC 9457; RFC 9110 for the headers)."""
    document = wire.to_problem(error)
    document["instance"] = instance
    headers: Headers = []
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after + 0.499))))
    if isinstance(error, UnauthenticatedError):
        detail = ', error="invalid_token"' if error.reason != "TOKEN_MISSING" else ""
        headers.append((b"www-authenticate", f'Bearer realm="taskman"{detail}'.encode()))
    if allowed := error.metadata.get("allow"):
        headers.append((b"allow", allowed.encode("latin-1")))
    return error.http_status, json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(), headers
