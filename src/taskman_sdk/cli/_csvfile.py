"""Tasks as CSV (RFC 4180): reading with the line of every fault, and writing so that reading gives the same back."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _csv import Reader

__all__ = [
    "COLUMNS",
    "EXPORT_COLUMNS",
    "BadRow",
    "CsvError",
    "Row",
    "for_spreadsheet",
    "read",
    "split_list",
    "write_list",
]

COLUMNS: Final = (
    "title", "description", "project", "assignee", "labels", "status", "priority", "created_at", "due_at",
)  # fmt: skip
EXPORT_COLUMNS: Final = (*COLUMNS, "key", "id", "external_id")
PRIORITIES: Final = ("low", "medium", "high", "urgent")
_KEY: Final = re.compile(r"[A-Z][A-Z0-9]{0,9}|project_\w+")
_EMAIL: Final = re.compile(r"[^@\s,;]+@[^@\s,;]+")
_STATE: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_BOMS: Final = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_NAMES: Final = {0: "NUL", 7: "BEL", 8: "BS", 11: "VT", 12: "FF", 27: "ESC", 127: "DEL"}
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
MAX_FIELD: Final = 1 << 24


class CsvError(ValueError):
    """The file as a whole cannot be taken: its encoding or its header."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be taken.

    Attributes:
        line: the physical line that it begins in, from 1.
        reason: what is wrong with it.
    """

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row that can be taken; the attributes are those of a task.

    Attributes:
        line: the physical line that it begins in, from 1.
        assignees: addresses, in lower case.
        external_id: of the file, or made from the row's content and how often it came before.
    """

    line: int
    project: str
    title: str
    description: str = ""
    state: str = ""
    priority: str = ""
    labels: list[str] = field(default_factory=list)
    assignees: list[str] = field(default_factory=list)
    create_time: datetime | None = None
    due_time: datetime | None = None
    external_id: str = ""
    key: str = ""


def decode(data: bytes) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        CsvError: it is in another encoding; says in which line.
    """
    for mark, name in _BOMS.items():
        if data.startswith(mark):
            raise CsvError(f"the file is in {name}; save it as UTF-8 (in Excel: “CSV UTF-8”)")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise CsvError(f"line {line} is not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8") from None


def header(columns: Sequence[str], project: str) -> dict[str, int]:
    """Where each column is.

    Raises:
        CsvError: a column is missing, unknown or there twice; names all of them.
    """
    names = [name.strip().lower() for name in columns]
    problems: list[str] = []
    if needed := [name for name in ("title", *(() if project else ("project",))) if name not in names]:
        problems.append(f"missing: {', '.join(needed)}")
    if unknown := [name or "(empty)" for name in names if name not in EXPORT_COLUMNS]:
        problems.append(f"unknown: {', '.join(unknown)}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        problems.append(f"there twice: {', '.join(twice)}")
    if problems:
        hint = " The columns must be parted by commas." if len(columns) == 1 and ";" in columns[0] else ""
        without = " Or say --project KEY." if "project" in needed and len(problems) == 1 else ""
        raise CsvError(
            f"the header is wrong; {'; '.join(problems)}. There are: {', '.join(EXPORT_COLUMNS)}.{hint}{without}"
        )
    return {name: place for place, name in enumerate(names)}


def read(path: Path, project: str = "") -> Iterator[Row | BadRow]:
    """Reads a file; before the first row comes out, its encoding and header have been checked.

    Args:
        path: the file.
        project: the project of all rows, whatever the file says.

    Raises:
        CsvError: the file as a whole cannot be taken.
    """
    try:
        text = decode(path.read_bytes())
    except OSError as error:
        raise CsvError(f"it cannot be read: {error.strerror}") from None
    csv.field_size_limit(MAX_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = next(reader)
    except StopIteration:
        raise CsvError("it is empty; the first line must name the columns") from None
    except csv.Error as error:
        raise CsvError(f"the header cannot be read: {error}") from None
    return _rows(reader, header(columns, project), project)


def _rows(reader: Reader, places: dict[str, int], project: str) -> Iterator[Row | BadRow]:
    seen: Counter[str] = Counter()
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(line, _csv_problem(error))
            continue
        if not cells:
            continue
        if len(cells) != len(places):
            yield BadRow(line, f"it has {len(cells)} fields, the header {len(places)}; are quotes or commas missing?")
            continue
        values = {name: cells[place] for name, place in places.items()}
        yield _row(line, values | ({"project": project} if project else {}), seen)


def _csv_problem(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return "a quote that opens here is never closed; nothing after it could be read"
    return f"its quoting is broken ({error}); quotes inside a quoted field are written twice"


def _row(line: int, values: dict[str, str], seen: Counter[str]) -> Row | BadRow:
    content = json.dumps([values.get(name, "") for name in COLUMNS], ensure_ascii=False)
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    external_id = values.get("external_id", "").strip()
    if not external_id:
        # Rows that are alike are different tasks: the first, the second … of their kind.
        seen[digest] += 1
        external_id = f"csv:{digest}:{seen[digest]}"
    try:
        return Row(
            line=line,
            project=_project(values["project"].strip()),
            title=_title(values["title"]),
            description=_at_most("description", _no_nul("description", values.get("description", "")), 100_000),
            state=_choice("status", values.get("status", "")),
            priority=_choice("priority", values.get("priority", "")),
            labels=_labels(values.get("labels", "")),
            assignees=_assignees(values.get("assignee", "")),
            create_time=_time("created_at", values.get("created_at", "").strip()),
            due_time=_time("due_at", values.get("due_at", "").strip()),
            external_id=_at_most("external_id", _no_nul("external_id", external_id), 200),
            key=values.get("key", "").strip(),
        )
    except ValueError as error:
        return BadRow(line, str(error))


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")


def _plain(name: str, text: str) -> str:
    """A text of one line: the server takes no control characters in it."""
    if found := _CONTROL.search(text):
        code = ord(found[0])
        what = "a tab" if code == 9 else f"the control character {_CONTROL_NAMES.get(code, '')} (U+{code:04X})"
        raise ValueError(f"{name} holds {what.replace('  ', ' ')}; remove it")
    return text


def _no_nul(name: str, text: str) -> str:
    if "\0" in text:
        raise ValueError(f"{name} holds a NUL character; remove it")
    return text


def _at_most(name: str, text: str, limit: int) -> str:
    if len(text) > limit:
        raise ValueError(f"{name} has {len(text)} characters; at most {limit} are possible")
    return text


def _title(text: str) -> str:
    if not text.strip():
        raise ValueError("title is empty")
    line = text.strip("\r\n")
    if "\n" in line or "\r" in line:
        raise ValueError("title has several lines; what follows the first belongs into description")
    return _at_most("title", _plain("title", line), 500)


def _project(key: str) -> str:
    if not _KEY.fullmatch(key):
        problem = f"{_shown(key)} is no key; one is 1 to 10 letters A–Z and digits" if key else "it is empty"
        raise ValueError(f"project: {problem}")
    return key


def _choice(name: str, text: str) -> str:
    value = text.strip()
    if name == "priority" and value and value not in PRIORITIES:
        raise ValueError(f"priority {_shown(value)} is none of {', '.join(PRIORITIES)}")
    if name == "status" and value and not _STATE.fullmatch(value):
        raise ValueError(f"status {_shown(value)} is no state; the default ones are todo, in_progress, done")
    return value


def _labels(text: str) -> list[str]:
    labels = list(dict.fromkeys(_plain("a label", each) for each in split_list(_no_nul("a label", text))))
    if len(labels) > 50:
        raise ValueError(f"{len(labels)} labels; at most 50 are possible")
    for label in labels:
        if len(label) > 50:
            raise ValueError(f"the label {_shown(label)} has {len(label)} characters; at most 50 are possible")
    return labels


def _assignees(text: str) -> list[str]:
    found = [each.lower() for each in split_list(text)]
    for each in found:
        if not _EMAIL.fullmatch(each) and not each.startswith("user_"):
            raise ValueError(f"assignee {_shown(each)} is no e-mail address")
    if len(found := list(dict.fromkeys(found))) > 50:
        raise ValueError(f"{len(found)} assignees; at most 50 are possible")
    return found


def _time(name: str, text: str) -> datetime | None:
    if not text:
        return None
    try:
        if len(text) == 10:
            return datetime.combine(date.fromisoformat(text), time(), UTC)
        found = datetime.fromisoformat(text)
    except ValueError:
        example = "2024-08-22" if name == "due_at" else "2024-07-17T09:32:29+02:00"
        raise ValueError(f"{name} {_shown(text)} is no date; write it like {example}") from None
    if found.tzinfo is None:
        raise ValueError(f"{name} {_shown(text)} says no time zone; write it like {text}+00:00")
    return found


def split_list(text: str) -> list[str]:
    """The parts of `a; b`, without spaces around them and empty ones; `\\` before a character takes it as it is."""
    parts: list[str] = []
    for piece in re.findall(r"((?:[^;\\]|\\.|\\$)*)(?:;|$)", text, re.DOTALL):
        # A space that was escaped is kept: it is marked while the others are taken off.
        marked = re.sub(r"\\(.)", lambda m: f"\x00{ord(m[1]):x}\x00", piece, flags=re.DOTALL).strip()
        if plain := re.sub(r"\x00([0-9a-f]+)\x00", lambda m: chr(int(m[1], 16)), marked):
            parts.append(plain)
    return parts


def write_list(parts: Sequence[str]) -> str:
    """What `split_list` reads back as these parts."""
    return ";".join(_escape(part) for part in parts)


def _escape(part: str) -> str:
    inner = part.strip()
    before, after = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :] if inner else ""
    escaped = re.sub(r"([;\\])", r"\\\1", inner)
    spaces = ["".join(f"\\{c}" for c in side) for side in (before, after)]
    return f"{spaces[0]}{escaped}{spaces[1]}"


def for_spreadsheet(cell: str) -> str:
    """A cell that a spreadsheet takes for text: one that it would take for a formula begins with an apostrophe.

    Source: OWASP, CSV Injection.
    """
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def write_time(when: datetime | None, *, day: bool = False) -> str:
    """A time as `_time` reads it; a whole day as a date, where that is allowed."""
    if when is None:
        return ""
    utc = when.astimezone(UTC)
    if day and utc.timetz() == time(tzinfo=UTC):
        return utc.date().isoformat()
    return utc.isoformat().replace("+00:00", "Z")
