"""Exchanges and patterns: which queue hears which event.

There is one topic exchange per context (OPEN-POINTS 11), found by the first word of an event's name. Words that are no
context belong to the context whose service says them: projects are the task service's, decisions (`authz.denied`)
concern identity and access.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

EXCHANGES: Final = {
    "auth": "taskman.auth",
    "user": "taskman.user",
    "iam": "taskman.iam",
    "authz": "taskman.iam",
    "task": "taskman.task",
    "project": "taskman.task",
    "notification": "taskman.notification",
    "audit": "taskman.audit",
}
ALL_EXCHANGES: Final = tuple(dict.fromkeys(EXCHANGES.values()))

_WORD = r"[a-z0-9_]+"
_PATTERN = re.compile(rf"(?:{_WORD}|\*|#)(?:\.(?:{_WORD}|\*|#))*")


def exchange_of(name: str) -> str | None:
    """The exchange of an event by its name; None for a context that does not exist."""
    return EXCHANGES.get(name.partition(".")[0])


def exchanges_for(pattern: str) -> Sequence[str]:
    """The exchanges that a pattern is bound to: one for a literal first word, all for a wildcard.

    Raises ValueError for what is no pattern or names no context.
    """
    if not _PATTERN.fullmatch(pattern):
        raise ValueError(f"binding {pattern!r}: expected words, * or # with dots between, for example task.* or #")
    first = pattern.partition(".")[0]
    if first in ("*", "#"):
        return ALL_EXCHANGES
    exchange = EXCHANGES.get(first)
    if exchange is None:
        raise ValueError(f"binding {pattern!r}: no context {first!r}; known are {', '.join(EXCHANGES)}")
    return (exchange,)


@lru_cache(maxsize=1024)
def _words(pattern: str) -> tuple[str, ...]:
    words: list[str] = []
    for word in pattern.split("."):
        if word != "#" or words[-1:] != ["#"]:
            words.append(word)
    return tuple(words)


def matches(pattern: str, name: str) -> bool:
    """RabbitMQ's topic match: `*` is exactly one word, `#` any number of words, none included."""
    # The set of positions in the pattern that the words read so far can have led to.
    words = _words(pattern)
    places = _skip(words, {0})
    for word in name.split("."):
        step: set[int] = set()
        for place in places:
            if place == len(words):
                continue
            if words[place] == "#":
                step.add(place)
            elif words[place] in ("*", word):
                step.add(place + 1)
        places = _skip(words, step)
        if not places:
            return False
    return len(words) in places


def _skip(words: Sequence[str], places: set[int]) -> set[int]:
    for place in sorted(places):
        while place < len(words) and words[place] == "#":
            place += 1
            places = places | {place}
    return places
