"""`taskman-server settings`: every setting, what it is now, and what it means."""

from __future__ import annotations

from pathlib import Path

import click

from taskman_server.cli.options import load_settings
from taskman_server.settings import RateLimit, Settings, variable_of
from taskman_server.urls import without_password

__all__ = ["settings"]


@click.command()
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings file.")
def settings(config: Path | None) -> None:
    """List every setting with its value here and now."""
    values = load_settings(config, {})
    for name, field in Settings.model_fields.items():
        click.echo(f"{variable_of(name)}={_shown(name, getattr(values, name))}")
        click.echo(f"    {field.description}")


def _shown(name: str, value: object) -> str:
    if value is None:
        return "off" if name == "rate_limit" else ""
    if isinstance(value, dict):
        return " ".join(f"{key}={_shown(name, item)}" for key, item in value.items())
    if isinstance(value, str) and "://" in value:
        return without_password(value)
    if isinstance(value, RateLimit):
        return f"{value.requests}/{value.seconds}s"
    return str(value)
