"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["eventually"]

T = TypeVar("T")


async def eventually(
    look: Callable[[], Awaitable[T | None]],
    what: str,
    *,
    seconds: float = 10,
    ignore: tuple[type[Exception], ...] = (),
) -> T:
    """What `look` finds, as soon as that is something; asked again and again until the deadline.

    Args:
        look: asks once.
        what: what is waited for, for the message of a failure.
        seconds: the deadline.
        ignore: errors that mean "not yet".
    """
    deadline = time.monotonic() + seconds
    last: object = None
    pause = 0.002
    while True:
        try:
            found = await look()
            if found:
                return found
            last = found
        except ignore as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {seconds} s (last: {last!r})")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.05)
