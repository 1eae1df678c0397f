"""The clock that tests turn by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from taskman_server.kit.clock import ManualClock, SystemClock


def test_a_manual_clock_stands_until_it_is_moved() -> None:
    """Both hands move together when time passes; setting the wall clock moves one."""
    clock = ManualClock()
    start = clock.now()
    assert clock.now() == start
    clock.advance(1.5)
    assert clock.now() - start == timedelta(seconds=1.5)
    assert clock.monotonic() == 1.5
    clock.set(datetime(2020, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))))
    assert clock.now() == datetime(2020, 1, 1, tzinfo=UTC)
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() == 1.5


def test_a_manual_clock_refuses_what_no_clock_does() -> None:
    """Times without a zone, and time that runs backwards."""
    with pytest.raises(ValueError, match="aware"):
        ManualClock(datetime(2020, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="backwards"):
        ManualClock().advance(-1)


def test_the_system_clock_is_aware() -> None:
    """UTC, and a second hand that only runs forwards."""
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() <= clock.monotonic()
