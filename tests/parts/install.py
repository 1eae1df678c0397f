"""Where the real parts are, and how a missing one is installed."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.parts import missing_part


def postgresql_folder() -> Path:
    """The folder with `initdb` and `postgres`, of the newest version."""
    return _newest("/usr/lib/postgresql", "*/bin/postgres", "/usr/pgsql-*", "bin/postgres") or missing_part(
        "PostgreSQL", "apt install postgresql"
    )


def _newest(*_: str) -> Path | None:
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4].partition(".")[0])
    )
    if found:
        return found[-1].parent
    program = shutil.which("postgres")
    return None if program is None else Path(program).resolve().parent


def redis_program() -> str:
    """`redis-server`."""
    return shutil.which("redis-server") or missing_part("Redis", "apt install redis-server")


def rabbitmq_program() -> str:
    """`rabbitmq-server`, not Debian's wrapper of it, which changes the user."""
    own = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return (
        str(own)
        if own.exists()
        else shutil.which("rabbitmq-server") or missing_part("RabbitMQ", "apt install rabbitmq-server")
    )
