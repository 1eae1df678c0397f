"""Tasks: statements and store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import Column, bindparam, delete, insert, select, true, update

from taskman_server.kit.cache import ReadCache
from taskman_server.kit.cel import Collection
from taskman_server.kit.db import Database, Executor, Row, Statement, Transaction
from taskman_server.kit.ids import is_id
from taskman_server.services.tasks.rules import PRIORITIES
from taskman_server.services.tasks.store.projects import members_of
from taskman_server.services.tasks.store.reads import TaskReads
from taskman_server.services.tasks.store.search import SearchIndex, fold, words
from taskman_server.services.tasks.store.tables import PROJECTS, TASK_ASSIGNEES, TASK_LABELS, TASKS, of_tenant

__all__ = ["TASK_FILTER", "TASK_FOUND", "TASK_POLICY", "TaskCache", "TaskStore"]

_COLUMNS: Final = [c for c in TASKS.c if c.name not in ("title_order", "priority_order")]
_MUTABLE: Final = (
    "title", "title_order", "description", "state", "priority", "priority_order", "labels", "assignees", "start_time",
    "due_time", "version", "update_time", "complete_time", "delete_time",
)  # fmt: skip
_TURN: Final = 50  # tasks written between two turns of the event loop

TaskCache = ReadCache[tuple[str, str], Row]
"""Tasks with their project's `visibility` and `members`, by organization and id or key."""

TASK_FOUND: Final = select(TASKS.c.seq, TASKS.c.version)
"""What a list reads of its tasks."""
_BY_SEQ: Final = Statement(
    select(*_COLUMNS).where(
        TASKS.c.seq.in_(bindparam("seqs", expanding=True)),
        # so that SQLite does not begin with all tasks of the organization
        (TASKS.c.organization == bindparam("organization")).is_(true()),
    )
)
# with what the decision needs of the project: one statement, two rows by primary key
_GET: Final = select(*_COLUMNS, PROJECTS.c.visibility, PROJECTS.c.members).join(PROJECTS)
_WITH_ID: Final = _GET.where(TASKS.c.id == bindparam("id"), TASKS.c.organization == bindparam("organization"))
_BY_ID: Final = Statement(_WITH_ID)
_BY_KEY: Final = Statement(
    _GET.where(TASKS.c.organization == bindparam("organization"), TASKS.c.key == bindparam("key"))
)
_LOCKED: Final = Statement(_WITH_ID.with_for_update(of=TASKS))
_EXTERNAL: Final = Statement(
    select(TASKS.c.external_id, TASKS.c.id, TASKS.c.key).where(
        TASKS.c.project == bindparam("project"),
        TASKS.c.external_id != "",
        TASKS.c.external_id.in_(bindparam("external_ids", expanding=True)),
        TASKS.c.organization == bindparam("organization"),
    )
)
_KEYS: Final = Statement(
    select(TASKS.c.key).where(
        TASKS.c.organization == bindparam("organization"), TASKS.c.key.in_(bindparam("keys", expanding=True))
    )
)
_INSERT: Final = Statement(
    insert(TASKS)
    .values({c.name: bindparam(c.name, type_=c.type) for c in TASKS.c if c.name != "seq"})
    .returning(TASKS.c.seq)
)
_UPDATE: Final = Statement(
    update(TASKS)
    .where(TASKS.c.seq == bindparam("task_seq"), TASKS.c.organization == bindparam("organization_id"))
    .values({name: bindparam(name, type_=TASKS.c[name].type) for name in _MUTABLE})
)
_LABEL_INSERT: Final = Statement(
    insert(TASK_LABELS).values({c.name: bindparam(c.name, type_=c.type) for c in TASK_LABELS.c})
)
_LABEL_DELETE: Final = Statement(
    delete(TASK_LABELS).where(TASK_LABELS.c.task == bindparam("task"), TASK_LABELS.c.label == bindparam("label"))
)
_ASSIGNEE_INSERT: Final = Statement(
    insert(TASK_ASSIGNEES).values({c.name: bindparam(c.name, type_=c.type) for c in TASK_ASSIGNEES.c})
)
_ASSIGNEE_DELETE: Final = Statement(
    delete(TASK_ASSIGNEES).where(TASK_ASSIGNEES.c.task == bindparam("task"), TASK_ASSIGNEES.c.user == bindparam("user"))
)


def _bag(element: Column[Any]) -> Collection:
    """The labels or assignees of a task, for conditions."""
    table = element.table
    return Collection.of_indexed_rows(element, table.c.task, TASKS.c.seq, of_tenant(table))


TASK_FILTER: Final[Mapping[str, Any]] = {
    **{
        name: TASKS.c[name]
        for name in (
            "id", "key", "project", "title", "description", "state", "priority", "start_time", "due_time", "creator",
            "create_time", "update_time", "complete_time", "delete_time", "external_id",
        )
    },
    "labels": _bag(TASK_LABELS.c.label),
    "assignees": _bag(TASK_ASSIGNEES.c.user),
}  # fmt: skip
"""What a filter can name, as SQL with the parameter `organization`."""
TASK_POLICY: Final[Mapping[str, Any]] = {
    **{f"resource.{name}": TASKS.c[name] for name in ("id", "project", "state", "priority", "creator")},
    # a subquery and not a join: it is looked up only where a policy asks, and leaves the order of the list to an index
    "resource.visibility": select(PROJECTS.c.visibility)
    .where(PROJECTS.c.id == TASKS.c.project)
    .correlate(TASKS)
    .scalar_subquery(),
    "resource.members": members_of(TASKS.c.project),
    "resource.editors": members_of(TASKS.c.project, "editor", "admin"),
    "resource.admins": members_of(TASKS.c.project, "admin"),
    "resource.labels": TASK_FILTER["labels"],
    "resource.assignees": TASK_FILTER["assignees"],
}
"""What a policy can name, as SQL with the parameter `organization`."""


class TaskStore:
    """Reads and writes tasks, with their rows of labels and assignees and their entry in the search."""

    def __init__(
        self, db: Database, index: SearchIndex, cache: TaskCache | None = None, reads: TaskReads | None = None
    ) -> None:
        """For reads outside of transactions, `cache` where nobody else writes to the database, `reads` elsewhere."""
        self._db = db
        self.index = index
        self._cache = cache
        self._reads = reads
        db.prepare(_BY_ID, _BY_KEY, _BY_SEQ, _LOCKED, _EXTERNAL, _INSERT, _UPDATE)
        db.prepare(_LABEL_INSERT, _LABEL_DELETE, _ASSIGNEE_INSERT, _ASSIGNEE_DELETE)

    async def by_seq(self, source: Executor, organization: str, seqs: Sequence[int]) -> list[Row]:
        """Tasks by their place in the table, in no order."""
        return await source.fetch_all(_BY_SEQ, organization=organization, seqs=seqs)

    async def get(self, organization: str, name: str, source: Executor | None = None) -> Row | None:
        """A task by id, or by key in any case, with its project's `visibility` and `members`; deleted ones too."""
        column, name = _named(name)
        statement = _BY_ID if column == "id" else _BY_KEY
        if self._reads is not None and source is None:
            return await self._reads.get(organization, column, name)
        cache = self._cache
        if cache is None or source is not None:
            return await (source or self._db).fetch_one(statement, organization=organization, **{column: name})
        if (row := cache.get((organization, name))) is None:
            changes = cache.changes
            row = await self._db.fetch_one(statement, organization=organization, **{column: name})
            if row is not None:
                cache.keep((organization, name), row, changes)
        return row

    def unchanged(self, organization: str, name: str, row: Row) -> Callable[[], bool] | None:
        """What tells whether `get` would answer this very row again; None where that cannot be known."""
        return partial(self._cache.holds, (organization, _named(name)[1]), row) if self._cache is not None else None

    async def get_for_update(self, tx: Transaction, organization: str, identifier: str) -> Row | None:
        """The same by id, where nobody else changes the task before the transaction ends."""
        return await tx.fetch_one(_LOCKED, organization=organization, id=identifier)

    async def external(
        self, project: Row, external_ids: Iterable[str], source: Executor | None = None
    ) -> dict[str, tuple[str, str]]:
        """Those of the external ids that the project knows, with the id and key of their task (TASK-9)."""
        wanted = list(external_ids)
        if not wanted:
            return {}
        rows = await (source or self._db).fetch_all(
            _EXTERNAL, project=project.id, organization=project.organization, external_ids=wanted
        )
        return {row.external_id: (row.id, row.key) for row in rows}

    async def taken(self, tx: Transaction, organization: str, keys: Iterable[str]) -> set[str]:
        """Those of the keys that a task has, in the trash or not."""
        wanted = list(keys)
        if not wanted:
            return set()
        return {row.key for row in await tx.fetch_all(_KEYS, organization=organization, keys=wanted)}

    async def insert(self, tx: Transaction, tasks: Sequence[Mapping[str, Any]]) -> None:
        """New tasks. The mappings hold the columns of `tasks` but `seq` and those that only sort.

        Raises:
            UniqueViolation: a key or an external id is taken.
        """
        labels: list[dict[str, Any]] = []
        assignees: list[dict[str, Any]] = []
        entries: list[dict[str, Any]] = []
        for index, values in enumerate(tasks):
            row = await tx.fetch_one(_INSERT, **values, **_order(values["title"], values["priority"]))
            assert row is not None
            owner = {"task": row.seq, "organization": values["organization"]}
            labels += [{**owner, "label": label} for label in values["labels"]]
            assignees += [{**owner, "user": user} for user in values["assignees"]]
            entries.append(_entry(row.seq, values["title"], values["description"], values["labels"], values["key"]))
            if index % _TURN == _TURN - 1:
                await asyncio.sleep(0)
        await tx.execute_many(_LABEL_INSERT, labels)
        await tx.execute_many(_ASSIGNEE_INSERT, assignees)
        await self.index.add(tx, entries)

    async def update(self, tx: Transaction, before: Row, after: Row) -> None:
        """Writes what changed between two versions of a row."""
        if self._cache is not None:
            self._cache.forget(tx, *[(before.organization, name) for name in (before.id, before.key)])
        order = _order(after.title, after.priority)
        values = {name: getattr(after, name) for name in _MUTABLE if name not in order}
        await tx.execute(_UPDATE, task_seq=before.seq, organization_id=before.organization, **values, **order)
        owner = {"task": before.seq, "organization": before.organization}
        for label in set(before.labels).difference(after.labels):
            await tx.execute(_LABEL_DELETE, task=before.seq, label=label)
        for label in set(after.labels).difference(before.labels):
            await tx.execute(_LABEL_INSERT, **owner, label=label)
        for user in set(before.assignees).difference(after.assignees):
            await tx.execute(_ASSIGNEE_DELETE, task=before.seq, user=user)
        for user in set(after.assignees).difference(before.assignees):
            await tx.execute(_ASSIGNEE_INSERT, **owner, user=user)
        if any(getattr(before, name) != getattr(after, name) for name in ("title", "description", "labels")):
            entry = _entry(before.seq, after.title, after.description, after.labels, after.key)
            await self.index.replace(tx, entry)


def _named(name: str) -> tuple[str, str]:
    """By which column a task is called, and how it stands there."""
    return ("id", name) if is_id(name, "task") else ("key", name.upper())


def _order(title: str, priority: str) -> dict[str, Any]:
    return {"title_order": fold(title), "priority_order": PRIORITIES[priority]}


def _entry(seq: int, title: str, description: str, labels: Sequence[str], key: str) -> dict[str, Any]:
    return {
        "seq": seq,
        "title": words(title),
        "description": words(description),
        "labels": words(" ".join(labels)),
        "key": words(key),
    }
