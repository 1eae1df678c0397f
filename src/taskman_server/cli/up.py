"""`taskman-server up`: all eight services in one process (OPS-1)."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskman_server.cli.options import load_settings, setting_options

if TYPE_CHECKING:
    import uvicorn

    from taskman_server.app import Application
    from taskman_server.settings import Settings

__all__ = ["up"]


@click.command()
@setting_options(
    "data", "host", "port", "grpc_port_base", "public_url", "signup", "admin_email", "admin_password", "smtp_url",
    "rate_limit", "log_level", "log_format",
)  # fmt: skip
def up(config: Path | None, **flags: Any) -> None:
    """Start TaskMan on this machine and keep its data in a folder.

    \b
    Examples:
      taskman-server up
      taskman-server up --port 9090 --data ~/taskman-data
      TASKMAN_SMTP_URL=smtp://localhost:25 taskman-server up
    """
    settings = load_settings(config, flags)
    listener = _listen(settings.host, settings.port)
    from taskman_server.kit.logs import configure

    configure(settings.log_level, settings.log_format)
    import uvloop  # with the server alone: `--help` does without

    uvloop.run(_serve(settings.with_port(listener.getsockname()[1]), listener))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise click.ClickException(f"--host {host!r} is no address of this machine") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise click.ClickException(f"--host {host!r} is no address of this machine") from None
        raise click.ClickException(
            f"{host}:{port} cannot be opened ({error.strerror}): stop what uses it, or choose another --port"
        ) from None
    listener.listen(1024)
    return listener


async def _serve(settings: Settings, listener: socket.socket) -> None:
    from taskman_sdk.errors import TaskManError
    from taskman_server.app import open_application
    from taskman_server.data_folder import DataFolderError
    from taskman_server.kit.broker import BrokerError
    from taskman_server.kit.db import DatabaseError

    try:
        async with open_application(settings) as application:
            if settings.grpc_port_base >= 0:
                await application.serve_grpc(settings.host, settings.grpc_port_base)
            server = _server(application)
            _say(application)
            await server.serve([listener])
    except (DatabaseError, BrokerError) as error:
        raise click.ClickException(f"{error}. `taskman-server doctor` says more; a backup may be needed") from None
    except TaskManError as error:
        raise click.ClickException(f"The administrator cannot be created: {error}") from None
    except (DataFolderError, OSError) as error:
        raise click.ClickException(str(error)) from None


def _server(application: Application) -> uvicorn.Server:
    import uvicorn

    from taskman_server.gateway.protocol import options

    class Server(uvicorn.Server):
        """Leaves when it is told to; uvicorn's own would end the process before the services were stopped (OPS-7)."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.handle_exit, number, None)
            yield

    return Server(uvicorn.Config(application.gateway, **options()))


def _say(application: Application) -> None:
    settings = application.settings
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    lines = [
        f"TaskMan is up at {settings.public_url}  (API reference: {settings.public_url}/docs)",
        f"  data      {settings.data.resolve()}",
    ]
    if application.grpc_ports and settings.grpc_port_base:
        ports = sorted(application.grpc_ports.values())
        lines.append(f"  gRPC      {settings.host}, ports {ports[0]} to {ports[-1]}")
    elif application.grpc_ports:
        # Free ports were taken: nobody could guess which.
        width = max(map(len, application.grpc_ports))
        lines += [f"  gRPC      {area:{width}}  {host}:{port}" for area, port in application.grpc_ports.items()]
    mail = settings.smtp_url.rpartition("@")[2] if settings.smtp_url else f"files in {settings.data.resolve() / 'mail'}"
    lines.append(f"  mail      {mail}" + ("" if settings.smtp_url else "  (set TASKMAN_SMTP_URL to send it)"))
    lines.append(f"  sign-up   {settings.signup}")
    if application.setup_token is not None:
        lines += [
            "",
            "There is no administrator yet. Create one here (the link works once):",
            f"  {settings.public_url}/set-up?token={application.setup_token}",
        ]
    if not settings.loopback:
        lines += ["", f"It listens on {settings.host} without TLS: put a proxy that ends TLS in front of it."]
    click.echo("\n".join(lines))
