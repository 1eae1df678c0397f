"""`taskman-server certs`: certificates for development, by which the processes of a cluster know each other (OPS-2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from taskman_sdk.contract import CALLERS
from taskman_server.cli.options import load_settings, setting_options

__all__ = ["certs"]

F = TypeVar("F", bound=Callable[..., Any])
_DAYS = 90


@click.group()
def certs() -> None:
    """Certificates for development: an authority of your own, and one certificate for each process.

    Where Vault, cert-manager or a mesh issues certificates this command is not needed: give each process its files
    (TASKMAN_TLS_CERT_FILE, TASKMAN_TLS_KEY_FILE, TASKMAN_TLS_CA_FILE) with the URI SAN spiffe://taskman/<service>
    and the DNS SAN <service>.

    \b
    Examples:
      taskman-server certs init
      taskman-server certs init --certs /etc/taskman/certs --name tasks.internal --name 10.0.0.7
      taskman-server certs renew
      taskman-server certs renew tasks gateway --days 30
      taskman-server certs show
    """


def _options(function: F) -> F:
    return setting_options("data", "certs")(function)


def _issuing(function: F) -> F:
    days = click.option("--days", default=_DAYS, show_default=True, type=click.IntRange(1, 3650), help="How long the "
                        "certificates are good.")  # fmt: skip
    names = click.option("--name", "names", multiple=True, help="A further DNS name or address of the processes; may "
                         "be given several times.")  # fmt: skip
    return _options(days(names(function)))


@certs.command()
@_issuing
def init(config: Path | None, days: int, names: tuple[str, ...], **flags: Any) -> None:
    """Make an authority and the certificates of all eight processes.

    An authority that is there is never overwritten: the command stops. `ca.key` signs certificates and is needed by
    `renew` alone; it belongs on no server.

    \b
    Examples:
      taskman-server certs init
      taskman-server certs init --data /var/lib/taskman --days 30
    """
    from taskman_server.kit import tls

    folder = _folder(config, flags)
    with _sentences():
        tls.make_authority(folder)
        for service in CALLERS:
            tls.issue(folder, service, days=days, names=names)
    click.echo(f"{folder}: an authority and {len(CALLERS)} certificates, good for {days} days")


@certs.command()
@click.argument("services", nargs=-1, metavar="[SERVICE]...")
@_issuing
def renew(services: tuple[str, ...], config: Path | None, days: int, names: tuple[str, ...], **flags: Any) -> None:
    """Make new certificates and keys, of all processes or of those named; the authority stays.

    Processes that run take them within two seconds, without a restart. Names that were given to `init` are given
    again.

    \b
    Examples:
      taskman-server certs renew
      taskman-server certs renew tasks users --days 7
    """
    from taskman_server.kit import tls

    folder = _folder(config, flags)
    with _sentences():
        for service in services:
            if service not in CALLERS:
                raise tls.TlsError(f"there is no service {service!r}; services are {', '.join(CALLERS)}")
        for service in services or CALLERS:
            click.echo(f"{tls.issue(folder, service, days=days, names=names)}: good for {days} days")


@certs.command()
@_options
def show(config: Path | None, **flags: Any) -> None:
    """List the certificates with the day they end on. Ends with 1 when one is missing or not good now.

    \b
    Examples:
      taskman-server certs show
      taskman-server certs show --certs /etc/taskman/certs
    """
    from taskman_server.kit import tls

    folder, now, bad = _folder(config, flags), datetime.now(UTC), 0
    for name in (tls.AUTHORITY, *CALLERS):
        try:
            begins, ends = tls.validity(folder / f"{name}.crt")
            if name != tls.AUTHORITY:
                tls.Identity.of_folder(folder, name)
        except tls.TlsError as error:
            bad += 1
            click.echo(f"WRONG {name:15} {error}")
            continue
        good = begins <= now < ends
        bad += not good
        state = f"{(ends - now).days} days left" if good else "ended" if now >= ends else "not good yet"
        click.echo(f"{'ok   ' if good else 'WRONG'} {name:15} until {ends:%Y-%m-%d %H:%M} UTC, {state}")
    if bad:
        raise click.ClickException(f"{bad} of {len(CALLERS) + 1} cannot be used: `taskman-server certs renew`")


def _folder(config: Path | None, flags: dict[str, Any]) -> Path:
    settings = load_settings(config, flags)
    return settings.certs or settings.data / "certs"


@contextmanager
def _sentences() -> Iterator[None]:
    from taskman_server.kit import tls

    try:
        yield
    except (tls.TlsError, OSError) as error:
        raise click.ClickException(str(error)) from None
