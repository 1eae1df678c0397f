"""The cluster shape on parts of its own, and what is done to it."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from taskman_server.settings import SERVICES
from tests.chaos.scene import SETTINGS
from tests.chaos.stores import ClusterStores
from tests.chaos.trial import Deployment
from tests.contract.receivers import HookServer
from tests.contract.servers import ServerProcess
from tests.contract.waiting import eventually
from tests.parts.postgresql import PostgreSQL, private_postgresql
from tests.parts.proxy import TcpProxy
from tests.parts.rabbitmq import RabbitMQ, private_rabbitmq
from tests.parts.redis import RedisServer, private_redis
from tests.parts.servers import run_async
from tests.serving import ADMIN, PASSWORD, free_port, free_ports

__all__ = ["GATEWAY", "PROCESSES", "Cluster", "Parts", "supervised"]

GATEWAY = "gateway"
PROCESSES = (*SERVICES, GATEWAY)


@dataclass(slots=True)
class Parts:
    """PostgreSQL, RabbitMQ and Redis of a cluster, and the way to RabbitMQ."""

    postgresql: PostgreSQL
    rabbitmq: RabbitMQ
    redis: RedisServer
    broker_way: TcpProxy
    vhost: str
    settings: dict[str, str]
    stores: ClusterStores

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator[Parts]:
        """Private and durable ones."""
        with ExitStack() as stack:
            postgresql = stack.enter_context(private_postgresql(folder, durable=True))
            rabbitmq = stack.enter_context(private_rabbitmq(folder))
            redis = stack.enter_context(private_redis(folder))
            broker_url = rabbitmq.vhost("chaos")
            way = stack.enter_context(TcpProxy(broker_url))
            database_url = postgresql.family(SERVICES)
            settings = {
                **SETTINGS,
                "admin_email": ADMIN,
                "admin_password": PASSWORD,
                "access_token_seconds": "86400",
                "database_url": database_url,
                "broker_url": way.url,
                "redis_url": redis.database(),
                "log_format": "json",
            }
            vhost = broker_url.rpartition("/")[2]
            stores = ClusterStores(database_url, postgresql, rabbitmq, vhost)
            yield cls(postgresql, rabbitmq, redis, way, vhost, settings, stores)


class _Supervised(ServerProcess):
    """`taskman-server up --cluster`."""

    def __init__(self, folder: Path, port: int, **settings: str) -> None:
        self.port = port
        super().__init__(folder, **settings)

    def flags(self) -> list[str]:
        return ["--cluster", "--port", str(self.port)]


class Cluster(Deployment):
    """Eight processes and what watches them; between the gateway and the task service there is a network that fails on
    demand."""

    def __init__(self, folder: Path, parts: Parts, hooks: HookServer) -> None:
        self.parts = parts
        self.hooks = hooks
        self.stores = parts.stores
        services = free_ports(7)
        self._operations = free_ports(7)
        self.tasks_way = TcpProxy(f"127.0.0.1:{services + SERVICES.index('tasks')}")
        settings = {
            "grpc_port": str(free_port()),
            "grpc_port_base": str(services),
            "ops_port_base": str(self._operations),
            "tasks_address": f"127.0.0.1:{self.tasks_way.port}",
        }
        self.process = _Supervised(folder, free_port(), **parts.settings, **settings)
        self.url = f"http://127.0.0.1:{self.process.port}"
        self.urls = [self.url]

    def close(self) -> None:
        """Ends it as an operator would."""
        try:
            assert self.process.stop() == 0
        finally:
            self.tasks_way.close()

    def pid(self, name: str) -> int:
        """The process id of a service or of the gateway; 0 while there is none."""
        for child in psutil.Process(self.process.process.pid).children():
            try:
                if child.cmdline()[-1:] == [name]:
                    return child.pid
            except psutil.Error:  # it ends in this moment
                continue
        return 0

    def kill(self, name: str) -> int:
        """SIGKILL to the process of that name, if there is one; its id."""
        if pid := self.pid(name):
            psutil.Process(pid).send_signal(signal.SIGKILL)
        return pid

    async def ready(self, name: str) -> bool:
        """Whether a process says that it and all it needs is well."""
        async with httpx.AsyncClient(trust_env=False, timeout=2) as http:
            try:
                address = self.url if name == GATEWAY else f"http://127.0.0.1:{self._port_of(name)}"
                return bool((await http.get(f"{address}/readyz")).json()["status"] == "ok")
            except (httpx.TransportError, ValueError):
                return False

    async def metric(self, name: str, metric: str) -> float:
        """The sum of a service's metric over its labels."""
        async with httpx.AsyncClient(trust_env=False) as http:
            text = (await http.get(f"http://127.0.0.1:{self._port_of(name)}/metrics")).text
        return sum(float(value) for value in re.findall(rf"^{metric}(?:{{.*}})? (\S+)$", text, re.MULTILINE))

    def _port_of(self, name: str) -> int:
        return self._operations + SERVICES.index(name)

    async def well(self, seconds: float = 90) -> None:
        """See `Deployment`."""

        async def look() -> bool:
            assert self.process.process.poll() is None, self.tail()
            for name in PROCESSES:
                if not await self.ready(name):
                    return False
            return True

        await eventually(look, "all processes", seconds=seconds)

    async def back(self, name: str, than: int, seconds: float = 60) -> None:
        """Returns when there is another process of that name than the one of this id, and it is ready."""

        async def look() -> bool:
            return self.pid(name) not in (0, than) and await self.ready(name)

        await eventually(look, f"another {name}", seconds=seconds)

    def tail(self) -> str:
        """See `Deployment`."""
        return self.process.stderr.read_text(errors="replace")[-3000:]


@contextmanager
def supervised(folder: Path, hooks: HookServer) -> Iterator[Cluster]:
    """A cluster by `taskman-server up --cluster` that is ready."""
    with Parts.running(folder) as parts:
        cluster = Cluster(folder, parts, hooks)
        try:
            run_async(cluster.process.ready(120))
            run_async(cluster.well())
            parts.rabbitmq.settle()  # whoever kills it later finds its queues
            yield cluster
        finally:
            cluster.close()
