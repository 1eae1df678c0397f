"""The cluster shape for the bench: eight processes, PostgreSQL, RabbitMQ and Redis, on data that was filled once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from taskman_server.settings import SERVICES
from tests.chaos.stores import ClusterStores
from tests.parts.install import program
from tests.parts.postgresql import PostgreSQL, private_postgresql
from tests.parts.rabbitmq import RabbitMQ, private_rabbitmq
from tests.parts.redis import RedisServer, private_redis
from tests.serving import ServerEnded, ServerProcess, free_port, free_ports

__all__ = ["ClusterServer", "Parts"]

_UP = (sys.executable, "-c", "from taskman_server.cli import main; main()", "up", "--cluster")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the eight processes stand on; commits wait for the disk."""

    postgresql: PostgreSQL
    rabbitmq: RabbitMQ
    redis: RedisServer

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator[Parts]:
        """Private ones; their logs go to the folder."""
        with ExitStack() as stack:
            yield cls(
                stack.enter_context(private_postgresql(folder, durable=True)),
                stack.enter_context(private_rabbitmq(folder)),
                stack.enter_context(private_redis(folder)),
            )

    def pids(self) -> dict[str, int]:
        """Their process ids, by name."""
        return {"postgresql": self.postgresql.pid, "rabbitmq": self.rabbitmq.pid, "redis": self.redis.pid}


class ClusterServer(ServerProcess):
    """`taskman-server up --cluster` on a folder with its data folder and a dump of each database."""

    def __init__(self, folder: Path, parts: Parts, settings: Mapping[str, str]) -> None:
        """The databases are made anew, with what the dumps have; empty where the folder is."""
        self.folder = folder
        self.parts = parts
        self._operations = free_ports(len(SERVICES))
        self._databases = parts.postgresql.family(SERVICES)
        broker = parts.rabbitmq.vhost("bench")
        self._stores = ClusterStores(self._databases, parts.postgresql, parts.rabbitmq, broker.rpartition("/")[2])
        folder.mkdir(parents=True, exist_ok=True)
        own = {
            "database_url": self._databases,
            "broker_url": broker,
            "redis_url": parts.redis.database(),
            "grpc_port": str(free_port()),
            "grpc_port_base": str(free_ports(len(SERVICES))),
            "ops_port_base": str(self._operations),
        }
        super().__init__(folder / "data", settings={**own, **settings}, command=_UP)

    def start(self) -> None:
        """See `ServerProcess.start`."""
        for service in SERVICES:
            if (dump := self._dump(service)).is_file():
                _tool("pg_restore", "--no-owner", "--dbname", self._stores.database(service), str(dump))
                _tool("vacuumdb", "--quiet", "--analyze", "--dbname", self._stores.database(service))
        super().start()

    def wait_ready(self, seconds: float = 120) -> None:
        """See `ServerProcess.wait_ready`; of all eight."""
        super().wait_ready(seconds)
        deadline = time.monotonic() + seconds
        while [url for url in self.metrics_urls if not _well(url)]:
            if time.monotonic() > deadline:
                raise ServerEnded(f"not all processes were ready within {seconds} s:\n{self.tail()}")
            time.sleep(0.1)

    def save(self) -> None:
        """Writes the dumps. To be called when it has ended."""
        for service in SERVICES:
            _tool("pg_dump", "--format=custom", "--file", str(self._dump(service)), self._stores.database(service))

    def stop(self) -> None:
        """See `ServerProcess.stop`; its databases go too."""
        super().stop()
        for service in SERVICES:
            self.parts.postgresql.drop(self._stores.database(service))

    def left_over(self) -> dict[str, int]:
        """What is still on its way between the services."""
        return asyncio.run(self._stores.left_over())

    @property
    def metrics_urls(self) -> list[str]:
        """Where each process answers `/metrics`."""
        return [self.url, *(f"http://127.0.0.1:{self._operations + number}" for number in range(len(SERVICES)))]

    def _dump(self, service: str) -> Path:
        return self.folder / f"{service}.dump"


def _tool(name: str, *arguments: str) -> None:
    path = program("postgresql").resolve().parent / name
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed with {done.returncode}:\n{done.stderr}")


def _well(url: str) -> bool:
    try:
        return bool(httpx.get(f"{url}/readyz", timeout=5).json()["status"] == "ok")
    except (httpx.TransportError, ValueError):
        return False
