"""Who can be given work: the active users of an organization, asked of the Users service."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from taskman_sdk.proto.taskman.user.v1.user_pb import BatchGetUsersRequest, BatchGetUsersResponse
from taskman_server.kit.rpc import Call
from taskman_server.kit.telemetry import CacheUse

__all__ = ["ActiveUsers"]

_BATCH: Final = 1000  # users that BatchGetUsers takes
_KEPT: Final = 10_000


class ActiveUsers:
    """Asks who is active. Where the users' database is in this process too, those who were are not asked about again
    before something is committed there; elsewhere everybody is, each time."""

    def __init__(self, changes: Callable[[], int] | None, use: CacheUse) -> None:
        """`changes`: the users' `Database.changes`, where it can be seen. `use`: counts how often that helped."""
        self._changes = changes
        self._use = use
        self._known: set[tuple[str, str]] = set()
        self._as_of = 0

    async def among(self, call: Call, users: Iterable[str]) -> set[str]:
        """Those of the users who exist and are active in the caller's organization."""
        organization = call.principal.organization
        wanted, known = set(users), self._current()
        found = {user for user in wanted if (organization, user) in known}
        self._use.hits += len(found)
        self._use.misses += len(wanted) - len(found)
        unknown = sorted(wanted - found)
        as_of = self._as_of
        for start in range(0, len(unknown), _BATCH):
            request = BatchGetUsersRequest(users=unknown[start : start + _BATCH])
            answer = await call.peer("UserService.BatchGetUsers", request, BatchGetUsersResponse)
            active = {user.id for user in answer.users if user.state == "active"}
            found |= active
            # Not if somebody else has asked meanwhile and seen a change: this answer may be older.
            if self._changes is not None and as_of == self._as_of and len(self._known) < _KEPT:
                self._known.update((organization, user) for user in active)
        return found

    def _current(self) -> set[tuple[str, str]]:
        if self._changes is not None and (as_of := self._changes()) != self._as_of:
            self._as_of = as_of
            self._known.clear()
        return self._known
