"""Small means to write Python: a head, wrapped docstrings, collected imports."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable

HEAD = "# Generated from the contract by `python -m tools.protogen`. Do not edit."
WIDTH = 112


def wrap(text: str, indent: str, first: str = "") -> list[str]:
    """The text in lines of at most `WIDTH`, each indented; `first` stands before it in the first line."""
    return textwrap.wrap(
        first + text, WIDTH, initial_indent=indent, subsequent_indent=indent + ("    " if first else ""),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def docstring(indent: str, summary: str, sections: Iterable[list[str]] = ()) -> list[str]:
    """A docstring; each section is a list of finished lines."""
    summary = summary.replace("\\", "\\\\")
    blocks = [section for section in sections if section]
    lines = wrap(summary, indent)
    lines[0] = f'{indent}"""' + lines[0].lstrip()
    if not blocks and len(lines) == 1:
        return [lines[0] + '"""']
    for block in blocks:
        lines += ["", *(line.replace("\\", "\\\\") for line in block)]
    return [*lines, f'{indent}"""']


class Imports:
    """Collects what a module imports and writes it in the order that ruff wants."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = defaultdict(set)

    def add(self, module: str, name: str) -> str:
        """Imports `name` from `module` and answers the name."""
        self._names[module].add(name)
        return name

    def lines(self) -> list[str]:
        """The import statements: standard library, others, ours."""
        groups: dict[int, list[str]] = defaultdict(list)
        for module in sorted(self._names, key=str.lower):
            rank = 2 if module.startswith("taskman_sdk") else 1 if module.startswith("pydantic") else 0
            names = sorted(self._names[module], key=_isort_key)
            groups[rank].append(f"from {module} import {', '.join(names)}")
        lines: list[str] = []
        for rank in sorted(groups):
            lines += ["", *groups[rank]]
        return lines[1:]


def _isort_key(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2), name


def module(docstring_text: str, imports: Imports, body: list[str]) -> str:
    """A whole module."""
    head = [HEAD, f'"""{docstring_text}"""', "", "from __future__ import annotations", ""]
    return "\n".join([*head, *imports.lines(), "", *body]) + "\n"
