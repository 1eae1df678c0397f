"""`taskman-server run`: one service, or the gateway, as a process of the cluster shape (OPS-2)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from taskman_server.cli.options import setting_options, stopping
from taskman_server.settings import SERVICES, SettingsError, load

if TYPE_CHECKING:
    import socket

    from taskman_server.settings import Settings

__all__ = ["GATEWAY", "run"]

GATEWAY: Final = "gateway"


@click.command()
@click.argument("service", type=click.Choice([*SERVICES, GATEWAY]))
@setting_options(
    "data", "host", "port", "grpc_port", "grpc_port_base", "ops_port_base", "database_url", "redis_url", "broker_url",
    "certs", "peer_address", "log_level", "log_format",
)  # fmt: skip
def run(service: str, config: Path | None, **flags: Any) -> None:
    """Run one service of the cluster shape, on PostgreSQL, RabbitMQ and Redis.

    It waits for what it needs, and for calls under way when it is stopped (SIGTERM). Start as many of each as you like.

    \b
    Examples:
      taskman-server run tasks
      taskman-server run gateway --host 0.0.0.0 --port 8080
      TASKMAN_DATABASE_URL=postgresql://…/taskman_{service} TASKMAN_BROKER_URL=amqp://… taskman-server run users
    """
    try:
        settings = load(flags, config=config)
    except SettingsError as error:
        _never(service, error)
    from taskman_server.app.serving import PortTaken, listen
    from taskman_server.data_folder import DataFolderError
    from taskman_server.kit.db.migrate import MigrationError
    from taskman_server.kit.logs import configure
    from taskman_server.kit.redis import RedisError
    from taskman_server.kit.tls import TlsError

    configure(settings.log_level, settings.log_format)
    import uvloop

    try:
        if service == GATEWAY:
            listener = listen(settings.host, settings.port)
            uvloop.run(_gateway(settings.with_port(listener.getsockname()[1]), listener))
            return
        ops = None
        if settings.ops_port_base >= 0:
            port = settings.ops_port_base and settings.ops_port_base + SERVICES.index(service)
            ops = listen(settings.host, port, "--ops-port-base")
        uvloop.run(_service(settings.with_port(settings.port), service, ops))
    except (SettingsError, DataFolderError, RedisError, MigrationError, TlsError) as error:
        _never(service, error)
    except (PortTaken, OSError) as error:
        raise click.ClickException(f"{service}: {error}") from None


def _never(service: str, error: Exception) -> NoReturn:
    """Ends the process in a way that tells its supervisor not to try again."""
    click.ClickException(f"{service}: {error}").show()
    sys.exit(os.EX_CONFIG)


async def _service(settings: Settings, name: str, ops: socket.socket | None) -> None:
    from taskman_server.app.service import run_service

    await run_service(settings, name, stopping(), ops)


async def _gateway(settings: Settings, listener: socket.socket) -> None:
    from taskman_server.app.edge import run_gateway

    def say() -> None:
        lines = [f"TaskMan is up at {settings.public_url}  (API reference: {settings.public_url}/docs)"]
        if settings.grpc_port > 0:
            lines.append(f"  gRPC      {settings.host}:{settings.grpc_port}")
        lines.append(f"  sign-up   {settings.signup}")
        click.echo("\n".join(lines))

    await run_gateway(settings, stopping(), listener, say)
