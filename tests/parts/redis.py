"""A real Redis: private, on loopback, gone afterwards."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.parts.install import program
from tests.parts.servers import Handle, Server, running

__all__ = ["PrivateRedis", "RedisServer", "private_redis"]

DATABASES = 4096


class PrivateRedis(Server):
    """The process."""

    name = "redis"

    def __init__(self, folder: Path | None = None, *, durable: bool = False) -> None:
        self.program = str(program("redis"))
        super().__init__(folder)
        self.durable = durable

    def prepare(self) -> None:
        self.write(
            "redis.conf",
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\ndatabases {DATABASES}\n"
            f'dir {self.home}\nsave ""\ndaemonize no\nlogfile ""\n'
            + ("appendonly yes\nappendfsync always\n" if self.durable else "appendonly no\n"),
        )

    def command(self) -> list[str]:
        return [self.program, str(self.home / "redis.conf")]

    def answers(self) -> bool:
        try:
            return self.say("PING") == "+PONG"
        except OSError:
            return False

    def say(self, command: str) -> str:
        """The first line that it answers to a command."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection, connection.makefile("rwb") as stream:
            stream.write(f"AUTH {self.password}\r\n{command}\r\n".encode())
            stream.flush()
            stream.readline()
            return str(stream.readline().decode().strip())

    def ask(self, text: str) -> str:
        """What it answers to an inline command."""
        return self.say(text)


class RedisServer(Handle):
    """A Redis that tests may use."""

    @property
    def url(self) -> str:
        """The address of database 0, which everybody shares: `redis://:password@host:port/0`."""
        return self._url(0)

    def database(self) -> str:
        """The URL of an empty database that nobody else is given. Channels of publish/subscribe are shared all the
        same, and FLUSHALL empties those of all."""
        number = int(self._control.ask("INCR taskman-tests:last-database").lstrip(":"))
        assert number < DATABASES, "all databases of the Redis of this run are given away"
        return self._url(number)

    def _url(self, number: int) -> str:
        return f"redis://:{self._control.password}@127.0.0.1:{self.port}/{number}"


@contextmanager
def private_redis(folder: Path, *, durable: bool = False) -> Iterator[RedisServer]:
    """A Redis for one test. `durable`: what it has confirmed survives its end (append-only file, fsync always)."""
    server = PrivateRedis(folder, durable=durable)
    with running(server):
        yield RedisServer(server)
