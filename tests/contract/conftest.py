"""The servers that the contract is held against, and the people in them.

Each xdist worker has one `taskman-server up` process (for REST and gRPC), one embedded application (in process), one
`taskman-server up --workers 2` (for REST, each request by a connection of its own, so that who reads what was written
may come to another process) and one `taskman-server up --cluster` (eight processes with TLS between them on a real
PostgreSQL, RabbitMQ and Redis; REST and gRPC), with a real SMTP server and a real webhook receiver. All cases share
them and one event loop: a case makes the people and projects that it changes, and looks at nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import pytest_asyncio

from taskman_sdk.errors import TaskManError
from taskman_server.settings import SERVICES
from tests.contract.receivers import HookServer, MailServer
from tests.contract.servers import ClusterProcess, ServerProcess
from tests.contract.waiting import eventually
from tests.contract.wires import GrpcWire, LocalWire, RestWire
from tests.contract.world import ADMIN_EMAIL, ADMIN_PASSWORD, Person, Site
from tests.parts.otlp import OtlpReceiver
from tests.parts.postgresql import PostgreSQL
from tests.parts.rabbitmq import RabbitMQ
from tests.parts.redis import RedisServer

if TYPE_CHECKING:
    from taskman_server.app import Application

HERE = Path(__file__).parent
SETTINGS = {
    "signup": "open",
    "admin_email": ADMIN_EMAIL,
    "admin_password": ADMIN_PASSWORD,
    "webhook_allow_private": "1",
    "rate_limit": "off",
    "password_hash": "fast",
    "log_format": "json",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One loop for the servers and all cases here."""
    for item in items:
        if HERE in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session")
def mail() -> Iterator[MailServer]:
    """A real SMTP server."""
    server = MailServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def hooks() -> Iterator[HookServer]:
    """A real receiver of webhooks."""
    server = HookServer()
    yield server
    server.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory, mail: MailServer) -> AsyncIterator[ServerProcess]:
    """`taskman-server up`, where whoever signs up joins the organization `default`."""
    process = ServerProcess(
        tmp_path_factory.mktemp("server"),
        **SETTINGS,
        smtp_url=mail.url,
        sqlite_synchronous="normal",
    )
    try:
        await process.ready()
        yield process
    finally:
        assert process.stop() == 0
    assert process.faults() == []


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def crew(tmp_path_factory: pytest.TempPathFactory, mail: MailServer) -> AsyncIterator[ServerProcess]:
    """`taskman-server up --workers 2`, set up like `server`."""
    process = ServerProcess(
        tmp_path_factory.mktemp("crew"),
        **SETTINGS,
        smtp_url=mail.url,
        sqlite_synchronous="normal",
        workers="2",
    )
    try:
        await process.ready()
        yield process
    finally:
        assert process.stop() == 0
    assert process.faults() == []


@pytest.fixture(scope="session")
def traces() -> Iterator[OtlpReceiver]:
    """A real collector, to which the processes of the cluster send their traces."""
    receiver = OtlpReceiver()
    yield receiver
    receiver.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(
    tmp_path_factory: pytest.TempPathFactory,
    mail: MailServer,
    traces: OtlpReceiver,
    postgresql: PostgreSQL,
    rabbitmq: RabbitMQ,
    redis_server: RedisServer,
) -> AsyncIterator[ClusterProcess]:
    """`taskman-server up --cluster`, set up like `server` (OPS-2)."""
    process = ClusterProcess(
        tmp_path_factory.mktemp("cluster"),
        database_url=postgresql.family(SERVICES),
        broker_url=rabbitmq.vhost("contract"),
        redis_url=redis_server.database(),
        otlp_endpoint=traces.url,
        **SETTINGS,
        smtp_url=mail.url,
    )
    try:
        await process.ready()
        yield process
    finally:
        assert process.stop() == 0
    assert process.faults() == []


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def application(mail: MailServer) -> AsyncIterator[Application]:
    """The embedded application, set up like `server`."""
    import taskman_server

    async with taskman_server.embedded(
        signup="open",
        admin_email=ADMIN_EMAIL,
        admin_password=ADMIN_PASSWORD,
        smtp_url=mail.url,
        webhook_allow_private=True,
        rate_limit="off",
        password_hash="fast",
        sqlite_synchronous="normal",
    ) as app:
        yield app


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rest(server: ServerProcess, mail: MailServer, hooks: HookServer) -> AsyncIterator[Site]:
    """The server over REST."""
    wire = RestWire(server.url)
    yield Site(wire, mail, hooks, server.url)
    await wire.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def workers(crew: ServerProcess, mail: MailServer, hooks: HookServer) -> AsyncIterator[Site]:
    """The server of two processes over REST, by a new connection for each request."""
    limits = httpx.Limits(max_keepalive_connections=0)
    wire = RestWire(crew.url, httpx.AsyncHTTPTransport(limits=limits, trust_env=False))
    yield Site(wire, mail, hooks, crew.url)
    await wire.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def grpc(server: ServerProcess, mail: MailServer, hooks: HookServer) -> AsyncIterator[Site]:
    """The same server over gRPC."""
    wire = GrpcWire(server.grpc)
    yield Site(wire, mail, hooks, server.url)
    await wire.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def local(application: Application, mail: MailServer, hooks: HookServer) -> Site:
    """The embedded application, in process."""
    return Site(LocalWire(application.channels), mail, hooks, application.settings.public_url)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster_rest(cluster: ClusterProcess, mail: MailServer, hooks: HookServer) -> AsyncIterator[Site]:
    """The cluster over REST."""
    wire = RestWire(cluster.url)
    site = Site(wire, mail, hooks, cluster.url)
    await eventually(site.admin, "the administrator", seconds=60, ignore=(TaskManError,))
    yield site
    await wire.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster_grpc(
    cluster: ClusterProcess, cluster_rest: Site, mail: MailServer, hooks: HookServer
) -> AsyncIterator[Site]:
    """The cluster over gRPC, by the gateway's port for it."""
    wire = GrpcWire(cluster.grpc)
    yield Site(wire, mail, hooks, cluster.url)
    await wire.close()


@pytest.fixture(params=["rest", "grpc", "local", "workers", "cluster_rest", "cluster_grpc"])
def site(request: pytest.FixtureRequest) -> Site:
    """A server, called in each of the three ways; one of two processes; and the cluster, in both ways that it has."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Site)
    return found


@pytest.fixture(params=["rest", "grpc", "workers", "cluster_rest", "cluster_grpc"])
def remote(request: pytest.FixtureRequest) -> Site:
    """The server, the one of two processes, and the cluster, called over the network."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Site)
    return found


@pytest_asyncio.fixture(loop_scope="session")
async def admin(site: Site) -> Person:
    """The administrator."""
    return await site.admin()


@pytest_asyncio.fixture(loop_scope="session")
async def ann(site: Site) -> Person:
    """Somebody who has just signed up."""
    return await site.new_person("Ann")


@pytest_asyncio.fixture(loop_scope="session")
async def bob(site: Site) -> Person:
    """Somebody else."""
    return await site.new_person("Bob")
