"""The gateway as an ASGI application, in front of a probe (GATE-1 to GATE-4)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from taskman_sdk import contract
from taskman_server.gateway.app import Gateway
from taskman_server.gateway.pages import pages
from taskman_server.kit.operations import Health
from taskman_server.kit.rpc import LocalChannel
from tests.contract.probe import ERROR, Probe, probe_service, running_probe


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> contract.Service:
    return probe_service(tmp_path_factory.mktemp("probe"))


@pytest.fixture
async def probe(service: contract.Service, tmp_path: Path) -> AsyncIterator[Probe]:
    async with running_probe(
        service, tmp_path, rate_limit="50/s", max_body_bytes="2048", trusted_proxies="127.0.0.0/8"
    ) as running:
        running.runtime.channels.add("probe", LocalChannel(running.pipeline))
        yield running


class Parts:
    """What the parts of the deployment say of themselves."""

    def __init__(self) -> None:
        self.said = {"tasks": "ok"}

    async def check(self) -> Health:
        return Health(self.said)


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def gateway(probe: Probe, parts: Parts) -> Gateway:
    runtime = probe.runtime
    beside = pages(parts.check, runtime.telemetry.registry, "http://taskman.example")
    return Gateway(
        runtime.channels, runtime.authenticator, runtime.guard, runtime.settings, runtime.clock, runtime.telemetry,
        beside, probe.service.methods.values(),
    )  # fmt: skip


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://probe") as client:
        yield client


async def test_an_answer_has_the_headers_of_an_api(http: httpx.AsyncClient) -> None:
    """GATE-1, GATE-3: never cached, never sniffed, with the request's id and what is left of the limit."""
    answer = await http.post("/v1/probes/p:echo", json={"text": "x"}, headers={"x-request-id": "r1"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "r1"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["ratelimit-policy"] == '"default";q=50;w=1'
    assert answer.headers["ratelimit"].startswith('"default";r=49;')


async def test_each_error_names_its_own_request(http: httpx.AsyncClient) -> None:
    """GATE-1: also where a service raises the same error object again."""
    for request_id in ("first", "second"):
        answer = await http.get("/v1/probes/p:fail", headers={"x-request-id": request_id})
        assert answer.json()["request_id"] == answer.headers["x-request-id"] == request_id


async def test_an_error_is_a_problem_document(http: httpx.AsyncClient) -> None:
    """GATE-1: RFC 9457, with what a person and a program need."""
    answer = await http.get("/v1/probes/p:fail", headers={"x-request-id": "r2"})
    assert answer.status_code == ERROR.http_status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "2"
    document = answer.json()
    assert document["type"] == "urn:taskman:error:PROBE_FAILED"
    assert document["instance"] == "/v1/probes/p:fail"
    assert document["errors"] == [{"field": "name", "detail": "is ‘fail’", "reason": "probe"}]
    assert document["request_id"] == answer.headers["x-request-id"] == "r2"


async def test_a_fault_tells_nothing_of_itself(http: httpx.AsyncClient) -> None:
    """GATE-1: 500 with the request's id; no traceback, no text of the exception."""
    answer = await http.get("/v1/probes/p:fail", params={"fault": "true"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["request_id"] in answer.json()["detail"]


async def test_headers_of_a_client_that_count_are_named_and_no_others(http: httpx.AsyncClient) -> None:
    """GATE-2: claims of identity stay at the edge."""
    claims = {"x-user-id": "user_root", "x-forwarded-user": "root", "x-taskman-principal": "service:tasks"}
    taken = {"authorization": "Bearer t", "idempotency-key": "k", "traceparent": "00-a-b-00", "x-request-id": "r"}
    answer = await http.post("/v1/probes/p:echo", json={"text": "x"}, headers={**claims, **taken})
    assert answer.json()["metadata"] == [f"{name}={value}" for name, value in sorted(taken.items())]


async def test_a_stream_that_fails_says_so_in_its_last_line(http: httpx.AsyncClient) -> None:
    """SDK-5, GATE-1: the status is out already; what came before it stays good."""
    answer = await http.get("/v1/probes/p:count", params={"to": "2", "fail": "true"})
    assert answer.status_code == 200
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[:2] == [{"number": 1}, {"number": 2}]
    assert lines[2]["error"]["reason"] == "PROBE_FAILED"


async def test_a_stream_that_fails_before_its_first_line_is_an_error(http: httpx.AsyncClient) -> None:
    """GATE-1: then the status says it."""
    answer = await http.get("/v1/probes/p:count", params={"to": "0", "fail": "true"})
    assert answer.status_code == ERROR.http_status
    empty = await http.get("/v1/probes/p:count", params={"to": "0"})
    assert (empty.status_code, empty.text) == (200, "")


async def test_a_deadline_of_the_client_holds(http: httpx.AsyncClient, probe: Probe) -> None:
    """GATE-9, SDK-3: 504 in time, and the handler is not left at work."""
    answer = await http.get("/v1/probes/p:wait", headers={"x-request-timeout": "0.05"})
    assert answer.status_code == 504
    await asyncio.wait_for(probe.handlers.seen.cancelled.wait(), 5)
    for bad in ("soon", "-1", "0", "inf", "nan"):
        answer = await http.get("/v1/probes/p:wait", headers={"x-request-timeout": bad})
        assert (answer.status_code, answer.json()["reason"]) == (400, "HEADER_INVALID"), bad


async def test_the_limit_refuses_with_a_time(http: httpx.AsyncClient) -> None:
    """GATE-3: 429, `Retry-After`, and each address for itself."""
    # At once, so that a slow machine has no time to fill the bucket again.
    answers = await asyncio.gather(*(http.get("/v1/probes/p:count") for _ in range(200)))
    assert {answer.status_code for answer in answers} == {200, 429}
    limited = next(answer for answer in answers if answer.status_code == 429)
    assert limited.json()["reason"] == "RATE_LIMITED"
    assert int(limited.headers["retry-after"]) >= 1
    other = await http.get("/v1/probes/p:count", headers={"x-forwarded-for": "198.51.100.7"})
    assert other.status_code == 200


async def test_guessing_tokens_is_limited_too(http: httpx.AsyncClient) -> None:
    """GATE-3, AUTHN-8: by address, before anything is known of who it is."""
    headers = {"authorization": "Basic nonsense"}

    async def guess() -> int:
        return (await http.post("/v1/probes/p:poke", json={}, headers=headers)).status_code

    # At once, so that a slow machine has no time to fill the bucket again.
    assert set(await asyncio.gather(*(guess() for _ in range(200)))) == {401, 429}


async def test_a_body_over_the_limit_is_refused(http: httpx.AsyncClient) -> None:
    """GATE-4."""
    answer = await http.post("/v1/probes/p:echo", json={"text": "x" * 3000})
    assert (answer.status_code, answer.json()["reason"]) == (413, "REQUEST_TOO_LARGE")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ('application/json; charset="UTF-8"', 200),
        ("APPLICATION/JSON", 200),
        ("application/json; charset=latin-1", 415),
        ("text/plain", 415),
        ("", 415),
        ("application/jsonx", 415),
    ],
)
async def test_a_body_is_json_in_utf8(http: httpx.AsyncClient, kind: str, status: int) -> None:
    """GATE-4: content-type checks; a browser's form cannot post here."""
    headers = {"content-type": kind} if kind else {}
    answer = await http.post("/v1/probes/p:echo", content=b'{"text":"x"}', headers=headers)
    assert answer.status_code == status, answer.text


async def test_head_is_get_without_a_body(http: httpx.AsyncClient) -> None:
    """RFC 9110 section 9.3.2."""
    answer = await http.head("/v1/probes/p:fail")
    assert answer.status_code == ERROR.http_status


async def test_pages_beside_the_api(http: httpx.AsyncClient, parts: Parts) -> None:
    """GATE-1, OPS-1: health, readiness by part, metrics, the document and its page."""
    assert (await http.get("/healthz")).json() == {"status": "ok"}
    ready = await http.get("/readyz")
    assert (ready.status_code, ready.json()["parts"]) == (200, {"tasks": "ok"})
    parts.said = {"tasks": "its database does not answer"}
    broken = await http.get("/readyz")
    assert (broken.status_code, broken.json()["status"]) == (503, "unavailable")
    assert broken.headers["retry-after"] == "1"
    await http.post("/v1/probes/p:echo", json={"text": "x"})
    assert (
        'taskman_http_requests_total{route="ProbeService.Echo",status="200"} 1.0' in (await http.get("/metrics")).text
    )
    assert (await http.get("/openapi.json")).json()["openapi"].startswith("3.1")
    for path in ("/docs", "/set-up", "/reset-password", "/console/link.js", "/console/docs.js", "/console/style.css"):
        page = await http.get(path)
        assert page.status_code == 200, path
        assert "default-src 'self'" in page.headers["content-security-policy"], path
        assert page.headers["x-frame-options"] == "DENY", path
    assert (await http.get("/docs/static/swagger-ui.css")).status_code == 200
    assert (await http.get("/")).headers["location"] == "/docs"


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1", "/docs/static/../../secret", "/console/unknown.js", "/docs/static/x"]
)
async def test_where_nothing_is_there_is_a_problem_document(http: httpx.AsyncClient, path: str) -> None:
    """GATE-1: also beside the API."""
    answer = await http.get(path)
    assert answer.status_code == 404
    document: dict[str, Any] = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["reason"] == "ROUTE_NOT_FOUND"
    assert document["request_id"]
    refused = await http.post("/healthz")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
