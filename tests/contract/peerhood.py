"""Probes as services of a cluster: trusted ports with certificates, and channels to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskman_sdk import contract
from taskman_server.kit.rpc import CallOptions, Channel, service_principal
from taskman_server.kit.rpc.peers import PeerChannel
from taskman_server.kit.rpc.server import GrpcServer
from taskman_server.kit.tls import Identity, issue, make_authority
from tests.contract.probe import Probe, running_probe

__all__ = ["TASKS", "Hood", "Replica", "call", "open_hood", "until"]

TASKS = service_principal("tasks", "default", "user_ann")


@dataclass(slots=True)
class Replica:
    """One process's worth of the probe, which answers as the service `users`."""

    probe: Probe
    server: GrpcServer
    address: str

    @property
    def calls(self) -> int:
        """How many calls have reached the handlers."""
        return len(self.probe.handlers.seen.calls)


@dataclass(slots=True)
class Hood:
    """A deployment of probes."""

    service: contract.Service
    folder: Path
    replicas: list[Replica] = field(default_factory=list)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def identity(self, service: str, folder: Path | None = None) -> Identity:
        """The identity of a service, made when it is missing."""
        folder = folder or self.folder
        if not (folder / f"{service}.crt").exists():
            issue(folder, service)
        return Identity.of_folder(folder, service)

    async def replica(self, port: int = 0, *, mesh: bool = False, **options: Any) -> Replica:
        """Starts a replica."""
        home = self.folder / f"replica-{len(self.replicas)}"
        home.mkdir()
        probe = await self._stack.enter_async_context(running_probe(self.service, home))
        identity = None if mesh else self.identity("users")
        server = GrpcServer(self.service, probe.pipeline, trusted=True, identity=identity, **options)
        replica = Replica(probe, server, f"127.0.0.1:{await server.start('127.0.0.1', port)}")
        self._stack.push_async_callback(server.stop, 0)
        self.replicas.append(replica)
        return replica

    def channel(self, service: str = "tasks", *replicas: Replica, **options: Any) -> PeerChannel:
        """A channel of a service to these replicas, or to all."""
        targets = [replica.address for replica in replicas or self.replicas]
        identity = options.pop("identity", None) or self.identity(service)
        channel = PeerChannel(options.pop("expected", "users"), targets, identity, **options)
        self._stack.push_async_callback(channel.close)
        return channel


async def call(channel: Channel, service: contract.Service, rpc: str = "Echo", **fields: Any) -> Any:
    """Calls the probe as the service `tasks`."""
    method = service.methods[rpc]
    options = fields.pop("options", None) or CallOptions(caller=TASKS, timeout=10)
    return await channel.unary(method, method.input(**{"name": "p", **fields}), options)


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Waits until it holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - there is no event for what gRPC does
            await asyncio.sleep(0.01)


@asynccontextmanager
async def open_hood(service: contract.Service, folder: Path) -> AsyncIterator[Hood]:
    """An authority, and no replica yet."""
    make_authority(folder)
    hood = Hood(service, folder)
    async with hood._stack:
        yield hood
