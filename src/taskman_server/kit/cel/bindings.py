"""Python values on their way into an evaluation, checked and converted by their declared type.

The library cuts a string at its first NUL without a word ("admin\\0x" would equal "admin"), takes a bool
for an int and a naive time for UTC. A policy must not rest on that: such values are refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from google.protobuf.duration_pb2 import Duration  # type: ignore[import-untyped, unused-ignore]
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped, unused-ignore]

from taskman_server.kit.cel.kinds import CelType

Convert: TypeAlias = Callable[[Any], Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BadValue(Exception):
    """A value is not of the declared type; the text says how."""


def converter(type_: CelType) -> Convert:
    """A function that checks a value of `type_` and returns what the library takes; raises `BadValue`."""
    if type_.kind == "list":
        assert type_.element is not None
        return _list(type_.element)
    if type_.optional:
        # what may be null is untyped to the library, and there times must be messages
        inner = {"timestamp": _loose_timestamp, "duration": _loose_duration}.get(type_.kind) or _SCALARS[type_.kind]
        return lambda value: None if value is None else inner(value)
    return _SCALARS[type_.kind]


def is_present(value: Any) -> bool:
    """What has(field) is for the field's value."""
    return value is not None


def _string(value: Any) -> Any:
    if not isinstance(value, str):
        raise BadValue(f"should be a string, not {type(value).__name__}")
    if "\0" in value:
        raise BadValue("holds a NUL character")
    return value


def _int(value: Any) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadValue(f"should be an int, not {type(value).__name__}")
    return value


def _double(value: Any) -> Any:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise BadValue(f"should be a number, not {type(value).__name__}")
    return float(value)


def _bool(value: Any) -> Any:
    if value is not True and value is not False:
        raise BadValue(f"should be a bool, not {type(value).__name__}")
    return value


def _aware(value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise BadValue(f"should be a datetime, not {type(value).__name__}")
    if value.tzinfo is None:
        raise BadValue("should be a datetime with a time zone, it has none")
    return value


def _timestamp(value: Any) -> Any:
    moment = _aware(value)
    # the library takes the ends of the calendar for infinity, unless they come as messages
    return _loose_timestamp(moment) if moment.year in (1, 9999) else moment


def _duration(value: Any) -> Any:
    if not isinstance(value, timedelta):
        raise BadValue(f"should be a timedelta, not {type(value).__name__}")
    return value


def _loose_timestamp(value: Any) -> Any:
    since = _aware(value) - _EPOCH
    return Timestamp(seconds=since.days * 86400 + since.seconds, nanos=since.microseconds * 1000)


def _loose_duration(value: Any) -> Any:
    message = Duration()
    message.FromTimedelta(_duration(value))
    return message


def _list(element: CelType) -> Convert:
    if element.kind == "string":

        def strings(value: Any) -> Any:
            if not isinstance(value, list):
                value = _plain(value)
            for item in value:
                if not isinstance(item, str) or "\0" in item:
                    _string(item)
            return value

        return strings
    inner = converter(element)
    return lambda value: [inner(item) for item in _plain(value)]


def _plain(value: Any) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)):
        raise BadValue(f"should be a list, not {type(value).__name__}")
    try:
        return list(value)
    except TypeError:
        raise BadValue(f"should be a list, not {type(value).__name__}") from None


def _map(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise BadValue(f"should be a mapping, not {type(value).__name__}")
    return {_string(key): anything(item) for key, item in value.items()}


def anything(value: Any) -> Any:
    """A value of no declared type (inside a map, or an element of a list) as the library takes it."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, datetime):
        return _loose_timestamp(value)
    if isinstance(value, timedelta):
        return _loose_duration(value)
    if isinstance(value, Mapping):
        return _map(value)
    return [anything(item) for item in _plain(value)]


_SCALARS: dict[str, Convert] = {
    "string": _string,
    "int": _int,
    "double": _double,
    "bool": _bool,
    "timestamp": _timestamp,
    "duration": _duration,
    "map": _map,
}
