"""Several conditions as one (AUTHZ-2: deny by default, an explicit deny wins)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def combine(allows: Sequence[str], denies: Sequence[str]) -> str:
    """The text `(a1 || a2) && !(d1 || d2)`: true when some allow is true and no deny is.

    No allow gives "false". Each text must have been compiled by itself before, so that none can reach out
    of its brackets. An error in a deny denies; an error in an allow does not, if another allow is true.
    """
    allowed, denied = _either(allows), _either(denies)
    if allowed == "false" or denied == "true":
        return "false"
    if denied == "false":
        return allowed
    refused = _bracketed(denied)
    return f"!{refused}" if allowed == "true" else f"{_bracketed(allowed)} && !{refused}"


def _either(texts: Iterable[str]) -> str:
    stripped = dict.fromkeys(text.strip() for text in texts)
    if "true" in stripped:
        return "true"
    # a comment would swallow the bracket behind it
    parts = [f"({text}\n)" if "//" in text else f"({text})" for text in stripped if text != "false"]
    return " || ".join(parts) if parts else "false"


def _bracketed(either: str) -> str:
    return f"({either})" if " || " in either else either  # a single one has its brackets already
