"""The cluster shape as an orchestrator runs it: several replicas of each service, and several gateways."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from taskman_server.kit import tls
from taskman_server.settings import SERVICES
from tests.chaos.cluster import GATEWAY, PROCESSES, Parts
from tests.chaos.trial import Deployment
from tests.contract.receivers import HookServer
from tests.contract.waiting import eventually
from tests.parts.servers import run_async
from tests.serving import free_port, free_ports

__all__ = ["DRAIN_SECONDS", "Fleet", "Replica", "fleet_of"]

DRAIN_SECONDS = 20.0
_MAIN = "from taskman_server.cli import main; main()"


class Replica:
    """One process by `taskman-server run`, which can be ended and started again; from another folder too."""

    def __init__(self, name: str, ready: str, log: Path, environment: Mapping[str, str]) -> None:
        """`ready`: where it says how it is."""
        self.name = name
        self.log = log
        self._ready = ready
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, source: Path | None = None) -> None:
        """Starts it; it is not ready yet. `source`: the folder of the code, instead of that of the tests."""
        path = f"import sys; sys.path.insert(0, {str(source)!r}); " if source is not None else ""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", path + _MAIN, "run", self.name],
                env=self._environment, cwd=self.log.parent, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def terminate(self) -> tuple[int, float]:
        """SIGTERM; its exit code, and how many seconds it took to end."""
        assert self._process is not None
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(DRAIN_SECONDS + 10)
        self._process = None
        return code, time.monotonic() - began

    def stop(self) -> None:
        """Ends it in whatever state it is."""
        if self._process is not None:
            try:
                self.terminate()
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    async def ready(self, seconds: float = 60) -> None:
        """Returns when it says that it is well."""
        async with httpx.AsyncClient(trust_env=False, timeout=2) as http:

            async def look() -> bool:
                assert self._process is not None
                if (code := self._process.poll()) is not None:
                    raise AssertionError(f"{self.name} ended with {code}:\n{self.tail()}")
                return bool((await http.get(self._ready)).json()["status"] == "ok")

            await eventually(look, f"a {self.name}", seconds=seconds, ignore=(httpx.TransportError, ValueError))

    def tail(self) -> str:
        """The end of its log, without what is said of each request."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if '"event": "request"' not in line)[-1500:]


class Fleet(Deployment):
    """Replicas of each service, and gateways; each knows all addresses."""

    def __init__(self, folder: Path, parts: Parts, hooks: HookServer, copies: int = 2) -> None:
        self.parts, self.stores, self.hooks = parts, parts.stores, hooks
        certs = folder / "certs"
        tls.make_authority(certs)
        for name in PROCESSES:
            tls.issue(certs, name)
        ports = [(free_ports(7), free_ports(7), free_port()) for _ in range(copies)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKMAN_")}
        own = {
            **parts.settings,
            "data": str(folder / "data"),
            "certs": str(certs),
            # In tokens and in page tokens: the same everywhere.
            "public_url": f"http://127.0.0.1:{ports[0][2]}",
            "secret_key": secrets.token_hex(32),
            "drain_seconds": str(DRAIN_SECONDS),
            **{
                f"{name}_address": ",".join(f"127.0.0.1:{services + n}" for services, _, _ in ports)
                for n, name in enumerate(SERVICES)
            },
        }
        self.urls = [f"http://127.0.0.1:{port}" for _, _, port in ports]
        self.replicas: dict[str, list[Replica]] = {name: [] for name in PROCESSES}
        for number, (services, operations, port) in enumerate(ports):
            of_this = {
                "port": str(port),
                "grpc_port": "-1",
                "grpc_port_base": str(services),
                "ops_port_base": str(operations),
            }
            environment = {**kept, **{f"TASKMAN_{key.upper()}": value for key, value in {**own, **of_this}.items()}}
            for name in PROCESSES:
                where = port if name == GATEWAY else operations + SERVICES.index(name)
                log = folder / f"{name}-{number}.log"
                self.replicas[name].append(Replica(name, f"http://127.0.0.1:{where}/readyz", log, environment))

    @property
    def all(self) -> list[Replica]:
        """Every process."""
        return [replica for replicas in self.replicas.values() for replica in replicas]

    async def well(self) -> None:
        """See `Deployment`."""
        for replica in self.all:
            await replica.ready(120)

    def tail(self) -> str:
        """See `Deployment`."""
        return "\n".join(f"--- {replica.log.name}\n{replica.tail()}" for replica in self.all)

    def close(self) -> None:
        """Ends all, the gateways first."""
        for replica in reversed(self.all):
            replica.stop()


@contextmanager
def fleet_of(folder: Path, hooks: HookServer) -> Iterator[Fleet]:
    """A fleet that is ready."""
    with Parts.running(folder) as parts:
        fleet = Fleet(folder, parts, hooks)
        try:
            for replica in fleet.all:
                replica.start()
            run_async(fleet.well())
            yield fleet
        finally:
            fleet.close()
