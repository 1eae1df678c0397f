"""Traces, as a collector receives them (OPS-5)."""

from __future__ import annotations

import httpx

import taskman_server
from tests.parts.otlp import OtlpReceiver


async def test_a_request_and_the_calls_it_causes_are_one_trace(otlp_receiver: OtlpReceiver) -> None:
    """OPS-5: the client's trace goes on through the edge into the services, and no span holds a secret."""
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    password = "correct horse battery staple"
    async with taskman_server.embedded(otlp_endpoint=otlp_receiver.url, password_hash="fast") as app:
        transport = httpx.ASGITransport(app.gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://taskman") as client:
            answer = await client.post(
                "/v1/auth/register",
                json={"email": "ada@example.org", "password": password, "display_name": "Ada"},
                headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"},
            )
            assert answer.status_code == 200, answer.text
    ours = otlp_receiver.trace(trace_id)
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
    assert not any(password in str(span) for span in otlp_receiver.spans)
