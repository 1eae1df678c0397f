"""A real PostgreSQL: private, on loopback, gone afterwards."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.parts.install import program
from tests.parts.servers import Handle, Server, run_async, running

__all__ = ["PostgreSQL", "PostgresServer", "Replica", "private_postgresql", "private_replica"]

# Nobody looks at this data after a crash of the machine. (Not synchronous_commit: without it, a commit that was
# confirmed is lost when the server is killed, and is late in the replica.)
_CARELESS = {"fsync": "off", "full_page_writes": "off"}
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",
    "shared_buffers": "64MB",
    "dynamic_shared_memory_type": "mmap",  # else a killed server leaves files in /dev/shm
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class PostgresServer(Server):
    """The process."""

    name = "postgresql"
    stop_signal = signal.SIGINT  # "fast": open connections are ended
    last_signal = signal.SIGQUIT

    def __init__(
        self, folder: Path | None = None, *, durable: bool = False, options: dict[str, str] | None = None
    ) -> None:
        self.programs = program("postgresql").resolve().parent
        super().__init__(folder)
        self.data = self.home / "data"
        self.options = {**_OPTIONS, **({} if durable else _CARELESS), **(options or {})}

    def prepare(self) -> None:
        secret = self.write("password", self.password)
        self.run(
            str(self.programs / "initdb"), "--pgdata", str(self.data), "--username=taskman", f"--pwfile={secret}",
            "--auth=md5",  # a password like everywhere, but scram's thousands of rounds at each connection add up
            "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions",
        )  # fmt: skip

    def command(self) -> list[str]:
        settings = [part for name, value in self.options.items() for part in ("-c", f"{name}={value}")]
        return [str(self.programs / "postgres"), "-D", str(self.data), "-p", str(self.port), *settings]

    def answers(self) -> bool:
        # As pg_ctl does it: the eighth line of this file is the state.
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"


class PostgreSQL(Handle):
    """A PostgreSQL that tests may use; its user `taskman` may do everything."""

    def url(self, database: str = "postgres") -> str:
        """The address of a database: `postgresql://user:password@host:port/database`."""
        return f"postgresql://taskman:{self._control.password}@127.0.0.1:{self.port}/{database}"

    def execute(self, sql: str, *, database: str = "postgres") -> Any:
        """Runs one statement outside of a transaction; the first column of its first row, or None."""
        return run_async(_value(self.url(database), sql))

    def database(self, name: str = "test") -> str:
        """Makes an empty database whose name begins with `name`; its URL. Nobody else is given the same one."""
        own = f"{name[:40]}_{secrets.token_hex(5)}"
        run_async(_create(self.url(), [own]))
        return self.url(own)

    def family(self, services: Iterable[str]) -> str:
        """Makes an empty database for each service; the URL of them all with `{service}` in place of its name."""
        stem = f"family_{secrets.token_hex(5)}"
        run_async(_create(self.url(), [f"{stem}_{service}" for service in services]))
        return self.url(f"{stem}_{{service}}")

    def drop(self, url: str) -> None:
        """Removes a database, with whoever is connected to it."""
        name = url.rpartition("/")[2]
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def disconnect(self) -> int:
        """Ends every other session, as an administrator might; how many there were."""
        ended = self.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return int(ended)


async def _value(url: str, sql: str) -> Any:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def _create(url: str, names: list[str]) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        for name in names:
            await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    finally:
        await connection.close()


@contextmanager
def private_postgresql(
    folder: Path, *, durable: bool = False, options: dict[str, str] | None = None
) -> Iterator[PostgreSQL]:
    """A PostgreSQL for one test, which may do to it what it likes.

    Args:
        folder: its log is written there.
        durable: it writes as carefully as in production, so that what it has confirmed survives its end. A kill of
            its processes is survived either way: only a crash of the machine would show the difference.
        options: settings of postgresql.conf.
    """
    server = PostgresServer(folder, durable=durable, options=options)
    with running(server):
        yield PostgreSQL(server)


class _ReplicaServer(PostgresServer):
    name = "replica"

    def __init__(self, primary: PostgreSQL, folder: Path) -> None:
        super().__init__(folder)
        self._primary = primary
        self.password = primary._control.password

    def prepare(self) -> None:
        self.run(
            str(self.programs / "pg_basebackup"), "--pgdata", str(self.data), "--dbname", self._primary.url(),
            "--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync",
        )  # fmt: skip


class Replica(PostgreSQL):
    """A streaming replica: all databases of its primary, read only."""

    def pause(self) -> None:
        """It goes on receiving, but does not replay: what is read from it gets older."""
        self.execute("SELECT pg_wal_replay_pause()")
        while self.execute("SELECT pg_get_wal_replay_pause_state()") != "paused":
            pass

    def resume(self) -> None:
        """It replays again."""
        self.execute("SELECT pg_wal_replay_resume()")

    def wait_for(self, primary: PostgreSQL, seconds: float = 30) -> None:
        """Returns when it has replayed what the primary has committed until now.

        Raises:
            TimeoutError: it has not within so many seconds.
        """
        run_async(_replayed(self.url(), str(primary.execute("SELECT pg_current_wal_flush_lsn()::text")), seconds))


async def _replayed(url: str, position: str, seconds: float) -> None:
    import asyncio

    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(seconds):
            while not await connection.fetchval(f"SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"):
                await connection.execute("SELECT pg_sleep(0.005)")
    finally:
        await connection.close()


@contextmanager
def private_replica(primary: PostgreSQL, folder: Path) -> Iterator[Replica]:
    """A replica of `primary`, made by pg_basebackup and streaming from it."""
    server = _ReplicaServer(primary, folder)
    with running(server):
        yield Replica(server)
