"""`taskman-server up`: all eight services, in one process (OPS-1) or in eight (OPS-2)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from taskman_server.cli.options import load_settings, setting_options, stopping
from taskman_server.cli.run import GATEWAY
from taskman_server.settings import SERVICES, SettingsError, variable_of

if TYPE_CHECKING:
    import socket

    from taskman_server.app import Application
    from taskman_server.settings import Settings

__all__ = ["up"]

_RENEWAL: Final = timedelta(days=30)


@click.command()
@setting_options(
    "data", "host", "port", "grpc_port_base", "public_url", "signup", "admin_email", "admin_password", "smtp_url",
    "rate_limit", "database_url", "redis_url", "broker_url", "certs", "grpc_port", "ops_port_base", "workers",
    "log_level", "log_format",
)  # fmt: skip
@click.option(
    "--cluster", is_flag=True, help="A process for each service, on PostgreSQL, RabbitMQ and Redis by TASKMAN_…_URL."
)
def up(config: Path | None, cluster: bool, **flags: Any) -> None:
    """Start TaskMan on this machine and keep its data in a folder, or, with --cluster, in PostgreSQL.

    \b
    Examples:
      taskman-server up
      taskman-server up --port 9090 --data ~/taskman-data
      taskman-server up --workers 4
      TASKMAN_SMTP_URL=smtp://localhost:25 taskman-server up
      TASKMAN_DATABASE_URL=postgresql://…/taskman_{service} TASKMAN_BROKER_URL=amqp://… taskman-server up --cluster
    """
    settings = load_settings(config, flags)
    if cluster:
        _up_cluster(settings, config, flags)
        return
    from taskman_server.app.serving import PortTaken, listen
    from taskman_server.kit.logs import configure

    try:
        share: Literal["open", "no"] = "open" if settings.workers > 1 else "no"
        # The workers of a server that was killed have the port until they have noticed.
        listener = listen(settings.host, settings.port, share=share, patience=1.0)
    except PortTaken as error:
        raise click.ClickException(str(error)) from None
    configure(settings.log_level, settings.log_format)
    import uvloop  # with the server alone: `--help` does without

    uvloop.run(_serve(settings.with_port(listener.getsockname()[1]), listener))


def _up_cluster(settings: Settings, config: Path | None, flags: dict[str, Any]) -> None:
    """Starts and watches the eight processes; what they need and do not have is made or said first."""
    from taskman_server import data_folder
    from taskman_server.cli.supervisor import Supervisor
    from taskman_server.kit.tls import TlsError

    try:
        for name in SERVICES:
            settings.database_of(name)
        settings.broker()
        if settings.workers > 1:
            raise SettingsError("--workers is of the embedded shape: start more processes with `taskman-server run`")
        if settings.port == 0:
            raise SettingsError("--port 0 cannot be shared by eight processes: name a port")
        folder = data_folder.open_folder(settings.data)
        upkeep = None
        if settings.mtls == "on" and settings.certs is None and settings.tls_cert_file is None:
            upkeep = partial(_ensure_certificates, folder / "certs")
            upkeep()
    except (SettingsError, data_folder.DataFolderError, TlsError) as error:
        raise click.ClickException(str(error)) from None
    named = {variable_of(name): str(value) for name, value in flags.items() if value is not None}
    environment = {**os.environ, **named, "TASKMAN_DATA": str(folder)}
    arguments = ("--config", str(config)) if config is not None else ()

    async def supervise() -> str:
        supervisor = Supervisor(environment, settings.drain_seconds, arguments, upkeep)
        await supervisor.run(stopping())
        return supervisor.failed

    if failed := asyncio.run(supervise()):
        raise click.ClickException(f"{failed} cannot run with these settings; what it said stands above")


def _ensure_certificates(folder: Path) -> None:
    """An authority of this machine's own, and a certificate of each service that is good for a while yet."""
    from taskman_server.kit import tls

    if not (folder / f"{tls.AUTHORITY}.crt").exists():
        tls.make_authority(folder)
    soon = datetime.now(UTC) + _RENEWAL
    for name in (*SERVICES, GATEWAY):
        certificate = folder / f"{name}.crt"
        ends = tls.validity(certificate)[1] if certificate.exists() else None
        if ends is not None and ends >= soon:
            continue
        try:
            tls.issue(folder, name)
        except tls.TlsError as error:
            if ends is None or ends <= datetime.now(UTC):
                raise
            # Somebody else issues them, or has taken the authority's key away: there is time yet.
            click.echo(f"{certificate} ends on {ends:%Y-%m-%d} and cannot be renewed here: {error}", err=True)


async def _serve(settings: Settings, listener: socket.socket) -> None:
    from taskman_sdk.errors import TaskManError
    from taskman_server.app import open_application
    from taskman_server.app.serving import serving
    from taskman_server.data_folder import DataFolderError
    from taskman_server.kit.broker import BrokerError
    from taskman_server.kit.db import DatabaseError

    stop = stopping()
    try:
        async with open_application(settings) as application:
            if settings.grpc_port_base >= 0:
                await application.serve_grpc(settings.host, settings.grpc_port_base)
            workers = application.workers
            workers.begin()
            try:
                async with serving(application.gateway, listener, drain_seconds=settings.drain_seconds):
                    await _until(stop, workers.up())
                    _say(application)
                    await stop.wait()
                    ending = asyncio.create_task(workers.stop())  # all get the same time, not one after the other
                await ending
            finally:
                await workers.stop()
    except (DatabaseError, BrokerError) as error:
        raise click.ClickException(f"{error}. `taskman-server doctor` says more; a backup may be needed") from None
    except TaskManError as error:
        raise click.ClickException(f"The administrator cannot be created: {error}") from None
    except (DataFolderError, SettingsError, OSError) as error:
        raise click.ClickException(str(error)) from None


async def _until(stop: asyncio.Event, awaited: Coroutine[Any, Any, None]) -> None:
    """Returns when `awaited` does, or `stop` is set."""
    tasks = [asyncio.create_task(awaited), asyncio.create_task(stop.wait())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


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
    if settings.workers > 1:
        lines.append(f"  workers   {settings.workers} processes")
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
