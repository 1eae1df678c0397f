"""Permissions as the contract declares them, and the patterns that stand for several (IAM-3).

A pattern is a permission (`tasks.update`), all of one kind (`tasks.*`) or all there are (`*`).
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from functools import cache
from typing import Final

from taskman_sdk import contract

__all__ = ["CHECK_OTHERS", "catalogue", "covers", "expand", "near", "users_of"]

CHECK_OTHERS: Final = "authz.check"
"""To ask what others may do. No RPC needs it as a whole: `Check` needs it for other principals than the caller."""
_CHECK_METHODS: Final = ("AuthorizationService.Check", "AuthorizationService.PlanResources")


@cache
def catalogue() -> tuple[str, ...]:
    """Every permission there is, in order."""
    return tuple(sorted({*contract.permissions(), CHECK_OTHERS}))


def users_of(permission: str) -> tuple[str, ...]:
    """The RPCs that need a permission, for example `TaskService.GetTask`.

    Raises:
        KeyError: there is no such permission.
    """
    if permission == CHECK_OTHERS:
        return _CHECK_METHODS
    return tuple(method.operation_id for method in contract.permissions()[permission])


def covers(pattern: str, permission: str) -> bool:
    """Whether the pattern stands for the permission."""
    if pattern in ("*", permission):
        return True
    return pattern.endswith(".*") and permission.partition(".")[0] == pattern[:-2]


def expand(patterns: Iterable[str]) -> frozenset[str]:
    """The permissions of the catalogue that the patterns stand for."""
    wanted = tuple(patterns)
    return frozenset(each for each in catalogue() if any(covers(pattern, each) for pattern in wanted))


def near(pattern: str, among: Collection[str] = ()) -> list[str]:
    """The permissions and patterns that were probably meant, best first, at most three."""
    known = list(among or (*catalogue(), *{f"{each.partition('.')[0]}.*" for each in catalogue()}))
    close = difflib.get_close_matches(pattern, known, 3)
    if close:
        return close
    kind = pattern.partition(".")[0]
    return [each for each in known if each.partition(".")[0] == kind][:3]
