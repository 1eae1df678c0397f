"""Flags for settings, made from the settings tree."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from taskman_server.settings import Settings, SettingsError, load

__all__ = ["load_settings", "setting_options", "stopping"]

F = TypeVar("F", bound=Callable[..., Any])


def setting_options(*names: str) -> Callable[[F], F]:
    """Options for these settings, and `--config`. They arrive as keyword arguments; those not given are None."""

    def decorate(function: F) -> F:
        for name in reversed(names):
            text = Settings.model_fields[name].description or ""
            function = click.option(f"--{name.replace('_', '-')}", name, default=None, help=text)(function)
        path = click.Path(dir_okay=False, path_type=Path)
        return click.option("--config", type=path, help="Settings file; `taskman.toml` here by default.")(function)

    return decorate


def load_settings(config: Path | None, flags: dict[str, Any]) -> Settings:
    """The settings, or an end with a sentence that says which one is wrong."""
    try:
        return load(flags, config=config)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def stopping() -> asyncio.Event:
    """An event that is set by SIGTERM or SIGINT; call it in the loop. The second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def told() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, told)
    return stop
