"""The compiler's complaints, turned into one sentence for the person who wrote the expression."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

from taskman_server.kit.cel.errors import CelError, CelSyntaxError, CelTooComplex, Position

_LOCATED = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): ([^\n]*)")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")
_OVERLOAD = re.compile(r"found no matching overload for '([^']*)' applied to '\((.*)\)'")
_FIELDLESS = re.compile(r"expression of type '(.*)' cannot be the operand of a select operation")
_FUNCTIONS = (
    "contains", "startsWith", "endsWith", "matches", "size", "exists", "all", "exists_one", "map", "filter", "has",
    "timestamp", "duration", "int", "double", "string", "getFullYear", "getMonth", "getDate", "getDayOfWeek",
    "getHours", "getMinutes", "getSeconds",
)  # fmt: skip
_SYMBOLS = {"_?_:_": "? :", "@in": "in", "!_": "!", "-_": "-", "_[_]": "[]"}


def explain(raw: str, text: str, names: Collection[str], records: Collection[str]) -> CelError:
    """The error to raise for the compiler's message `raw` about `text`.

    `names` are the known variables and fields (dotted), `records` the names that only hold fields.
    """
    if "recursion limit exceeded" in raw or "Exceeded max recursion depth" in raw:
        return CelTooComplex(
            "the expression is nested too deeply", expression=text, hint="use fewer brackets and shorter chains"
        )
    found = _LOCATED.search(raw)
    if found is None:
        return CelSyntaxError("the expression cannot be read", expression=text, hint="check quotes and brackets")
    position = Position.at_line(text, max(int(found[1]), 1), max(int(found[2]), 1))
    message, hint, position = _sentence(found[3], text, position, names, records)
    return CelSyntaxError(message, expression=text, position=position, hint=hint)


def _sentence(
    raw: str, text: str, position: Position, names: Collection[str], records: Collection[str]
) -> tuple[str, str, Position]:
    if match := _UNDECLARED.search(raw):
        return _unknown(match[1], text, position, names, records)
    if match := _OVERLOAD.search(raw):
        function = _SYMBOLS.get(match[1], match[1].strip("_"))
        types = _types(match[2])
        hint = "compare values of one type"
        if "null" in types.split(" and "):
            hint = "only a field that may be empty can be compared with null"
        return f"`{function}` does not work with {types}", hint, position
    if match := _FIELDLESS.search(raw):
        return f"a {_types(match[1])} has no fields", "drop what follows the dot", position
    if raw.startswith("reserved identifier"):
        return f"`{raw.rpartition(' ')[2]}` is a reserved word", "use another name", position
    if "has() argument" in raw:
        return "has() takes a field of something, such as has(resource.due_time)", "compare with null instead", position
    if raw.startswith("Syntax error"):
        if "<EOF>" in raw.partition("expecting")[0]:
            return "the expression ends too early", "add what is missing or remove what is open", position
        return "the expression cannot be read", "check quotes, brackets and operators here", position
    return raw[:200], "", position


def _unknown(
    name: str, text: str, position: Position, names: Collection[str], records: Collection[str]
) -> tuple[str, str, Position]:
    root = name.partition(".")[0]
    start = text.rfind(root, 0, position.offset + 1)
    if start < 0 or text[position.offset : position.offset + 1] != ".":
        start = text.find(root, position.offset)
    if "." in name and start >= 0:
        position = Position.at(text, start)
    if name in records:
        fields = sorted(known for known in names if known.startswith(f"{name}."))
        return f"`{name}` is not a value", f"name one of its fields: {', '.join(fields[:12])}", position
    called = "." not in name and text[position.offset : position.offset + 1] == "("
    known = _FUNCTIONS if called else names
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if not near and "." in name:
        owner = name.rpartition(".")[0]
        near = sorted(known for known in names if known.rpartition(".")[0] == owner)[:12]
    if not near:
        near = list(_FUNCTIONS[:7]) if called else sorted(names)[:12]
    what = "function" if called else "field or variable"
    return f"there is no {what} `{name}`", f"did you mean {' or '.join(near)}?" if near else "", position


def _types(raw: str) -> str:
    plain = raw.replace("null_type", "null").replace("google.protobuf.", "")
    plain = re.sub(r"wrapper\((\w+)\)", r"\1", plain)
    return " and ".join(part.strip() for part in plain.split(","))
