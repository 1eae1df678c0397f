"""What `taskman-server doctor` looks at in the cluster shape: what it stands on, certificates, keys (OPS-2)."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from taskman_server.settings import SERVICES, Settings, SettingsError

if TYPE_CHECKING:
    from taskman_server.kit.broker import QueueStats

__all__ = ["CHECKS"]

Finding = tuple[bool, str]
_GATEWAY: Final = "gateway"
_SOON: Final = timedelta(days=14)
_ANSWER: Final = (
    "SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS number,"
    " current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS room,"
    " pg_is_in_recovery() AS standby, has_schema_privilege(current_schema(), 'CREATE') AS can"
)
_OLDEST: Final = 130_000


def _ports(settings: Settings) -> Iterator[Finding]:
    wanted = {_GATEWAY: settings.port, "gRPC of clients": settings.grpc_port}
    for index, name in enumerate(SERVICES):
        wanted[f"gRPC of {name}"] = settings.grpc_port_base + index if settings.grpc_port_base > 0 else 0
        wanted[f"health of {name}"] = settings.ops_port_base + index if settings.ops_port_base > 0 else 0
    if (state := _readiness(settings)) is not None:
        yield state == "ok", f"gateway: it answers on port {settings.port}, and says that it is {state}"
        return
    taken = []
    for name, port in wanted.items():
        with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, max(port, 0)))
            except OSError as error:
                taken.append(f"port {port} ({name}): {error.strerror}")
    for each in taken:
        yield False, f"{each}; stop what uses it, or choose another (TASKMAN_PORT, …_GRPC_PORT, …_PORT_BASE)"
    if not taken:
        yield True, f"ports: all {len(wanted)} are free"


def _readiness(settings: Settings) -> str | None:
    """What a gateway that runs here says of itself; None when none answers."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    url = f"http://[{host}]:{settings.port}/readyz" if ":" in host else f"http://{host}:{settings.port}/readyz"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        try:
            answer = opener.open(url, timeout=3)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            status = json.load(answer)["status"]
        return status if status in ("ok", "degraded", "unavailable") else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _databases(settings: Settings) -> Iterator[Finding]:
    yield from asyncio.run(_ask_databases(settings))


async def _ask_databases(settings: Settings) -> list[Finding]:
    found: list[Finding] = []
    room: dict[str, tuple[int, int]] = {}
    for name in SERVICES:
        try:
            url = settings.database_of(name)
        except SettingsError as error:
            return [(False, f"databases: {error}")]
        answer, finding = await _ask_database(name, url)
        found.append(finding)
        if answer is not None:
            server = urlsplit(url).netloc.rpartition("@")[2]
            _, users = room.get(server, (0, 0))
            room[server] = answer["room"], users + 1
        if settings.database_replica_url:
            replica = settings.database_replica_url.replace("{service}", name)
            found.append((await _ask_database(f"{name} (replica)", replica, standby=True))[1])
    for server, (connections, users) in room.items():
        most = users * settings.database_pool_size
        good = most <= connections
        found.append(
            (
                good,
                f"connections: {users} services of one process each open {most} at most, {server} takes {connections}"
                + ("" if good else ": raise max_connections, or lower TASKMAN_DATABASE_POOL_SIZE"),
            )
        )
    if settings.database_replica_url and not settings.redis_url:
        found.append((False, "replica: nothing is read from it without TASKMAN_REDIS_URL"))
    return found


async def _ask_database(name: str, url: str, *, standby: bool = False) -> tuple[Any, Finding]:
    from taskman_server.kit.db.errors import DatabaseError
    from taskman_server.kit.db.migrate import current, head
    from taskman_server.kit.db.postgres import connect
    from taskman_server.kit.db.postgres_errors import FAILURES, translate

    service = name.partition(" ")[0]
    settings = {"application_name": "taskman-doctor", "statement_timeout": "5000"}
    try:
        connection = await connect(url, name, settings, role="any" if standby else "read-write", command_timeout=5)
        try:
            answer = await connection.fetchrow(_ANSWER)
        except FAILURES as error:
            raise translate(error, name) from None
        finally:
            connection.terminate()
        at = await asyncio.to_thread(current, url)
    except DatabaseError as error:
        return None, (False, str(error))
    newest = head(Path(str(resources.files("taskman_server.services"))) / service / "migrations")
    said = f"database {name}: PostgreSQL {answer['version'].split()[0]}, schema {at or 'none'}"
    if answer["number"] < _OLDEST:
        return answer, (False, f"{said}; 13 or later is needed")
    if standby:
        return answer, (answer["standby"], said + ("" if answer["standby"] else "; this is no replica"))
    if answer["standby"]:
        return answer, (False, f"{said}; it takes no writes: it is a replica")
    if at is None and not answer["can"]:
        return answer, (False, f"{said}; its user may not make tables: make that user the owner of the database")
    return answer, (True, said if at == newest else f"{said}; a start of this release has {newest}")


def _broker(settings: Settings) -> Iterator[Finding]:
    from taskman_server.cli.events import QUEUES
    from taskman_server.kit.broker import BrokerError
    from taskman_server.kit.broker.rabbitmq import RabbitBroker

    async def look() -> dict[str, QueueStats]:
        broker = await RabbitBroker.open(settings.broker(), name="taskman-doctor")
        try:
            return await broker.stats_of(QUEUES)
        finally:
            await broker.close()

    try:
        stats = asyncio.run(look())
    except (BrokerError, SettingsError) as error:
        yield False, f"broker: {error}"
        return
    yield (
        True,
        f"broker: it answers, and has {len(stats)} of {len(QUEUES)} queues"
        + ("" if len(stats) == len(QUEUES) else "; services declare them when they start"),
    )
    for queue, each in sorted(stats.items()):
        if each.dead:
            yield (
                False,
                f"queue {queue}: {each.dead} events were given up; `taskman-server events show {queue}` says why",
            )


def _redis(settings: Settings) -> Iterator[Finding]:
    if not settings.redis_url:
        yield True, "redis: none; each process caches and limits for itself (TASKMAN_REDIS_URL)"
        return
    from taskman_server.kit.redis import Redis, RedisError

    async def look() -> str:
        redis = await Redis.open(settings.redis_url, "doctor")
        try:
            if redis.degraded:
                return redis.reason
            kept = await redis.set("probe", "1", 5)
            return "" if kept and await redis.get("probe") == b"1" else "it keeps nothing: is it full, or read-only?"
        finally:
            await redis.close()

    try:
        problem = asyncio.run(look())
    except RedisError as error:
        problem = str(error)
    yield not problem, f"redis: {problem or 'it answers, and keeps what it is given'}"


def _certificates(settings: Settings) -> Iterator[Finding]:
    if settings.mtls == "off":
        yield True, "certificates: none (TASKMAN_MTLS=off); a mesh has to say who reaches the services' ports"
        return
    from taskman_server.kit.tls import AUTHORITY, Identity, TlsError

    folder = settings.certs or settings.data / "certs"
    named = (settings.tls_cert_file, settings.tls_key_file, settings.tls_ca_file)
    if not any(named) and not folder.exists():
        made = settings.certs is None
        yield (
            made,
            f"certificates: {folder} is not there"
            + (
                " yet; `up --cluster` makes it, for `run` make it with `taskman-server certs init`"
                if made
                else ": `taskman-server certs init` makes it"
            ),
        )
        return
    now = datetime.now(UTC)
    for name in (*SERVICES, _GATEWAY) if settings.tls_cert_file is None else ("of this process",):
        cert = settings.tls_cert_file or folder / f"{name}.crt"
        key = settings.tls_key_file or folder / f"{name}.key"
        try:
            identity = Identity(cert, key, settings.tls_ca_file or folder / f"{AUTHORITY}.crt")
        except TlsError as error:
            yield False, f"certificate {name}: {error}"
            continue
        ends = identity.material.expires
        if settings.tls_cert_file is None and identity.service != name:
            yield False, f"certificate {name}: {cert} is that of {identity.service}"
        elif key.stat().st_mode & 0o007:
            yield False, f"certificate {name}: everybody can read its key: chmod 600 {key}"
        elif not identity.material.begins <= now < ends - _SOON:
            yield (
                False,
                f"certificate {name}: good from {identity.material.begins:%Y-%m-%d} to {ends:%Y-%m-%d}: renew it",
            )
        else:
            yield True, f"certificate {name}: {identity.service}, good until {ends:%Y-%m-%d}"


def _same_everywhere(settings: Settings) -> Iterator[Finding]:
    secret = bool(settings.secret_key.get_secret_value())
    yield (
        True,
        "secret key: "
        + ("set" if secret else "a file in the data folder; processes on other machines need TASKMAN_SECRET_KEY"),
    )
    if not settings.public_url:
        yield (
            settings.loopback,
            "public URL: not set"
            + (
                "; links lead to this machine"
                if settings.loopback
                else ", and links and tokens name it: TASKMAN_PUBLIC_URL"
            ),
        )


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _ports,
    _databases,
    _broker,
    _redis,
    _certificates,
    _same_everywhere,
)
"""Beside those of both shapes."""
