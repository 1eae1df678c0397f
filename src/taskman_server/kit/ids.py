"""Identifiers: `task_01j…`, typed by their prefix and sortable by the time they were made.

An id is a prefix, an underscore and the 26 Crockford base32 digits (lower case) of a UUID version 7 (RFC 9562).
Text order is time order to the millisecond, and the order of making within one process.
"""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta

import uuid_utils

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {digit: value for value, digit in enumerate(_CROCKFORD)}
_PAIRS = [first + second for first in _CROCKFORD for second in _CROCKFORD]
_SHIFTS = range(120, -1, -10)
_SHAPE = re.compile(r"(?P<prefix>[a-z][a-z0-9]*(?:_[a-z0-9]+)*)_(?P<digits>[0-7][0-9a-hjkmnp-tv-z]{25})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

_lock = threading.Lock()
_last = 0


def _digits(value: int) -> str:
    # two digits at a time, 0.8 µs instead of the 2 µs of `base64`: several ids are made for each request
    return "".join([_PAIRS[value >> shift & 1023] for shift in _SHIFTS])


def new_id(prefix: str) -> str:
    """A new id, for example `new_id("task") == "task_01j…"`; greater than every id made before in this process."""
    global _last
    value = uuid_utils.uuid7().int
    with _lock:
        # The wall clock may be set back while we run; the order of making must hold all the same.
        if value <= _last:
            value = _last + 1
        _last = value
    return f"{prefix}_{_digits(value)}"


def is_id(text: str, prefix: str | None = None) -> bool:
    """Whether `text` has the shape of an id, and of one with this `prefix` when it is given."""
    match = _SHAPE.fullmatch(text)
    return match is not None and (prefix is None or match["prefix"] == prefix)


def id_floor(prefix: str, time: datetime) -> str:
    """The smallest id of `prefix` that can have been made at `time` (aware) or later, to the millisecond."""
    milliseconds = max(0, (time - _EPOCH) // _MILLISECOND)
    return f"{prefix}_{_digits(milliseconds << 80)}"


def id_time(identifier: str) -> datetime:
    """When an id was made: aware, UTC, to the millisecond. Raises ValueError when it has no id's shape."""
    match = _SHAPE.fullmatch(identifier)
    if match is None:
        raise ValueError("not an id: expected a prefix, an underscore and 26 digits, for example task_01j…")
    value = 0
    for digit in match["digits"]:
        value = value << 5 | _VALUES[digit]
    return _EPOCH + (value >> 80) * _MILLISECOND


def request_id_of(given: str) -> str:
    """The request id that a client gave, where it is well formed, else a new one."""
    return given if 0 < len(given) <= 128 and given.isascii() and given.isprintable() else new_id("req")
