"""`taskman-server doctor`: what is wrong with this installation, and what to do (OPS-1)."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import click

from taskman_server.cli.options import load_settings, setting_options
from taskman_server.data_folder import PAGING_KEY, VERSION_FILE
from taskman_server.settings import SERVICES, Settings

__all__ = ["doctor"]

Finding = tuple[bool, str]
_MIN_FREE = 500 << 20


@click.command()
@setting_options(
    "data", "host", "port", "grpc_port_base", "smtp_url", "database_url", "redis_url", "broker_url", "certs",
    "grpc_port", "ops_port_base",
)  # fmt: skip
def doctor(config: Path | None, **flags: Any) -> None:
    """Check settings, ports, files, migrations and clock. Ends with 1 when something is wrong.

    Where a database or a broker of the cluster shape is named: the databases with their schemas and connections,
    RabbitMQ with what was given up, Redis, and the certificates with the day they end on.
    """
    settings = load_settings(config, flags)
    click.echo("ok    settings: all are known and valid")
    checks = _CHECKS
    if settings.cluster:
        from taskman_server.cli.doctor_cluster import CHECKS

        checks = (_python, _files, *CHECKS, _mail)
    bad = 0
    for check in checks:
        for good, text in check(settings):
            click.echo(f"{'ok   ' if good else 'WRONG'} {text}")
            bad += not good
    if bad:
        raise click.ClickException(f"{bad} {'thing is' if bad == 1 else 'things are'} wrong")


def _python(_: Settings) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield (
        sys.version_info >= (3, 11),
        f"python: {version}" + ("" if sys.version_info >= (3, 11) else "; 3.11 is needed"),
    )


def _running(settings: Settings) -> bool:
    """Whether a server works on the data folder now."""
    try:
        with (settings.data / "lock").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _ports(settings: Settings) -> Iterator[Finding]:
    if _running(settings):
        yield True, f"ports: a server is running on {settings.data}, which has its own"
        return
    wanted = {"gateway": settings.port}
    if settings.grpc_port_base > 0:
        wanted |= {f"gRPC of {name}": settings.grpc_port_base + index for index, name in enumerate(SERVICES)}
    for name, port in wanted.items():
        with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                hint = "a server is running, or something else uses it: choose another with --port or --grpc-port-base"
                yield False, f"port {port} ({name}): {error.strerror}; {hint}"
                continue
        yield True, f"port {port} ({name}): free"


def _files(settings: Settings) -> Iterator[Finding]:
    folder = settings.data
    if not folder.exists():
        parent = next(path for path in folder.resolve().parents if path.exists())
        can = os.access(parent, os.W_OK)
        yield (
            can,
            f"data: {folder} does not exist yet; the first start "
            + ("makes it" if can else f"cannot: {parent} is not writable. Name another folder with --data"),
        )
        return
    writable = os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    yield writable, f"data: {folder} is " + ("writable" if writable else "not writable for this user: change its owner")
    free = shutil.disk_usage(folder).free
    enough = free >= _MIN_FREE
    yield enough, f"disk: {free >> 20} MiB free" + ("" if enough else "; make room, writes will fail soon")
    mode = folder.stat().st_mode & 0o077
    yield (
        mode == 0,
        "data: only its owner can read it" if mode == 0 else f"data: others can read it: chmod 700 {folder}",
    )


def _databases(settings: Settings) -> Iterator[Finding]:
    from taskman_server.kit.db.migrate import current, head

    began = (settings.data / VERSION_FILE).exists()
    if began and not (settings.data / PAGING_KEY).exists():
        yield False, f"{PAGING_KEY}: missing; restore the whole folder from a backup"
    for name in (*SERVICES, "broker"):
        path = settings.data / f"{name}.db"
        if not path.exists():
            if began:
                yield False, f"{path.name}: missing; restore the whole folder from a backup"
            continue
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1) as connection:
                answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.Error as error:
            yield False, f"{path.name}: cannot be read ({error}): restore it from a backup"
            continue
        yield (
            answer == "ok",
            f"{path.name}: " + ("whole" if answer == "ok" else f"damaged ({answer}): restore a backup"),
        )
        if name == "broker":
            continue
        at, newest = current(path), head(Path(str(resources.files("taskman_server.services"))) / name / "migrations")
        yield (
            True,
            f"{path.name}: schema {at or 'none'}" + ("" if at == newest else f"; the next start makes it {newest}"),
        )


def _clock(settings: Settings) -> Iterator[Finding]:
    now = time.time()
    newest = (
        max((p.stat().st_mtime for p in settings.data.glob("*.db*")), default=now) if settings.data.exists() else now
    )
    ahead = newest - now
    good = ahead < 60 and now > 1_735_689_600
    yield (
        good,
        "clock: plausible"
        if good
        else (f"clock: it is before the last write ({ahead:.0f} s): set it right, or tokens will not be good"),
    )


def _mail(settings: Settings) -> Iterator[Finding]:
    if not settings.smtp_url:
        yield True, "mail: written to files; set TASKMAN_SMTP_URL to send it"
        return
    from urllib.parse import urlsplit

    url = urlsplit(settings.smtp_url)
    port = url.port or (465 if url.scheme == "smtps" else 25)
    try:
        with socket.create_connection((url.hostname or "", port), timeout=3):
            yield True, f"mail: {url.hostname}:{port} answers"
    except OSError as error:
        yield False, f"mail: {url.hostname}:{port} does not answer ({error}): check TASKMAN_SMTP_URL"


_CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (_python, _ports, _files, _databases, _clock, _mail)
