"""A real Redis, with a network in front that a test may break."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from taskman_sdk import contract
from taskman_server.kit.redis import Redis
from tests.contract.probe import probe_service
from tests.parts.proxy import TcpProxy
from tests.parts.redis import RedisServer

Connect = Callable[..., Awaitable[Redis]]


@pytest.fixture
def network(redis_server: RedisServer) -> Iterator[TcpProxy]:
    """The way to an empty database of the Redis of this run."""
    with TcpProxy(redis_server.database()) as proxy:
        yield proxy


@pytest.fixture
async def connect(network: TcpProxy) -> AsyncIterator[Connect]:
    """Opens the Redis as a process does. More patient than in service: machines that run tests are slow at times."""
    async with AsyncExitStack() as stack:

        async def open_(service: str = "tasks", *, timeout: float = 1.0, url: str = "") -> Redis:
            redis = await Redis.open(url or network.url, service, timeout=timeout)
            stack.push_async_callback(redis.close)
            return redis

        yield open_


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> contract.Service:
    """The contract of the probe."""
    return probe_service(tmp_path_factory.mktemp("probe"))
