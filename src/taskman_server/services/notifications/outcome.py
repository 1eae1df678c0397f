"""What came of one attempt to deliver something."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

from taskman_server.kit.db import Row

__all__ = ["Attempt", "AttemptRow", "Outcome"]


class Attempt(NamedTuple):
    """An attempt as it is recorded: when it began, the status of the answer (0: none), what went wrong, how long."""

    time: datetime
    status_code: int
    error: str
    duration_ms: int


AttemptRow: TypeAlias = Row | Attempt
"""One that is recorded, or is about to be."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt.

    Attributes:
        kind: `delivered`; `retry`: not this time; `failed`: never; `gone`: never, and nothing else there either.
        status_code: of the answer (HTTP or SMTP); 0 when there was none.
        error: what went wrong, in our words; empty when nothing did. Holds nothing of the content.
        retry_after: seconds that the receiver asked for.
        recipient: the address that was found for a user, where one was looked for.
        note: more of what went wrong, for our log alone.
    """

    kind: Literal["delivered", "retry", "failed", "gone"]
    status_code: int = 0
    error: str = ""
    retry_after: float | None = None
    recipient: str = ""
    note: str = ""
