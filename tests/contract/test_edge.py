"""The gateway's gRPC port: the SDK reaches all services by one address, and nothing that is none of its business."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

import taskman_server
from taskman_sdk import AsyncTaskMan, codec, contract
from taskman_sdk.errors import PermissionDeniedError, ResourceExhaustedError, UnauthenticatedError, UnavailableError
from taskman_sdk.transports.grpc import GrpcTransport
from taskman_server.app import Application
from taskman_server.kit.clock import SystemClock
from taskman_server.kit.forwarded import networks
from taskman_server.kit.identity import Authenticator
from taskman_server.kit.limits import Limiter
from taskman_server.kit.rpc import Channels, GrpcChannel
from taskman_server.kit.rpc.channel import CallOptions
from taskman_server.kit.rpc.edge import Forwarder
from taskman_server.kit.rpc.server import GrpcServer
from taskman_server.kit.telemetry import Telemetry
from taskman_server.settings import RateLimit

EMAIL, PASSWORD = "admin@example.com", "a-long-enough-badger"
"""Of the administrator."""


def forwarder(channels: Channels, authenticator: Authenticator) -> Forwarder:
    """What stands behind the edge's port."""
    return Forwarder(channels, authenticator, Telemetry("gateway", CollectorRegistry()))


@dataclass(slots=True)
class Edge:
    """A running edge."""

    address: str
    server: GrpcServer

    @property
    def url(self) -> str:
        return f"grpc://{self.address}?ports=one"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house() -> AsyncIterator[Application]:
    async with taskman_server.embedded(
        rate_limit="off", admin_email=EMAIL, admin_password=PASSWORD, password_hash="fast"
    ) as application:
        yield application


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def edge(house: Application) -> AsyncIterator[Edge]:
    authenticator = Authenticator(house.channels, "gateway", SystemClock())
    services = list(contract.services().values())
    server = GrpcServer(services, forwarder(house.channels, authenticator), connection_age=300)
    yield Edge(f"127.0.0.1:{await server.start('127.0.0.1', 0)}", server)
    await server.stop(0)


async def test_the_sdk_reaches_every_service_by_one_address(edge: Edge) -> None:
    """SDK-2, GATE-1: one URL, all services, streams included."""
    async with AsyncTaskMan(edge.url) as client:
        await client.auth.login(email=EMAIL, password=PASSWORD)
        me = await client.users.get_me()
        project = await client.projects.create(key="EDGE", display_name="Edge")
        task = await client.tasks.create(project=project.id, title="Over one port")
        assert [each.id async for each in client.tasks.list(filter=f'project == "{project.id}"')] == [task.id]
        assert [each.task.title async for each in client.tasks.export(project=project.id) if each.task] == [task.title]
        assert me.email == EMAIL


async def test_what_services_call_among_themselves_is_not_there(edge: Edge, house: Application) -> None:
    """GATE-2: refused at the edge, for the administrator too; who guesses tokens learns no more."""
    channel = GrpcChannel(edge.address)
    async with AsyncTaskMan(edge.url) as client:
        tokens = await client.auth.login(email=EMAIL, password=PASSWORD)
    good = {"authorization": f"Bearer {tokens.access_token}", "taskman-as": "authentication"}
    for method in contract.methods():
        if method.access == "internal":
            for metadata, kind in (({}, UnauthenticatedError), ({"authorization": "Bearer x"}, UnauthenticatedError),
                                   (good, PermissionDeniedError)):  # fmt: skip
                with pytest.raises(kind):
                    await channel.unary(method, method.input(), CallOptions(metadata, 5))
    await channel.close()


async def test_a_service_that_is_not_there_is_named(house: Application) -> None:
    """GATE-1: UNAVAILABLE with the request's id."""
    server = GrpcServer(
        list(contract.services().values()),
        forwarder(Channels({}), Authenticator(house.channels, "gateway", SystemClock())),
    )
    channel = GrpcChannel(f"127.0.0.1:{await server.start('127.0.0.1', 0)}")
    method = contract.method("TaskService.GetTask")
    with pytest.raises(UnavailableError, match="No TaskService is connected") as caught:
        await channel.unary(method, method.input(), CallOptions({"x-request-id": "r-9"}, 5))
    assert caught.value.request_id == "r-9"
    await channel.close()
    await server.stop(0)


async def test_the_limit_of_the_gateway_holds(house: Application) -> None:
    """GATE-3: the same buckets as for REST."""
    authenticator = Authenticator(house.channels, "gateway", SystemClock())
    limiter = Limiter(RateLimit(requests=3, seconds=3600), time.monotonic)
    services = list(contract.services().values())
    server = GrpcServer(
        services, forwarder(house.channels, authenticator), authenticator=authenticator, limiter=limiter
    )
    channel = GrpcChannel(f"127.0.0.1:{await server.start('127.0.0.1', 0)}")
    method = contract.method("AuthenticationService.GetJwks")
    for _ in range(3):
        await channel.unary(method, method.input(), CallOptions(timeout=5))
    with pytest.raises(ResourceExhaustedError):
        await channel.unary(method, method.input(), CallOptions(timeout=5))
    await channel.close()
    await server.stop(0)


async def test_connections_that_grow_old_fail_no_call_of_a_client(house: Application) -> None:
    """SDK-3: the port replaces its connections, and a client that does not try again does not notice."""
    passing = forwarder(house.channels, Authenticator(house.channels, "gateway", SystemClock()))
    server = GrpcServer(list(contract.services().values()), passing, connection_age=0.03)
    transport = GrpcTransport(f"grpc://127.0.0.1:{await server.start('127.0.0.1', 0)}?ports=one")
    method = contract.method("AuthenticationService.GetJwks")
    end = time.monotonic() + 1.5

    async def caller() -> int:
        made = 0
        while time.monotonic() < end:
            await transport.unary(method, method.input(), metadata={}, timeout=5)
            made += 1
        return made

    assert all(await asyncio.gather(*(caller() for _ in range(64))))
    await transport.close()
    await server.stop(0)


async def test_health_names_all_services(edge: Edge) -> None:
    """OPS-3: for probes; not serving while it drains."""
    names = {service.full_name for service in contract.services().values()}
    async with grpc.aio.insecure_channel(edge.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for serving, status in ((True, "SERVING"), (False, "NOT_SERVING"), (True, "SERVING")):
            await edge.server.serving(serving)
            for name in ("", *names):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
                assert health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) == status


def test_a_url_with_something_else_behind_it_is_no_address() -> None:
    """SDK-1: a slip is told, not ignored."""
    with pytest.raises(ValueError, match="only `ports=one`"):
        AsyncTaskMan("grpc://localhost:50050?port=one")


class Witness:
    """Answers nothing, and knows from where it was asked."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def unary(
        self, method: contract.Method, request: codec.Message[Any], options: CallOptions
    ) -> codec.Message[Any]:
        self.seen.append(options.origin.ip_address)
        raise UnauthenticatedError("Nobody gets in here.", reason="TOKEN_MISSING")

    def stream(
        self, method: contract.Method, request: codec.Message[Any], options: CallOptions
    ) -> AsyncIterator[codec.Message[Any]]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("proxies", "said", "address"),
    [
        ((), ["203.0.113.7"], "127.0.0.1"),
        (("127.0.0.0/8",), [], "127.0.0.1"),
        (("127.0.0.0/8",), ["203.0.113.7"], "203.0.113.7"),
        (("127.0.0.0/8",), ["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
        (("127.0.0.0/8", "203.0.113.0/24"), ["198.51.100.1, 203.0.113.7"], "198.51.100.1"),
        (("10.0.0.0/8",), ["203.0.113.7"], "127.0.0.1"),
    ],
)
async def test_behind_a_proxy_each_client_has_its_own_address(
    proxies: tuple[str, ...], said: list[str], address: str
) -> None:
    """GATE-3, AUTHN-8: else whoever fails to sign in through the proxy slows down everybody behind it. As over HTTP, a
    client that writes the header itself is believed by nobody."""
    witness = Witness()
    server = GrpcServer(list(contract.services().values()), witness, proxies=networks(proxies))
    port = await server.start("127.0.0.1", 0)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(contract.method("UserService.GetMe").path, None, None)
            with pytest.raises(grpc.aio.AioRpcError, match="Nobody gets in"):
                await call(b"", metadata=tuple(("x-forwarded-for", each) for each in said), timeout=10)
    finally:
        await server.stop(0)
    assert witness.seen == [address]
