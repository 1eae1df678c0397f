"""A server as people start it: `taskman-server up` in a process of its own, or in eight."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from taskman_sdk import contract
from tests.contract.waiting import eventually
from tests.serving import free_port, free_ports

__all__ = ["ClusterProcess", "ServerProcess"]


class ServerProcess:
    """`taskman-server up` on free ports; what it says goes to files beside its data."""

    def __init__(self, folder: Path, **settings: str) -> None:
        """Args:
        folder: an empty folder.
        settings: settings by name, handed over in the environment.
        """
        self.folder = folder
        self.settings = settings
        self.stdout = folder / "stdout.txt"
        self.stderr = folder / "stderr.txt"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TASKMAN_")}
        environment |= {f"TASKMAN_{name.upper()}": value for name, value in settings.items()}
        command = [str(Path(sys.executable).with_name("taskman-server")), "up", "--data", str(folder / "data")]
        command += self.flags()
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.process = subprocess.Popen(
                command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self.url = ""
        self.grpc: dict[str, str] = {}

    def flags(self) -> list[str]:
        """How it is started."""
        return ["--port", "0", "--grpc-port-base", "0"]

    async def ready(self, seconds: float = 60) -> None:
        """Returns when it answers `/readyz`, and knows its ports from what it said."""
        said = await eventually(self._said, "the start of taskman-server", seconds=seconds)
        address = re.search(r"TaskMan is up at (\S+)", said)
        assert address, said
        self.url = address[1]
        self.grpc = dict(re.findall(r"^  gRPC +(\w+) +(\S+:\d+)$", said, re.MULTILINE))
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as http:

            async def look() -> bool:
                self._alive()
                return (await http.get("/readyz")).status_code == 200

            await eventually(look, "/readyz", seconds=seconds, ignore=(httpx.TransportError,))

    async def _said(self) -> str | None:
        self._alive()
        said = self.stdout.read_text()
        return said if "sign-up" in said else None

    def _alive(self) -> None:
        if (code := self.process.poll()) is not None:
            raise AssertionError(f"taskman-server ended with {code}:\n{self.stderr.read_text()[-4000:]}")

    def faults(self) -> list[str]:
        """The log lines about faults of the server's own making."""
        return [line for line in self.stderr.read_text().splitlines() if '"level": "error"' in line]

    def stop(self) -> int:
        """Ends it as an operator would, and says how it ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("taskman-server did not end within 30 s of SIGTERM") from None


class ClusterProcess(ServerProcess):
    """`taskman-server up --cluster` on free ports: eight processes and what watches them."""

    def __init__(self, folder: Path, **settings: str) -> None:
        """Args:
        folder: an empty folder.
        settings: settings by name; `database_url`, `broker_url` and `redis_url` say on what.
        """
        self.port, self.edge, services, operations = free_port(), free_port(), free_ports(7), free_ports(7)
        super().__init__(
            folder,
            grpc_port=str(self.edge),
            grpc_port_base=str(services),
            ops_port_base=str(operations),
            **settings,
        )
        self.services = services
        self.operations = operations

    def flags(self) -> list[str]:
        """How it is started."""
        return ["--cluster", "--port", str(self.port)]

    async def ready(self, seconds: float = 120) -> None:
        """Returns when the gateway has reached every service, and every service says that it is ready."""
        await super().ready(seconds)
        self.grpc = dict.fromkeys(contract.AREAS, f"127.0.0.1:{self.edge}")
        async with httpx.AsyncClient(trust_env=False) as http:

            async def look() -> bool:
                self._alive()
                answers = [await http.get(f"http://127.0.0.1:{self.operations + n}/readyz") for n in range(7)]
                return all(answer.json()["status"] == "ok" for answer in answers)

            await eventually(look, "/readyz of all services", seconds=seconds, ignore=(httpx.TransportError,))
