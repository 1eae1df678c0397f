"""The time, as a part that tests can turn by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Where a service gets the time from."""

    def now(self) -> datetime:
        """The wall clock: aware, UTC, microseconds."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never runs backwards. For durations only."""


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        """The wall clock: aware, UTC, microseconds."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never runs backwards."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is moved. For tests."""

    def __init__(self, now: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        """Start at `now`, which must be aware."""
        self._monotonic = 0.0
        self.set(now)

    def now(self) -> datetime:
        """The time it was set to, in UTC."""
        return self._now

    def monotonic(self) -> float:
        """The seconds it was advanced by since it was made."""
        return self._monotonic

    def set(self, now: datetime) -> None:
        """Put the wall clock to `now`, forwards or backwards; `monotonic` does not move.

        Raises ValueError when `now` has no time zone.
        """
        if now.tzinfo is None:
            raise ValueError("a clock takes an aware datetime: give it a time zone, for example UTC")
        self._now = now.astimezone(UTC)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass on both hands."""
        if seconds < 0:
            raise ValueError("time does not run backwards: use set() to turn the wall clock back")
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds
