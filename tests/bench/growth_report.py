"""The figures of `growth` as a table and as a plot."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pygal
from pygal.style import CleanStyle

__all__ = ["plot", "table", "write_between"]

_COLORS: Final = (
    "#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf",
    "#000080", "#b8860b",
)  # fmt: skip
_NAMES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def table(found: Mapping[str, Any]) -> str:
    """Markdown: for each database the CPU of a call, and what it is of that on the fewest tasks."""
    parts = []
    for kind, figures in found.items():
        sizes = list(figures["sizes"])
        lines = [
            f"| {_NAMES[kind]}, CPU µs a call | " + " | ".join(f"{int(n):,} tasks" for n in sizes) + " |",
            "| --- |" + " ---: |" * len(sizes),
        ]
        for case, by_size in figures["cases"].items():
            cells = [
                f"{by_size[n]['cpu_us']:,.0f}" + (f" (× {by_size[n]['cpu_ratio']:.2f})" if n != sizes[0] else "")
                for n in sizes
            ]
            lines.append(f"| {case} | " + " | ".join(cells) + " |")
        for label, name in (("bytes a task on disk", "bytes_per_task"), ("MiB resident", "rss_mib")):
            if name in figures["sizes"][sizes[0]]:
                lines.append(f"| *{label}* | " + " | ".join(f"{figures['sizes'][n][name]:,.0f}" for n in sizes) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def plot(found: Mapping[str, Any], path: Path) -> None:
    """An SVG without scripts: CPU of a call, logarithmic, at each number of tasks, one line for each case.

    A dashed line is PostgreSQL's.
    """
    style = CleanStyle(font_family="sans-serif", colors=_COLORS * len(found), plot_background="transparent")
    chart = pygal.Line(
        logarithmic=True, js=(), style=style, width=960, height=720, legend_at_bottom=True, legend_at_bottom_columns=3,
        legend_box_size=12, truncate_legend=-1, title="CPU of a call by the number of tasks; dashed: PostgreSQL",
        y_title="µs", disable_xml_declaration=True, dots_size=3,
    )  # fmt: skip
    for kind, figures in found.items():
        chart.x_labels = [f"{int(n):,}" for n in figures["sizes"]]
        dashed = {"dasharray": "6, 4"} if kind == "postgresql" else {}
        for case, by_size in figures["cases"].items():
            values = [by_size[n]["cpu_us"] for n in figures["sizes"]]
            # One entry in the legend for a colour.
            name = case if kind == next(iter(found)) else None
            chart.add(name, values, stroke_style={"width": 2, **dashed})
    svg: str = chart.render()
    path.write_text(re.sub("<script.*?</script>", "", svg, flags=re.DOTALL) + "\n", encoding="utf-8")


def write_between(page: Path, name: str, text: str) -> None:
    """Puts `text` between the comments `<!-- NAME -->` and `<!-- /NAME -->` of a page.

    Raises:
        SystemExit: the page has no such comments.
    """
    before, begin, rest = page.read_text().partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not begin or not end:
        raise SystemExit(f"{page} has no <!-- {name} --> and <!-- /{name} --> to write between.")
    page.write_text(f"{before}{begin}\n{text}\n\n{end}{after}")
