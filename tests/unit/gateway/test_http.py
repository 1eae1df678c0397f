"""The head of a request, its body, and problem documents (GATE-1, GATE-2, GATE-4)."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from taskman_sdk.errors import (
    CancelledError,
    FieldViolation,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnimplementedError,
)
from taskman_server.gateway.http import Request, problem, read_body
from taskman_server.kit.ids import request_id_of

TRUSTED = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")]


def scope(
    client: str = "203.0.113.9", path: bytes = b"/v1/tasks", query: bytes = b"", **headers: str
) -> dict[str, Any]:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "http", "method": "GET", "path": "/v1/tasks", "raw_path": b"/v1/tasks", "query_string": query,
        "headers": pairs, "client": (client, 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # not through a proxy of ours: a lie
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),  # what the client put before it does not count
        ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
    ],
)
def test_the_address_is_the_first_that_no_proxy_of_ours_vouches_for(client: str, forwarded: str, address: str) -> None:
    """GATE-2, GATE-3: `X-Forwarded-For` is read from the right, as far as the hops are trusted."""
    assert Request.of(scope(client, x_forwarded_for=forwarded), TRUSTED).ip_address == address


def test_without_trusted_proxies_no_header_counts() -> None:
    """GATE-2."""
    assert Request.of(scope("10.0.0.1", x_forwarded_for="198.51.100.1"), []).ip_address == "10.0.0.1"


def test_a_head_larger_than_any_is_refused() -> None:
    """GATE-4: size checks."""
    with pytest.raises(InvalidArgumentError) as caught:
        Request.of(scope(query=b"x" * 20_000), [])
    assert caught.value.http_status == 414
    with pytest.raises(InvalidArgumentError) as caught:
        Request.of(scope(**{f"h{number}": "x" for number in range(200)}), [])
    assert caught.value.http_status == 431


@pytest.mark.parametrize("given", ["", "x" * 129, "tab\there", "ß", "a\nb"])
def test_a_malformed_request_id_is_replaced(given: str) -> None:
    """GATE-1: what goes into logs and headers is well formed."""
    assert request_id_of(given).startswith("req_")
    assert request_id_of("given-1") == "given-1"


def stream(*messages: MutableMapping[str, Any]) -> Any:
    left = list(messages)

    async def receive() -> MutableMapping[str, Any]:
        return left.pop(0)

    return receive


def part(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_arrives_in_one_piece_or_several() -> None:
    """GATE-1."""
    assert await read_body(stream(part(b"abc")), 10, "3") == b"abc"
    assert await read_body(stream(part(b"a", True), part(b"b", True), part(b"c")), 3, "") == b"abc"


@pytest.mark.parametrize(
    ("parts", "declared"),
    [([part(b"x" * 11)], ""), ([part(b"x" * 6, True), part(b"x" * 6, True)], ""), ([], "11"), ([], "9" * 400)],
)
async def test_a_body_larger_than_allowed_is_read_no_further(parts: list[Any], declared: str) -> None:
    """GATE-4: 413, by what is declared before anything is read, and by what comes."""
    with pytest.raises(InvalidArgumentError) as caught:
        await read_body(stream(*parts), 10, declared)
    assert (caught.value.reason, caught.value.http_status) == ("REQUEST_TOO_LARGE", 413)


@pytest.mark.parametrize("parts", [[part(b"{", True)], []], ids=["half a body", "none"])
async def test_a_client_who_goes_away_is_no_request(parts: list[Any]) -> None:
    """GATE-4: what came of a body is never taken for all of it, nor nothing for an empty one."""
    with pytest.raises(CancelledError):
        await read_body(stream(*parts, {"type": "http.disconnect"}), 10, "")


def test_a_problem_document_has_all_that_its_error_has() -> None:
    """GATE-1: RFC 9457."""
    error = ResourceExhaustedError(
        "Slower, ß.", reason="RATE_LIMITED", retry_after=0.2, request_id="r1", metadata={"a": "b"},
        field_violations=[FieldViolation("f", "bad", "rule")],
    )  # fmt: skip
    status, body, headers = problem(error, "/v1/tasks")
    assert status == 429
    assert json.loads(body) == {
        "type": "urn:taskman:error:RATE_LIMITED", "title": "Resource exhausted", "status": 429, "detail": "Slower, ß.",
        "code": "RESOURCE_EXHAUSTED", "reason": "RATE_LIMITED", "instance": "/v1/tasks", "request_id": "r1",
        "retry_after": 0.2, "metadata": {"a": "b"}, "errors": [{"field": "f", "detail": "bad", "reason": "rule"}],
    }  # fmt: skip
    assert headers == [(b"retry-after", b"1")]


def test_headers_that_http_wants_for_an_error() -> None:
    """RFC 6750, RFC 9110."""
    _, _, headers = problem(UnauthenticatedError("x", reason="TOKEN_MISSING"), "/")
    assert headers == [(b"www-authenticate", b'Bearer realm="taskman"')]
    _, _, headers = problem(UnauthenticatedError("x", reason="TOKEN_EXPIRED"), "/")
    assert headers == [(b"www-authenticate", b'Bearer realm="taskman", error="invalid_token"')]
    _, _, headers = problem(UnimplementedError("x", reason="METHOD_NOT_ALLOWED", metadata={"allow": "GET"}), "/")
    assert headers == [(b"allow", b"GET")]
