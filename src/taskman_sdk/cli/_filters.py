"""Short filters, `label:fix state:todo due:<2024-09-01`, as CEL."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from taskman_sdk.cli._dates import moment, start_of_day

__all__ = ["FilterError", "Query", "read"]

_TERM: Final = re.compile(r"([a-z_]+):(.*)", re.DOTALL)
_TIMES: Final = {"due": "due_time", "start": "start_time", "created": "create_time", "updated": "update_time"}
_TEXTS: Final = {"state": "state", "status": "state", "priority": "priority", "key": "key"}
_LISTS: Final = {"label": "labels", "labels": "labels", "assignee": "assignees"}
_PEOPLE: Final = {"assignee", "creator"}
KNOWN: Final = sorted({*_TIMES, *_TEXTS, *_LISTS, "creator", "project"})


class FilterError(ValueError):
    """A short filter cannot be read."""


@dataclass
class Query:
    """What a list is asked for.

    Attributes:
        project: the project of `project:KEY`.
        terms: CEL expressions that all must hold.
    """

    project: str = ""
    terms: list[str] = field(default_factory=list)

    @property
    def cel(self) -> str:
        """One CEL expression; empty for everything."""
        return " && ".join(self.terms if len(self.terms) < 2 else (f"({term})" for term in self.terms))


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _time(text: str, at: datetime) -> str:
    return f'{text} timestamp("{at.astimezone(UTC).isoformat().replace("+00:00", "Z")}")'


def _when(name: str, value: str, now: datetime | None) -> str:
    if value in ("", "none"):
        return f"{name} == null"
    if value == "any":
        return f"{name} != null"
    if value == "overdue":
        return f"{name} < now && complete_time == null"
    comparison = re.match(r"<=|>=|<|>|=|", value)
    operator = comparison.group() if comparison is not None else ""
    try:
        at, whole = moment(value[len(operator) :], now)
    except ValueError as error:
        raise FilterError(str(error)) from None
    begin, end = (start_of_day(at), start_of_day(at + timedelta(days=1))) if whole else (at, at)
    if operator in ("<", ">="):
        return _time(f"{name} {operator}", begin)
    if operator in ("<=", ">"):
        if not whole:
            return _time(f"{name} {operator}", at)
        return _time(f"{name} {'<' if operator == '<=' else '>='}", end)
    if not whole:
        return _time(f"{name} ==", at)
    return f"{_time(f'{name} >=', begin)} && {_time(f'{name} <', end)}"


def read(words: Iterable[str], person: Callable[[str], str], now: datetime | None = None) -> Query:
    """Reads the words of a command line.

    A word is `name:value`, `name:one,other` (any of them), `name:!value` (not it), `assignee:me`, `assignee:none`,
    `due:<friday`; every other word must occur in the title.

    Args:
        words: for example `["label:fix", "login"]`.
        person: the user id of `me`, an address or an id.
        now: the present, for tests.

    Raises:
        FilterError: a name is not known, or a value is no date.
    """
    query = Query()
    for word in words:
        found = _TERM.fullmatch(word)
        if found is None:
            if word.strip():
                query.terms.append(f"title.contains({_quote(word)})")
            continue
        name, value = found.groups()
        if name == "project":
            query.project = value
        elif name in _TIMES:
            query.terms.append(_when(_TIMES[name], value, now))
        elif name in _TEXTS or name in _LISTS or name == "creator":
            query.terms.append(_equal(name, value, person))
        else:
            raise FilterError(f"{name!r} is nothing to filter by; there are {', '.join(KNOWN)}")
    return query


def _equal(name: str, value: str, person: Callable[[str], str]) -> str:
    negative = value.startswith("!")
    values = [each for each in value.removeprefix("!").split(",") if each]
    listed = _LISTS.get(name, "")
    target = listed or _TEXTS.get(name, name)
    if not values or values == ["none"]:
        term = (
            f"size({target}) {'>' if negative else '=='} 0" if listed else f'{target} {"!=" if negative else "=="} ""'
        )
        return term
    if name in _PEOPLE:
        values = [person(each) for each in values]
    if listed:
        any_of = " || ".join(f"{_quote(each)} in {target}" for each in values)
        return f"!({any_of})" if negative else any_of
    if len(values) == 1:
        return f"{target} {'!=' if negative else '=='} {_quote(values[0])}"
    term = f"{target} in [{', '.join(map(_quote, values))}]"
    return f"!({term})" if negative else term
