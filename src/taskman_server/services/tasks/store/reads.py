"""One task by id or key where other processes write too: remembered, and asked for each read whether it still holds.

The names of one turn of the event loop are looked up by one statement. It reads versions alone: every change of a task
makes it another version, every change of its project's members or visibility another one of the project. What is
known in just these versions is what the database would have answered to the same statement; the rest is read whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from cachebox import LRUCache
from sqlalchemy import bindparam, select

from taskman_server.kit.coalesce import Gatherer
from taskman_server.kit.db import Database, Row, Statement
from taskman_server.kit.telemetry import CacheUse
from taskman_server.services.tasks.store.tables import PROJECTS, TASKS

__all__ = ["TaskReads"]

_COLUMNS: Final = [c for c in TASKS.c if c.name not in ("title_order", "priority_order")]
_PROJECT: Final = (PROJECTS.c.version.label("project_version"), PROJECTS.c.visibility, PROJECTS.c.members)


def _statements(*columns: Any) -> Mapping[str, Statement]:
    """By id and by key."""
    return {
        name: Statement(
            select(*columns)
            .join_from(TASKS, PROJECTS)
            .where(
                TASKS.c.organization == bindparam("organization"),
                TASKS.c[name].in_(bindparam("names", expanding=True)),
            )
        )
        for name in ("id", "key")
    }


_VERSIONS: Final = _statements(TASKS.c.id, TASKS.c.key, TASKS.c.version, _PROJECT[0])
_WHOLE: Final = _statements(*_COLUMNS, *_PROJECT)

Key = tuple[str, str, str]
"""Organization, `id` or `key`, and the name."""


class TaskReads:
    """Rows of tasks with their project's `visibility` and `members`."""

    def __init__(self, db: Database, size: int, use: CacheUse) -> None:
        """Args:
        db: where they are.
        size: how many are remembered.
        use: counts how often that helped.
        """
        self._db = db
        self._use = use
        self._known: LRUCache[Key, Row] = LRUCache(size)
        self._reads: Gatherer[Key, Row] = Gatherer(self._read)
        db.prepare(*_VERSIONS.values(), *_WHOLE.values())

    async def get(self, organization: str, column: str, name: str) -> Row | None:
        """The task as it is in the database at some moment after this call."""
        return await self._reads.get((organization, column, name))

    async def _read(self, keys: Sequence[Key]) -> Mapping[Key, Row]:
        groups: dict[tuple[str, str], list[str]] = {}
        for organization, column, name in keys:
            groups.setdefault((organization, column), []).append(name)
        found: dict[Key, Row] = {}
        for group, names in groups.items():  # mostly one
            found |= await self._group(*group, names)
        return found

    async def _group(self, organization: str, column: str, names: Sequence[str]) -> dict[Key, Row]:
        known: dict[str, Row] = {}
        for name in names:
            if (row := self._known.get((organization, column, name))) is not None:
                known[name] = row
        good: dict[Key, Row] = {}
        if known:
            for now in await self._db.fetch_all(_VERSIONS[column], organization=organization, names=list(known)):
                name = getattr(now, column)
                row = known[name]
                if (row.version, row.project_version) == (now.version, now.project_version):
                    good[organization, column, name] = row
        wanted = [name for name in names if (organization, column, name) not in good]
        self._use.hits += len(good)
        self._use.misses += len(wanted)
        return good | await self._whole(organization, column, wanted) if wanted else good

    async def _whole(self, organization: str, column: str, names: Iterable[str]) -> dict[Key, Row]:
        found: dict[Key, Row] = {}
        for row in await self._db.fetch_all(_WHOLE[column], organization=organization, names=list(names)):
            key = (organization, column, getattr(row, column))
            found[key] = row
            self._known.insert(key, row)
        return found
