"""What the Users service decides: no I/O, no clock, no randomness."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Final
from zoneinfo import available_timezones

from taskman_sdk.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError

__all__ = ["MUTABLE", "check_not_oneself", "checked_values", "clean_name", "etag"]

MUTABLE: Final = ("display_name", "locale", "time_zone")
"""The fields of a user that an update can change."""


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def etag(user: str, version: int) -> str:
    """Changes with every change of the user; tells nothing else."""
    return hashlib.sha256(f"{user}/{version}".encode()).hexdigest()[:16]


def clean_name(name: str) -> str:
    """A name as it is kept: NFC, one line, without space around it and without characters that cannot be seen."""
    text = unicodedata.normalize("NFC", name)
    seen = "".join(" " if c.isspace() else c for c in text if unicodedata.category(c)[0] != "C" or c.isspace())
    return " ".join(seen.split())


def checked_values(values: Mapping[str, str], prefix: str = "user") -> dict[str, str]:
    """The values of mutable fields as they are kept.

    Args:
        values: by field.
        prefix: the place of the user in the request.

    Raises:
        InvalidArgumentError: with every field that is wrong.
    """
    kept = dict(values)
    wrong: list[FieldViolation] = []
    if "display_name" in kept:
        kept["display_name"] = clean_name(kept["display_name"])
        if not kept["display_name"]:
            wrong.append(FieldViolation(f"{prefix}.display_name", "a name is needed", "string.min_len"))
    if kept.get("time_zone") and kept["time_zone"] not in _zones():
        text = f"there is no time zone {kept['time_zone']!r}; use an IANA name, for example Europe/Berlin"
        wrong.append(FieldViolation(f"{prefix}.time_zone", text, "time_zone"))
    if wrong:
        raise InvalidArgumentError(
            "The user cannot be kept: " + "; ".join(f"{each.field}: {each.description}" for each in wrong) + ".",
            reason="FIELD_INVALID",
            field_violations=wrong,
        )
    return kept


def check_not_oneself(caller: str, user: str) -> None:
    """Refuses to shut oneself out: nobody might be left to undo it.

    Raises:
        FailedPreconditionError: it is the caller.
    """
    if caller == user:
        raise FailedPreconditionError(
            "You cannot deactivate yourself. Ask another administrator to do it.", reason="SELF_DEACTIVATION"
        )
