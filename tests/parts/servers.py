"""What the servers have in common: a port of their own, a folder, a process that is ended whatever happens."""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

__all__ = ["Control", "Port", "Server", "ServerFailed", "run_async"]

T = TypeVar("T")
_GUARD = Path(__file__).with_name("guard.py")


class ServerFailed(Exception):
    """A server did not start, or is not there any more although nobody stopped it; the text is the end of its log."""


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, run in a loop of its own: the caller may stand inside of another one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def unprivileged_user() -> str:
    """The user that servers run as where the tests run as root (PostgreSQL refuses root); `-`: stay who we are."""
    if os.geteuid() != 0:
        return "-"
    for name in ("nobody", "daemon"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return "-"


class Port:
    """A port of loopback that nobody else gets until it is closed, also while its server is down (Linux).

    It stays bound, never listening, so that neither another server nor an outgoing connection is given it. Servers
    set SO_REUSEADDR, which lets them listen on it all the same.
    """

    def __init__(self) -> None:
        self._held: socket.socket | None = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.number: int = self._held.getsockname()[1]
        if sys.platform != "linux":
            self.close()

    def close(self) -> None:
        """Gives it back."""
        if self._held is not None:
            self._held.close()
            self._held = None


class Control(Protocol):
    """A server that can be started and ended, here or in the process that owns it."""

    @property
    def port(self) -> int:
        """The port that it listens on, the same after each start."""

    @property
    def password(self) -> str:
        """The password of its user `taskman`."""

    @property
    def pid(self) -> int:
        """Its process id; 0 while it does not run."""

    def start(self) -> None:
        """Starts it and returns when it answers."""

    def stop(self) -> None:
        """Ends it orderly and waits for it."""

    def kill(self) -> None:
        """SIGKILL to it and to everything it started."""

    def ask(self, text: str) -> str:
        """What its console answers."""


class Server(ABC):
    """One server process under a guard (guard.py). Safe to use from several threads."""

    name: str
    """What it is called in messages and what its log is called."""
    stop_signal: signal.Signals = signal.SIGTERM
    """Ends it orderly."""
    last_signal: signal.Signals = signal.SIGKILL
    """Ends it when nobody needs its data any more."""
    start_seconds: float = 60

    def __init__(self, folder: Path | None) -> None:
        """Args:
        folder: its log is written there, and its data, unless it runs as somebody who cannot get there. None: both
            are in a folder of its own, which is gone when it is.
        """
        self.user = unprivileged_user()
        # pytest's folders are closed to all but their owner.
        place = folder if self.user == "-" else None
        self.home = Path(tempfile.mkdtemp(prefix=f"taskman-{self.name}-", dir=place))
        self.log = (folder or self.home) / f"{self.name}.log"
        self._port = Port()
        self.port = self._port.number
        self.password = secrets.token_hex(12)
        self._guard: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()
        self._prepared = False
        self.pid = 0
        self.own(self.home)

    def own(self, path: Path) -> Path:
        """Gives a path to the user that the server runs as."""
        if self.user != "-":
            entry = pwd.getpwnam(self.user)
            os.chown(path, entry.pw_uid, entry.pw_gid)
        return path

    def write(self, name: str, text: str) -> Path:
        """A file in its folder, readable by nobody else."""
        path = self.home / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        return self.own(path)

    def run(self, *command: str) -> None:
        """Runs a command as the server's user, for example one that makes its data.

        Raises:
            ServerFailed: it failed; the text is what it said.
        """
        entry = None if self.user == "-" else pwd.getpwnam(self.user)
        done = subprocess.run(
            command,
            cwd=self.home,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            user=entry and entry.pw_uid,
            group=entry and entry.pw_gid,
            extra_groups=None if entry is None else [],
        )
        if done.returncode != 0:
            raise ServerFailed(f"{command[0]} failed with {done.returncode}:\n{done.stdout.decode(errors='replace')}")

    @abstractmethod
    def prepare(self) -> None:
        """Makes its data, before the first start."""

    @abstractmethod
    def command(self) -> list[str]:
        """What to run."""

    def environment(self) -> dict[str, str]:
        """What the environment has besides."""
        return {}

    def _environment(self) -> dict[str, str]:
        # The settings of whoever runs the tests are not the server's.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "RABBITMQ_", "ERL_"))}
        return {**kept, "HOME": str(self.home), **self.environment()}

    @abstractmethod
    def answers(self) -> bool:
        """Whether it is ready."""

    def start(self) -> None:
        """Starts it and returns when it answers.

        Raises:
            ServerFailed: it ended, or is not ready in time.
        """
        with self._lock:
            assert self._guard is None, f"{self.name} runs already"
            if not self._prepared:
                self.prepare()
                self._prepared = True
            guard = (sys.executable, "-I", "-S", str(_GUARD))
            with self.log.open("ab") as log:
                self._guard = subprocess.Popen(
                    [*guard, self.user, str(int(self.last_signal)), str(self.home), *self.command()],
                    cwd=self.home,
                    env=self._environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    bufsize=0,
                    start_new_session=True,  # an interrupt at the terminal is for the tests
                )
            assert self._guard.stdout is not None
            self.pid = int(self._guard.stdout.readline() or 0)
            self._wait_ready()

    def _wait_ready(self) -> None:
        assert self._guard is not None
        deadline = time.monotonic() + self.start_seconds
        while not self.answers():
            if self._guard.poll() is not None:
                code = self._guard.returncode
                self._ended()
                raise ServerFailed(f"{self.name} ended with {code}:\n{self.tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise ServerFailed(f"{self.name} was not ready within {self.start_seconds} s:\n{self.tail()}")
            time.sleep(0.005)

    def stop(self) -> None:
        """Ends it orderly and waits for it."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """SIGKILL to it and to everything it started."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        with self._lock:
            if self._guard is None:
                return
            if self._guard.poll() is None and self.pid:
                with suppress(ProcessLookupError):
                    os.kill(self.pid, number)
            try:
                self._guard.wait(30)
            except subprocess.TimeoutExpired:
                os.kill(self.pid, signal.SIGKILL)
                self._guard.wait(30)
            self._ended()

    def _ended(self) -> None:
        assert self._guard is not None
        for pipe in (self._guard.stdin, self._guard.stdout):
            if pipe is not None:
                pipe.close()
        self._guard = None
        self.pid = 0

    def tell(self, text: str) -> None:
        """Writes to its standard input."""
        assert self._guard is not None, f"{self.name} does not run"
        assert self._guard.stdin is not None
        self._guard.stdin.write(text.encode())

    def ask(self, text: str) -> str:
        """What its console answers, where it has one."""
        raise NotImplementedError(f"{self.name} has no console")

    def close(self) -> None:
        """Ends it and removes its data."""
        self._end(self.last_signal)
        self._port.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


class Handle:
    """What every part can do, whoever owns its process."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self.port = control.port

    @property
    def pid(self) -> int:
        """Its process id; 0 while it does not run."""
        return self._control.pid

    def start(self) -> None:
        """Starts it again on the same port and returns when it answers."""
        self._control.start()

    def stop(self) -> None:
        """Ends it orderly and waits for it. All who share it go without it: rather stop a private one."""
        self._control.stop()

    def kill(self) -> None:
        """SIGKILL to it and to everything it started; its data stays as it is."""
        self._control.kill()

    def restart(self) -> None:
        """Ends it orderly and starts it again."""
        self.stop()
        self.start()


@contextmanager
def running(server: Server) -> Iterator[None]:
    """The server, started; ended and its data removed afterwards."""
    try:
        server.start()
        yield
    finally:
        server.close()
