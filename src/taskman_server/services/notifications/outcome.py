"""What came of one attempt to deliver something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Outcome"]


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
