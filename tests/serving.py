"""A real server in a process of its own: started, watched, killed. For the chaos tests and the benches."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

__all__ = ["ADMIN", "PASSWORD", "ServerEnded", "ServerProcess", "free_port", "free_ports"]

ADMIN = "admin@example.org"
PASSWORD = "correct horse battery staple"
_COMMAND = (sys.executable, "-c", "from taskman_server.cli import main; main()", "up")


class ServerEnded(Exception):
    """The server is not there any more although nobody stopped it; the text is the end of its log."""


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def free_ports(count: int) -> int:
    """The first of so many ports of loopback in a row that nobody uses now; below those that the kernel gives away."""
    while True:
        base = random.randrange(20_000, 32_000 - count)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(base, base + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return base


class ServerProcess:
    """`taskman-server up` on a data folder; the same port at every start. Ends what it started by its process id."""

    def __init__(
        self, data: Path, *, settings: Mapping[str, str] | None = None, command: tuple[str, ...] = _COMMAND
    ) -> None:
        """Args:
        data: the data folder; the log is written beside it.
        settings: settings by their names, for example `{"rate_limit": "off"}`.
        command: what to run, where it is not the server.
        """
        self.data = data
        self.log = data.with_name(f"{data.name}.log")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = command
        own = {
            "data": str(data),
            "port": str(self.port),
            "grpc_port_base": "-1",
            "admin_email": ADMIN,
            "admin_password": PASSWORD,
            "access_token_seconds": "86400",
            **(settings or {}),
        }
        # The settings of whoever runs the tests are not the server's.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKMAN_")}
        self._environment = {**kept, **{f"TASKMAN_{name.upper()}": value for name, value in own.items()}}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    def start(self) -> None:
        """Starts it; it is not ready yet."""
        assert self._process is None, "the server runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self.data.parent,  # no taskman.toml there
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self, seconds: float = 60) -> None:
        """Returns when it answers requests.

        Raises:
            ServerEnded: it ended, or is not ready in time.
        """
        assert self._process is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerEnded(f"the server ended with {self._process.returncode}:\n{self.tail()}")
            if self._answers():
                return
            time.sleep(0.01)
        raise ServerEnded(f"the server was not ready within {seconds} s:\n{self.tail()}")

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """SIGKILL, now."""
        self._end(signal.SIGKILL, 30)

    def terminate(self, seconds: float) -> int:
        """SIGTERM; the exit code.

        Raises:
            subprocess.TimeoutExpired: it is still there after so many seconds.
        """
        return self._end(signal.SIGTERM, seconds)

    def _end(self, number: signal.Signals, seconds: float) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        code = self._process.wait(seconds)
        self._process = None
        return code

    def stop(self) -> None:
        """Ends it in whatever state it is."""
        if self._process is not None:
            try:
                self.terminate(15)
            except subprocess.TimeoutExpired:
                self.kill()

    def cpu_seconds(self) -> float:
        """The processor time that it has used, all threads, user and system."""
        # Fields 14 and 15 of proc(5), counted after the name, which may hold spaces.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
