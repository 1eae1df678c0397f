"""The organization that every deployment has from its first start."""

from __future__ import annotations

from typing import Final

__all__ = ["DEFAULT_ORGANIZATION"]

DEFAULT_ORGANIZATION: Final = "default"
"""That of the first administrator, and of whoever signs up unless each sign-up has one of its own."""
