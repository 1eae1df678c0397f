"""One server of each kind for all xdist workers of a run.

The servers belong to the process that pytest was started with. It listens on a socket; the workers ask it over that.
So nobody has to count who uses what: a worker may die at any time, and when the first process ends, however it ends,
the guards end the servers.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import pytest

from tests.parts.servers import Server

__all__ = ["Keeper", "RemoteControl"]


def _make(kind: str, folder: Path) -> Server:
    from tests.parts.postgresql import PostgresServer
    from tests.parts.rabbitmq import RabbitServer
    from tests.parts.redis import PrivateRedis

    makers: dict[str, Callable[[Path], Server]] = {
        "postgresql": PostgresServer,
        "redis": PrivateRedis,
        "rabbitmq": RabbitServer,
    }
    return makers[kind](folder)


class Keeper:
    """Owns the servers of a run; each is started when it is first asked for."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="taskman-parts-"))
        self._servers: dict[str, Server] = {}
        self._locks = {kind: threading.Lock() for kind in ("postgresql", "redis", "rabbitmq")}
        self._listener: Listener | None = None
        self._secret = secrets.token_bytes(16)

    def server(self, kind: str) -> Server:
        """The server of that kind, running when it is asked for the first time."""
        with self._locks[kind]:
            if kind not in self._servers:
                server = _make(kind, self._folder)
                try:
                    server.start()
                except BaseException:
                    server.close()
                    raise
                self._servers[kind] = server
            return self._servers[kind]

    def listen(self) -> tuple[str, str]:
        """Where workers reach it, and the secret that they must know; listens from the first call on."""
        if self._listener is None:
            self._listener = Listener(str(self._folder / "keeper"), "AF_UNIX", backlog=64, authkey=self._secret)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return str(self._listener.address), self._secret.hex()

    def _accept(self, listener: Listener) -> None:
        while True:
            try:
                connection = listener.accept()
            except OSError:
                return
            except Exception:  # a worker that died while it said hello
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        with connection, suppress(EOFError, OSError):
            while True:
                kind, verb, arguments = connection.recv()
                try:
                    found = getattr(self.server(kind), verb)
                    connection.send((None, found(*arguments) if callable(found) else found))
                except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:
                    connection.send((error, None))

    def close(self) -> None:
        """Ends all servers."""
        if self._listener is not None:
            self._listener.close()
        for server in self._servers.values():
            server.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class RemoteControl:
    """A server of the keeper, from inside of a worker."""

    def __init__(self, address: str, secret: str, kind: str) -> None:
        self._kind = kind
        self._lock = threading.Lock()
        self._connection = Client(address, "AF_UNIX", authkey=bytes.fromhex(secret))
        self.port: int = self._call("port")
        self.password: str = self._call("password")

    def _call(self, verb: str, *arguments: Any) -> Any:
        with self._lock:
            self._connection.send((self._kind, verb, arguments))
            error, value = self._connection.recv()
        if error is not None:
            raise error
        return value

    @property
    def pid(self) -> int:
        """Its process id; 0 while it does not run."""
        return int(self._call("pid"))

    def start(self) -> None:
        """Starts it and returns when it answers."""
        self._call("start")

    def stop(self) -> None:
        """Ends it orderly and waits for it."""
        self._call("stop")

    def kill(self) -> None:
        """SIGKILL to it and to everything it started."""
        self._call("kill")

    def ask(self, text: str) -> str:
        """What its console answers."""
        return str(self._call("ask", text))
