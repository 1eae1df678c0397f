"""Cursor paging: opaque page tokens, and the SQL that goes on after the last row of a page (AIP-158).

A page begins after the sort key of the last row of the page before (keyset), so that rows written or deleted meanwhile
neither shift nor repeat the others. A `Keyset` ends in a unique column, which makes the order total; nulls come last in
both directions and on every database. A row whose own sort key changes while it is paged over can be seen twice or not
at all: that is so with every order by a column that changes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypeVar

import sqlalchemy as sa

from taskman_sdk.errors import FieldViolation, InvalidArgumentError
from taskman_server.kit.db.types import from_micros, to_micros

R = TypeVar("R")

Fault: TypeAlias = Literal["malformed", "other_query"]
Value: TypeAlias = str | int | float | bool | datetime | None

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
_VERSION = 1
_SIGNATURE = 16
_MAX_LENGTH = 4096
_TEXTS: dict[Fault, str] = {
    "malformed": "the page token is not one of this server's: pass next_page_token on as it was given",
    "other_query": "the page token belongs to another query: keep filter, order_by and parent the same between pages,"
    " or start again without a token",
}


class BadPageToken(InvalidArgumentError):
    """A page token cannot be used; `fault` is `malformed` or `other_query`."""

    def __init__(self, fault: Fault) -> None:
        """Say why, and what to do."""
        text = _TEXTS[fault]
        super().__init__(
            f"page_token cannot be used: {text}.",
            reason="PAGE_TOKEN_INVALID",
            field_violations=[FieldViolation("page_token", text, fault)],
        )
        self.fault = fault


def page_size(asked: int) -> int:
    """How many rows a page has: the default for 0, never more than the most (AIP-158)."""
    return min(asked or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def parse_order_by(text: str, legal: Collection[str], default: str = "create_time") -> tuple[str, bool]:
    """The name in an `order_by`, and whether it is descending (AIP-132).

    Args:
        text: as it was asked, for example `create_time desc`; empty for the default.
        legal: the names to sort by.
        default: the one of them that an empty text means.

    Raises:
        InvalidArgumentError: it names something else than the legal ones.
    """
    name, *direction = text.split() or [default]
    if name not in legal or direction not in ([], ["asc"], ["desc"]):
        names = ", ".join(legal)
        raise InvalidArgumentError(
            f"order_by: cannot sort by {text!r}. Use one of {names}, with ` desc` behind it if wanted.",
            reason="ORDER_BY_INVALID",
            metadata={"legal": names},
            field_violations=[
                FieldViolation("order_by", f"must be one of {names}, with ` desc` if wanted", "order_by")
            ],
        )
    return name, direction == ["desc"]


class Pager:
    """Makes and reads page tokens."""

    def __init__(self, key: bytes) -> None:
        """`key`: the deployment's secret for page tokens, at least 16 bytes; all its processes share it."""
        if len(key) < 16:
            raise ValueError("the key of page tokens needs at least 16 bytes")
        self._key = hashlib.sha256(b"taskman page token\0" + key).digest()

    def encode(self, query: Mapping[str, Any], values: Sequence[Value]) -> str:
        """A token for the page after `values`, good for this `query` only.

        `query` holds whatever the page depends on: method, filter, order, parent, organization. It must be JSON.
        """
        payload = [_VERSION, _digest(query), [_pack(value) for value in values]]
        text = json.dumps(payload, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        return base64.urlsafe_b64encode(self._sign(text) + text).rstrip(b"=").decode("ascii")

    def decode(self, token: str, query: Mapping[str, Any]) -> list[Value]:
        """The values in a token. Raises BadPageToken."""
        if len(token) > _MAX_LENGTH:
            raise BadPageToken("malformed")
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise BadPageToken("malformed") from None
        signature, text = raw[:_SIGNATURE], raw[_SIGNATURE:]
        if not hmac.compare_digest(signature, self._sign(text)):
            raise BadPageToken("malformed")
        # What carries our signature has our shape, unless another release made it.
        payload = json.loads(text)
        if payload[0] != _VERSION:
            raise BadPageToken("malformed")
        if payload[1] != _digest(query):
            raise BadPageToken("other_query")
        return [_unpack(value) for value in payload[2]]

    def _sign(self, text: bytes) -> bytes:
        return hmac.digest(self._key, text, "sha256")[:_SIGNATURE]


@dataclass(frozen=True, slots=True)
class SortKey:
    """One column to sort by. `name`: the attribute of a row that holds it; the column's own name unless given."""

    column: sa.ColumnElement[Any]
    descending: bool = False
    nullable: bool = False
    name: str = ""

    def value(self, row: Any) -> Value:
        """The value of a row."""
        value: Value = getattr(row, self.name or self.column.key or "")
        return value


class Keyset:
    """A total order over rows, and the condition that goes on after one of them."""

    def __init__(self, *keys: SortKey) -> None:
        """The last key must be unique and not nullable: an id. Raises ValueError when it is nullable or missing."""
        if not keys or keys[-1].nullable:
            raise ValueError("a keyset ends in a column that is unique and never null, for example the id")
        self._keys = keys

    def order_by(self) -> list[sa.ColumnElement[Any]]:
        """The ORDER BY."""
        clauses: list[sa.ColumnElement[Any]] = []
        for key in self._keys:
            clause = key.column.desc() if key.descending else key.column.asc()
            clauses.append(clause.nulls_last() if key.nullable else clause)
        return clauses

    def values(self, row: Any) -> list[Value]:
        """What a token must hold to go on after `row`."""
        return [key.value(row) for key in self._keys]

    def after(self, values: Sequence[Value], prefix: str = "") -> sa.ColumnElement[bool]:
        """The WHERE condition for the rows after these values. Raises BadPageToken when they are not this keyset's.

        With a `prefix` the values are parameters, given by `parameters`; the condition is then good for all values of
        which the same are None.
        """
        if len(values) != len(self._keys):
            raise BadPageToken("other_query")
        branches: list[sa.ColumnElement[bool]] = []
        same: list[sa.ColumnElement[bool]] = []
        edges = [
            None if value is None else _bound(key, value, f"{prefix}_{number}" if prefix else None)
            for number, (key, value) in enumerate(zip(self._keys, values, strict=True))
        ]
        for key, edge in zip(self._keys, edges, strict=True):
            if edge is None:  # nulls are last: nothing of this column comes after them
                same.append(key.column.is_(None))
                continue
            branches.append(sa.and_(*same, _later(key, edge)))
            same.append(key.column == edge)
        condition = sa.or_(*branches)
        first, edge = self._keys[0], edges[0]
        if len(self._keys) > 1 and not first.nullable and edge is not None:
            # Says nothing new, but lets the database begin at this place of an index.
            start = first.column <= edge if first.descending else first.column >= edge
            condition = sa.and_(start, condition)
        return condition

    def parameters(self, values: Sequence[Value] | None, prefix: str) -> dict[str, Value]:
        """The parameters of `after` with this `prefix`; none for no values."""
        return {f"{prefix}_{number}": value for number, value in enumerate(values or ()) if value is not None}


def page(rows: Sequence[R], limit: int) -> tuple[Sequence[R], bool]:
    """Of `limit + 1` rows asked for: those of the page, and whether there are more."""
    return rows[:limit], len(rows) > limit


def _later(key: SortKey, edge: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    beyond = key.column < edge if key.descending else key.column > edge
    return sa.or_(beyond, key.column.is_(None)) if key.nullable else beyond


def _bound(key: SortKey, value: Value, name: str | None) -> sa.ColumnElement[Any]:
    # As it stands, SQLAlchemy takes True and False for SQL constants, which know no "less".
    if name is not None:
        return sa.bindparam(name, type_=key.column.type)
    return sa.bindparam(None, value, type_=key.column.type)


def _digest(query: Mapping[str, Any]) -> str:
    text = json.dumps(query, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _pack(value: Value) -> Any:
    return {"t": to_micros(value)} if isinstance(value, datetime) else value


def _unpack(value: Any) -> Value:
    return from_micros(value["t"]) if isinstance(value, dict) else value
