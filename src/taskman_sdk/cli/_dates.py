"""Dates as people say them: `friday`, `tomorrow`, `+3d`, `2024-09-01`, `1 Sep 15:00`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from typing import Final

__all__ = ["end_of_day", "moment", "start_of_day"]

_ISO: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_AHEAD: Final = re.compile(r"(?:\+|in\s+)?(\d{1,4})\s*(d|days?|w|weeks?|m|months?|h|hours?)")
_WORDS: Final = {"today": 0, "tomorrow": 1, "yesterday": -1}
_CLOCK: Final = re.compile(r"\d{1,2}:\d{2}|\d\s*[ap]m\b|T\d{2}", re.IGNORECASE)


def moment(text: str, now: datetime | None = None) -> tuple[datetime, bool]:
    """What a text means, in the local time zone, and whether it is a whole day (then at its start).

    Args:
        text: for example `friday` (today, when today is one), `next friday`, `+3d`, `2024-09-01T15:00Z`.
        now: the present, with a time zone.

    Raises:
        ValueError: it means nothing; the message says what would.
    """
    present = (now or datetime.now(UTC)).astimezone() if now is None else now
    wanted = " ".join(text.strip().lower().split())
    if wanted == "now":
        return present, False
    if wanted in _WORDS:
        return start_of_day(present + timedelta(days=_WORDS[wanted])), True
    if (found := _AHEAD.fullmatch(wanted)) is not None:
        return _ahead(present, int(found.group(1)), found.group(2))
    if wanted.startswith("next "):
        day, whole = moment(wanted.removeprefix("next "), present + timedelta(days=1))
        return day, whole
    from dateutil import parser

    try:
        parsed = parser.parse(text.strip(), default=start_of_day(present).replace(tzinfo=None))
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no date; write one like 2024-09-01, friday, tomorrow or +3d") from None
    whole = bool(_ISO.fullmatch(wanted)) or not _CLOCK.search(text)
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=present.tzinfo) if now is not None else parsed.astimezone()
    return parsed, whole


def _ahead(present: datetime, count: int, unit: str) -> tuple[datetime, bool]:
    if unit[0] == "h":
        return present + timedelta(hours=count), False
    if unit[0] == "m":
        from dateutil.relativedelta import relativedelta

        return start_of_day(present + relativedelta(months=count)), True
    return start_of_day(present + timedelta(days=count * (7 if unit[0] == "w" else 1))), True


def start_of_day(when: datetime) -> datetime:
    """Midnight before."""
    return datetime.combine(when.date(), time(), when.tzinfo)


def end_of_day(when: datetime) -> datetime:
    """The last second of the day."""
    return datetime.combine(when.date(), time(23, 59, 59), when.tzinfo)
