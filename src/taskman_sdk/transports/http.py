"""REST over httpx: JSON out and in, problem documents as errors, NDJSON as streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from taskman_sdk import codec, wire
from taskman_sdk.contract import Method
from taskman_sdk.errors import DeadlineExceededError, TaskManError, UnavailableError, UnknownError
from taskman_sdk.transports._rest import rest_request

__all__ = ["HttpTransport"]

# An answer that is longer than this in one line is no message of ours.
MAX_LINE = 64 * 1024 * 1024


class HttpTransport:
    """Calls over REST.

    Args:
        base_url: where the server is, for example `https://tasks.example` or `https://example/taskman`.
        client: your own `httpx.AsyncClient` (proxies, certificates, hooks); it stays yours to close.
    """

    def __init__(self, base_url: str, *, client: httpx.AsyncClient | None = None) -> None:
        self._base = base_url.rstrip("/")
        url = httpx.URL(self._base)
        self.host = f"{url.host}:{url.port or (443 if url.scheme == 'https' else 80)}"
        self._own = client is None
        self._client = client or httpx.AsyncClient(limits=httpx.Limits(max_connections=100, keepalive_expiry=30))

    async def unary(
        self, method: Method, request: codec.Message[Any], *, metadata: Mapping[str, str], timeout: float
    ) -> codec.Message[Any]:
        """See `Transport.unary`."""
        outgoing = self._request(method, request, metadata, timeout, "application/json")
        try:
            async with asyncio.timeout(timeout):
                response = await self._client.send(outgoing)
        except (TimeoutError, httpx.TransportError) as error:
            raise self._failure(error, method, timeout) from error
        if response.status_code >= 300:
            raise _error(response, response.content)
        return self._message(method, response.content, response)

    async def stream(
        self, method: Method, request: codec.Message[Any], *, metadata: Mapping[str, str], timeout: float
    ) -> AsyncIterator[codec.Message[Any]]:
        """See `Transport.stream`. A last line `{"error": …}` is raised."""
        outgoing = self._request(method, request, metadata, timeout, "application/x-ndjson")
        deadline = asyncio.get_running_loop().time() + timeout
        response: httpx.Response | None = None
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._client.send(outgoing, stream=True)
                if response.status_code >= 300:
                    raise _error(response, await response.aread())
            async with aclosing(_lines(response)) as lines:
                while True:
                    async with asyncio.timeout_at(deadline):
                        line = await anext(lines, None)
                    if line is None:
                        return
                    yield self._line(method, line, response)
        except (TimeoutError, httpx.TransportError) as error:
            raise self._failure(error, method, timeout) from error
        finally:
            if response is not None:
                await response.aclose()

    async def close(self) -> None:
        """Closes the connections, unless the httpx client is the caller's own."""
        if self._own:
            await self._client.aclose()

    def _request(
        self, method: Method, request: codec.Message[Any], metadata: Mapping[str, str], timeout: float, accept: str
    ) -> httpx.Request:
        verb, target, body = rest_request(method, request)
        headers = {"accept": f"{accept}, application/problem+json", "x-request-timeout": f"{timeout:.3f}", **metadata}
        if body is not None:
            headers["content-type"] = "application/json"
        return self._client.build_request(verb, self._base + target, content=body, headers=headers, timeout=timeout)

    def _line(self, method: Method, line: bytes, response: httpx.Response) -> codec.Message[Any]:
        if line.startswith(b'{"error":') and (problem := _problem(line)) is not None:
            raise wire.from_problem(problem, int(problem.get("status", 500)))
        return self._message(method, line, response)

    def _message(self, method: Method, data: bytes, response: httpx.Response) -> codec.Message[Any]:
        try:
            return codec.from_json(method.output, data, ignore_unknown=True)
        except codec.DecodeError as error:
            raise UnknownError(
                f"{self._base} answered {method.operation_id} with something that is not its answer ({error}). "
                "Is this the address of a TaskMan server?",
                reason="BAD_ANSWER",
                request_id=response.headers.get("x-request-id", ""),
            ) from None

    def _failure(self, error: Exception, method: Method, timeout: float) -> TaskManError:
        if isinstance(error, (TimeoutError, httpx.TimeoutException)):
            return DeadlineExceededError(f"{self.host} did not answer {method.operation_id} within {timeout:.3g} s.")
        cause = str(error) or type(error).__name__
        return UnavailableError(f"{self.host} cannot be reached: {cause}. Is the server running there?")


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The lines of an NDJSON body. Not `aiter_lines`: that also breaks at U+2028 and others, which JSON may hold."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            if line.strip():
                yield line
        if len(rest) > MAX_LINE:
            raise httpx.DecodingError("a line of the stream is too long")
    if rest.strip():
        yield rest


def _problem(data: bytes) -> dict[str, Any] | None:
    """The problem document of a line `{"error": {…}}`, with which a stream that had begun ends."""
    try:
        value = json.loads(data)["error"]
    except (ValueError, KeyError):
        return None
    return value if isinstance(value, dict) and str(value.get("type", "")).startswith(wire.PROBLEM_TYPE) else None


def _error(response: httpx.Response, data: bytes) -> TaskManError:
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    problem = value if isinstance(value, dict) else {}
    if not problem:
        problem["detail"] = f"the server answered {response.status_code} {response.reason_phrase}".strip()
        if location := response.headers.get("location"):
            problem["detail"] += f" to {location}; use that address"
    try:
        error = wire.from_problem(problem, response.status_code)
    except (TypeError, ValueError, AttributeError):  # JSON of somebody else's shape
        error = wire.from_problem({"detail": f"the server answered {response.status_code}"}, response.status_code)
    if error.retry_after is None:
        error.retry_after = _retry_after(response.headers.get("retry-after"))
    error.request_id = error.request_id or response.headers.get("x-request-id", "")
    return error


def _retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header: a number or a date (RFC 9110)."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
