"""What goes to stdout (results) and stderr (everything else)."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import click

from taskman_sdk.cli._app import state

__all__ = ["clean", "note", "result", "show", "stamp", "table"]

Column = tuple[str, Callable[[Any], str]]


def clean(text: str) -> str:
    """The text in one line, without control characters: a title must not steer somebody's terminal."""
    return "".join(
        c if unicodedata.category(c) not in ("Cc", "Cf", "Cs") or c == "\u200d" else " "
        for c in text.replace("\r\n", " ")
    )


def stamp(time: datetime | None, *, day: bool = False) -> str:
    """A time in the user's zone, to the minute or the day; empty for none."""
    if time is None:
        return ""
    return time.astimezone().strftime("%Y-%m-%d" if day else "%Y-%m-%d %H:%M")


def note(message: str) -> None:
    """A line for the person, on stderr."""
    if state().output != "quiet":
        click.echo(message, err=True)


def _value(thing: Any) -> Any:
    return thing.model_dump(mode="json") if hasattr(thing, "model_dump") else thing


def dump(value: Any) -> None:
    """JSON on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def table(items: Iterable[Any], columns: Sequence[Column], name: Callable[[Any], str], *, empty: str = "") -> None:
    """Writes a list: a table, a JSON array, or one name a line.

    Args:
        items: models.
        columns: heading and how to read it from an item.
        name: what `-o quiet` writes of an item.
        empty: what to tell a person when there is none.
    """
    current = state()
    if current.output == "json":
        dump([_value(item) for item in items])
    elif current.output == "quiet":
        for item in items:
            click.echo(clean(name(item)))
    else:
        rows = [[clean(read(item)) for _, read in columns] for item in items]
        if rows:
            _draw([heading for heading, _ in columns], rows, current.color)
        elif empty:
            click.echo(empty, err=True)


def _draw(headings: list[str], rows: list[list[str]], color: bool) -> None:
    if not sys.stdout.isatty():  # for a pipe: aligned, whole, plain
        widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
        for row in (headings, *rows):
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    plain = not color or "NO_COLOR" in os.environ
    drawn = Table(box=None, pad_edge=False, header_style="" if plain else "bold", collapse_padding=True)
    for heading in headings:
        drawn.add_column(heading, overflow="fold" if heading == "KEY" else "ellipsis", no_wrap=heading != "TITLE")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console(no_color=plain, highlight=False).print(drawn)


def show(item: Any, fields: Sequence[Column], name: Callable[[Any], str]) -> None:
    """Writes one thing: its fields line by line, JSON, or its name."""
    current = state()
    if current.output == "json":
        dump(_value(item))
        return
    if current.output == "quiet":
        click.echo(clean(name(item)))
        return
    filled = [(heading, read(item)) for heading, read in fields]
    width = max((len(heading) for heading, text in filled if text), default=0)
    for heading, text in filled:
        if "\n" in text:
            click.echo("")
            for line in text.splitlines():
                click.echo(clean(line))
        elif text:
            click.echo(f"{click.style(heading.ljust(width), bold=True)}  {clean(text)}", color=_styled(current.color))


def _styled(color: bool) -> bool | None:
    return None if color and "NO_COLOR" not in os.environ else False


def result(item: Any, sentence: str, name: Callable[[Any], str]) -> None:
    """Writes what a change came to: a sentence, JSON, or a name."""
    current = state()
    if current.output == "json":
        dump(_value(item))
    else:
        click.echo(clean(name(item) if current.output == "quiet" else sentence))
