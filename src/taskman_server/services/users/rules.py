"""What the Users service decides: no I/O, no clock, no randomness."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Final
from zoneinfo import available_timezones

from taskman_sdk.errors import AbortedError, FailedPreconditionError, FieldViolation, InvalidArgumentError
from taskman_server.kit.organizations import DEFAULT_ORGANIZATION

__all__ = [
    "MUTABLE",
    "check_may_create",
    "check_not_oneself",
    "check_unchanged",
    "checked_values",
    "clean_name",
    "etag",
]

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


def check_may_create(signup: str, organization: str) -> None:
    """Refuses to make users where that would tell one organization who is in another (USER-1).

    Args:
        signup: the setting `TASKMAN_SIGNUP`.
        organization: the caller's.

    Raises:
        FailedPreconditionError: people of this organization sign up themselves.
    """
    if signup == "organization" and organization != DEFAULT_ORGANIZATION:
        raise FailedPreconditionError(
            "Users cannot be created in this organization: people join by signing up themselves; invitations come "
            "later.",
            reason="INVITATIONS_NEEDED",
        )


def check_unchanged(seen: int, now: int) -> None:
    """Refuses to go on with what was decided about another version of the record.

    Raises:
        AbortedError: the versions differ.
    """
    if seen != now:
        raise AbortedError(
            "The user was changed at the same moment. Ask again.", reason="CONCURRENT_CHANGE", retry_after=0.1
        )
