"""One server of each kind for all xdist workers of a run.

The servers belong to the process that pytest was started with. It listens on a socket; the workers ask it over that.
So nobody has to count who uses what: a worker may die at any time, and when the first process ends, however it ends,
the guards end the servers.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

import pytest

from tests.parts.postgresql import PostgresServer
from tests.parts.rabbitmq import RabbitServer
from tests.parts.redis import PrivateRedis
from tests.parts.servers import Server, ServerFailed

__all__ = ["Keeper", "RemoteControl"]

# They are no Exception.
_OUTCOMES = (pytest.skip.Exception, pytest.fail.Exception)
KINDS: dict[str, type[PostgresServer] | type[PrivateRedis] | type[RabbitServer]] = {
    "postgresql": PostgresServer,
    "redis": PrivateRedis,
    "rabbitmq": RabbitServer,
}


def _started(kind: Callable[[], Server]) -> Server:
    server = kind()
    try:
        server.start()
    except BaseException:
        server.close()
        raise
    return server


class Keeper:
    """Owns the servers of a run; each is started when it is first asked for."""

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}
        self._failures: dict[str, BaseException] = {}
        self._locks = {kind: threading.Lock() for kind in KINDS}
        self._listener: Listener | None = None
        self._secret = secrets.token_bytes(16)

    def server(self, kind: str) -> Server:
        """The server of that kind, running when it is asked for the first time."""
        with self._locks[kind]:
            if kind in self._failures:
                raise self._failures[kind]
            if kind not in self._servers:
                try:
                    self._servers[kind] = _started(KINDS[kind])
                except (Exception, *_OUTCOMES) as error:
                    self._failures[kind] = error  # the next worker need not try to install it again
                    raise
            return self._servers[kind]

    def listen(self) -> tuple[int, str]:
        """The port where workers reach it, and the secret that they must know; listens from the first call on."""
        if self._listener is None:
            self._listener = Listener(("127.0.0.1", 0), "AF_INET", backlog=64, authkey=self._secret)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self._listener.address[1], self._secret.hex()

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
                    connection.send(("", found(*arguments) if callable(found) else found))
                # As text: pytest's outcomes cannot be pickled, nor can every error.
                except pytest.skip.Exception as skipped:
                    connection.send(("skip", str(skipped)))
                except pytest.fail.Exception as failed:
                    connection.send(("fail", str(failed)))
                except Exception as error:
                    connection.send(("error", f"{type(error).__name__}: {error}"))

    def close(self) -> None:
        """Ends all servers."""
        if self._listener is not None:
            self._listener.close()
        for server in self._servers.values():
            server.close()


class RemoteControl:
    """A server of the keeper, from inside of a worker."""

    def __init__(self, port: int, secret: str, kind: str) -> None:
        self._kind = kind
        self._lock = threading.Lock()
        self._connection = Client(("127.0.0.1", port), "AF_INET", authkey=bytes.fromhex(secret))
        self.port: int = self._call("port")
        self.password: str = self._call("password")

    def _call(self, verb: str, *arguments: Any) -> Any:
        with self._lock:
            self._connection.send((self._kind, verb, arguments))
            trouble, value = self._connection.recv()
        if trouble == "skip":
            pytest.skip(value)
        if trouble == "fail":
            pytest.fail(value, pytrace=False)
        if trouble:
            raise ServerFailed(value)
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
