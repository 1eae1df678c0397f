"""What a filter of the log can name, and the way around a word that CEL keeps for itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from taskman_sdk.errors import FieldViolation, InvalidArgumentError
from taskman_server.kit.cel import INT, STRING, TIMESTAMP, Environment
from taskman_server.kit.filters import compile_filter, plan_filter
from taskman_server.services.audit.store import RECORDS

__all__ = ["condition"]

# CEL has a `type` of its own, so that ours cannot be declared: it goes by a name of the same width, and positions
# stay true.
_HIDDEN: Final = "typ_"
_TYPE: Final = re.compile(
    r"""(?P<other>[rR]?[bB]?[rR]?(?:\"{3}.*?\"{3}|'{3}.*?'{3})|[rR]"[^"\n]*"|[rR]'[^'\n]*'"""
    r"""|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|//[^\n]*)|(?<![\w.])type(?!\w|\s*\()""",
    re.DOTALL,
)
_TEXTS: Final = ("id", "actor", "target_type", "target_id", "result", "request_id", "source", "ip_address")
_ENVIRONMENT: Final = Environment(
    {**dict.fromkeys((*_TEXTS, _HIDDEN), STRING), "time": TIMESTAMP, "sequence": INT, "now": TIMESTAMP}
)
_COLUMNS: Final[Mapping[str, sa.ColumnElement[Any]]] = {
    **{name: RECORDS.c[name] for name in (*_TEXTS, "time", "sequence")},
    _HIDDEN: RECORDS.c.type,
}


def condition(text: str, now: datetime) -> sa.ColumnElement[bool] | None:
    """The WHERE of a filter; None for an empty one.

    Raises:
        InvalidArgumentError: it is not a valid expression, or cannot be searched for; the position is named.
    """
    hidden = _TYPE.sub(lambda match: match["other"] or _HIDDEN, text)
    try:
        program = compile_filter(_ENVIRONMENT, hidden)
        return None if program is None else plan_filter(program, _COLUMNS, now)
    except InvalidArgumentError as error:
        raise _shown(error) from None


def _shown(error: InvalidArgumentError) -> InvalidArgumentError:
    return InvalidArgumentError(
        error.message.replace(_HIDDEN, "type"),
        reason=error.reason,
        metadata=error.metadata,
        field_violations=[
            FieldViolation(each.field, each.description.replace(_HIDDEN, "type"), each.reason)
            for each in error.field_violations
        ],
    )
