"""The network and the collector that other tests stand on."""

from __future__ import annotations

import time
from collections.abc import Iterator

import asyncpg
import httpx
import pytest
import redis.asyncio
import redis.exceptions
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.parts.otlp import OtlpReceiver
from tests.parts.postgresql import PostgreSQL
from tests.parts.proxy import TcpProxy
from tests.parts.redis import RedisServer
from tests.parts.servers import Port


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[TcpProxy]:
    """Before the Redis of this run."""
    with TcpProxy(redis_server.database()) as found:
        yield found


def client_of(url: str) -> redis.asyncio.Redis:
    """A client that tries once."""
    return redis.asyncio.from_url(url, retry=None, socket_timeout=5)


async def test_a_proxy_hands_on(postgresql: PostgreSQL) -> None:
    """Its address is the server's but for the port; much data arrives as it was sent."""
    url = postgresql.database()
    with TcpProxy(url) as proxy:
        assert proxy.url == url.replace(f":{postgresql.port}/", f":{proxy.port}/")
        connection = await asyncpg.connect(proxy.url)
        text = "0123456789" * 1_000_000
        assert await connection.fetchval("SELECT $1::text || '.'", text) == f"{text}."
        assert proxy.connections == 1
        await connection.close()


async def test_a_proxy_cuts_and_heals(proxy: TcpProxy) -> None:
    """While it is cut, connections that were there are reset and new ones refused."""
    async with client_of(proxy.url) as client:
        await client.set("key", "value")
        proxy.cut()
        with pytest.raises(redis.exceptions.ConnectionError):
            await client.get("key")
        with pytest.raises(redis.exceptions.ConnectionError, match=r"refused|Connect call failed"):
            await client.get("key")
        proxy.cut()
        proxy.heal()
        assert await client.get("key") == b"value"
        proxy.heal()
        assert await client.get("key") == b"value"


async def test_a_proxy_delays(proxy: TcpProxy) -> None:
    """A question and its answer take twice the delay; afterwards no longer."""
    async with client_of(proxy.url) as client:
        await client.ping()
        proxy.delay(0.1)
        started = time.monotonic()
        await client.ping()
        assert time.monotonic() - started >= 0.2
        proxy.delay(0)
        started = time.monotonic()
        await client.ping()
        assert time.monotonic() - started < 0.2


async def test_a_frozen_proxy_says_nothing(proxy: TcpProxy) -> None:
    """Neither an answer nor an end of the connection arrives, until it heals."""
    async with redis.asyncio.from_url(proxy.url, retry=None, socket_timeout=0.2) as client:
        await client.ping()
        proxy.freeze()
        with pytest.raises(redis.exceptions.TimeoutError):
            await client.ping()
        proxy.heal()
        assert await client.ping()


async def test_a_proxy_before_nothing_refuses() -> None:
    """Where the server is down, a connection through the proxy fails at once."""
    nobody = Port()
    with TcpProxy(f"redis://127.0.0.1:{nobody.number}/0") as proxy:
        async with client_of(proxy.url) as client:
            with pytest.raises(redis.exceptions.ConnectionError):
                await client.ping()
    nobody.close()


def test_a_collector_keeps_spans_by_trace_and_service(otlp_receiver: OtlpReceiver) -> None:
    """OPS-5: what is exported is there, with the service that sent it."""
    batch = ExportTraceServiceRequest()
    resource = batch.resource_spans.add()
    name = resource.resource.attributes.add()
    name.key, name.value.string_value = "service.name", "tasks"
    for number in (1, 2):
        span = resource.scope_spans.add().spans.add()
        span.trace_id, span.span_id, span.name = bytes([number]) * 16, bytes([number]) * 8, f"span {number}"
    httpx.post(f"{otlp_receiver.url}/v1/traces", content=batch.SerializeToString()).raise_for_status()
    assert len(otlp_receiver.wait_for(lambda spans: len(spans) == 2)) == 2
    (span,) = otlp_receiver.trace("02" * 16)
    assert (span.name, otlp_receiver.service(span)) == ("span 2", "tasks")
    with pytest.raises(TimeoutError, match="span 1"):
        otlp_receiver.wait_for(lambda spans: len(spans) == 3, seconds=0.01)
