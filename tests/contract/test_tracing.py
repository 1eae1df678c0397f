"""Traces, as a collector receives them (OPS-5)."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

import taskman_server


class Collector:
    """A real OTLP receiver on loopback."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                batch = ExportTraceServiceRequest.FromString(body)
                for resource in batch.resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans.extend(scope.spans)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Receives until the test ends."""
    found = Collector()
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


async def test_a_request_and_the_calls_it_causes_are_one_trace(collector: Collector) -> None:
    """OPS-5: the client's trace goes on through the edge into the services, and no span holds a secret."""
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    password = "correct horse battery staple"
    async with taskman_server.embedded(otlp_endpoint=collector.url, password_hash="fast") as app:
        transport = httpx.ASGITransport(app.gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://taskman") as client:
            answer = await client.post(
                "/v1/auth/register",
                json={"email": "ada@example.org", "password": password, "display_name": "Ada"},
                headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"},
            )
            assert answer.status_code == 200, answer.text
    ours = [span for span in collector.spans if span.trace_id.hex() == trace_id]
    names = {span.name for span in ours}
    assert "POST /v1/auth/register" in names
    assert "/taskman.authentication.v1.AuthenticationService/Register" in names
    assert "/taskman.user.v1.UserService/ProvisionUser" in names
    by_id = {span.span_id: span for span in ours}
    (edge,) = (span for span in ours if span.name == "POST /v1/auth/register")
    (register,) = (span for span in ours if span.name.endswith("/Register"))
    (provision,) = (span for span in ours if span.name.endswith("/ProvisionUser"))
    assert edge.parent_span_id.hex() == "00f067aa0ba902b7"
    assert by_id[register.parent_span_id] is edge
    assert by_id[provision.parent_span_id] is register
    assert not any(password in str(span) for span in collector.spans)
