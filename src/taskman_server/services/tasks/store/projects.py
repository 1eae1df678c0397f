"""Projects: statements and store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, bindparam, delete, insert, or_, select, update

from taskman_server.kit.cache import ReadCache
from taskman_server.kit.cel import Collection
from taskman_server.kit.db import Database, Executor, Row, Statement, Transaction
from taskman_server.kit.ids import is_id
from taskman_server.services.tasks.store.tables import MEMBERS, PROJECTS, of_tenant

__all__ = ["PROJECT_FILTER", "PROJECT_POLICY", "PROJECT_SELECT", "ProjectCache", "ProjectStore", "members_of"]

_MUTABLE: Final = ("display_name", "description", "visibility", "members", "version", "update_time")
PROJECT_SELECT: Final = select(PROJECTS)
_WITH_ID: Final = PROJECT_SELECT.where(
    PROJECTS.c.id == bindparam("id"), PROJECTS.c.organization == bindparam("organization")
)
_BY_ID: Final = Statement(_WITH_ID)
_LOCKED: Final = Statement(_WITH_ID.with_for_update())
_BY_KEY: Final = Statement(
    PROJECT_SELECT.where(PROJECTS.c.organization == bindparam("organization"), PROJECTS.c.key == bindparam("key"))
)
_INSERT: Final = Statement(insert(PROJECTS).values({c.name: bindparam(c.name, type_=c.type) for c in PROJECTS.c}))
_UPDATE: Final = Statement(
    update(PROJECTS)
    .where(PROJECTS.c.id == bindparam("project_id"), PROJECTS.c.organization == bindparam("organization_id"))
    .values({name: bindparam(name, type_=PROJECTS.c[name].type) for name in _MUTABLE})
)
_ALLOT: Final = Statement(
    update(PROJECTS)
    .where(PROJECTS.c.id == bindparam("project_id"), PROJECTS.c.organization == bindparam("organization_id"))
    .values(last_number=PROJECTS.c.last_number + bindparam("count", type_=PROJECTS.c.last_number.type))
    .returning(PROJECTS.c.last_number, PROJECTS.c.version)
)
_RESERVE: Final = Statement(
    update(PROJECTS)
    .where(
        PROJECTS.c.id == bindparam("project_id"),
        PROJECTS.c.organization == bindparam("organization_id"),
        PROJECTS.c.last_number < bindparam("number", type_=PROJECTS.c.last_number.type),
    )
    .values(last_number=bindparam("number", type_=PROJECTS.c.last_number.type))
)
_MEMBER_INSERT: Final = Statement(insert(MEMBERS).values({c.name: bindparam(c.name, type_=c.type) for c in MEMBERS.c}))
_MEMBER_DELETE: Final = Statement(
    delete(MEMBERS).where(
        MEMBERS.c.project == bindparam("project"),
        MEMBERS.c.user == bindparam("user"),
        MEMBERS.c.organization == bindparam("organization"),
    )
)


def members_of(project: ColumnElement[str], *roles: str) -> Collection:
    """The users with one of the roles (any, for none) in the project with the id `project`, for conditions.

    The organization (a parameter of this name) says nothing new, but leads to the index from a user to their projects.
    """
    where = [of_tenant(MEMBERS)]
    if roles:
        # no IN: its list would be written into the text of every statement anew
        where.append(or_(*(MEMBERS.c.role == role for role in roles)))
    return Collection.of_indexed_rows(MEMBERS.c.user, MEMBERS.c.project, project, *where)


PROJECT_FILTER: Final = {
    name: PROJECTS.c[name]
    for name in ("id", "key", "display_name", "description", "visibility", "create_time", "update_time")
}


PROJECT_POLICY: Final[Mapping[str, Any]] = {
    "resource.id": PROJECTS.c.id,
    "resource.key": PROJECTS.c.key,
    "resource.visibility": PROJECTS.c.visibility,
    "resource.members": members_of(PROJECTS.c.id),
    "resource.editors": members_of(PROJECTS.c.id, "editor", "admin"),
    "resource.admins": members_of(PROJECTS.c.id, "admin"),
}
"""What a policy can name of a project, as SQL with the parameter `organization`."""


ProjectCache = ReadCache[tuple[str, str], Row]
"""Projects by organization and id or key. Their `last_number` may be an older one: see `ProjectStore.allot`."""


class ProjectStore:
    """Reads and writes projects. Reads go to the database, or to the transaction that is given."""

    def __init__(
        self, db: Database, cache: ProjectCache | None = None, changed: Callable[[Transaction], None] | None = None
    ) -> None:
        """`cache`: for reads outside of transactions, where nobody else writes to the database. `changed` is told
        of each transaction that changes a project, or who is a member of it."""
        self._db = db
        self._cache = cache
        self._changed = changed
        db.prepare(_BY_ID, _BY_KEY, _LOCKED, _INSERT, _UPDATE, _ALLOT, _RESERVE, _MEMBER_INSERT, _MEMBER_DELETE)

    async def get(self, organization: str, name: str, source: Executor | None = None) -> Row | None:
        """A project by id, or by key in any case."""
        statement, column = _BY_ID, "id"
        if not is_id(name, "project"):
            statement, column, name = _BY_KEY, "key", name.upper()
        cache = self._cache
        if cache is None or source is not None:
            return await (source or self._db).fetch_one(statement, organization=organization, **{column: name})
        if (row := cache.get((organization, name))) is None:
            changes = cache.changes
            row = await self._db.fetch_one(statement, organization=organization, **{column: name})
            if row is not None:
                cache.keep((organization, name), row, changes)
        return row

    async def get_for_update(self, tx: Transaction, organization: str, identifier: str) -> Row | None:
        """A project by id, where nobody else changes it or takes numbers from it before the transaction ends."""
        return await tx.fetch_one(_LOCKED, organization=organization, id=identifier)

    async def insert(self, tx: Transaction, values: Mapping[str, Any]) -> Row:
        """A new project with its members.

        Raises:
            UniqueViolation: the key is taken.
        """
        await tx.execute(_INSERT, **values)
        for user, role in values["members"].items():
            await self._insert_member(tx, values["id"], values["organization"], user, role)
        row = await self.get(values["organization"], values["id"], tx)
        assert row is not None
        return row

    async def update(self, tx: Transaction, before: Row, after: Row) -> None:
        """Writes what changed, members included."""
        if self._cache is not None:
            self._cache.forget(tx, *[(before.organization, name) for name in (before.id, before.key)])
        if self._changed is not None:
            self._changed(tx)
        await tx.execute(
            _UPDATE,
            project_id=before.id,
            organization_id=before.organization,
            **{name: getattr(after, name) for name in _MUTABLE},
        )
        for user, role in before.members.items():
            if after.members.get(user) != role:
                await tx.execute(_MEMBER_DELETE, project=before.id, user=user, organization=before.organization)
        for user, role in after.members.items():
            if before.members.get(user) != role:
                await self._insert_member(tx, before.id, before.organization, user, role)

    async def allot(self, tx: Transaction, project: Row, count: int) -> tuple[int, Row]:
        """Takes `count` numbers for task keys: the first of them, and the project as it is now, which nobody else
        changes before the transaction ends. Numbers only grow (TASK-1)."""
        row = await tx.fetch_one(_ALLOT, project_id=project.id, organization_id=project.organization, count=count)
        assert row is not None, "a project is never deleted"
        if row.version != project.version:
            current = await self.get(project.organization, project.id, tx)
            assert current is not None, "a project is never deleted"
            project = current
        return int(row.last_number) - count + 1, project

    async def reserve(self, tx: Transaction, project: Row, number: int) -> None:
        """Numbers go on above `number`, which a task has brought along (TASK-9)."""
        await tx.execute(_RESERVE, project_id=project.id, organization_id=project.organization, number=number)

    @staticmethod
    async def _insert_member(tx: Transaction, project: str, organization: str, user: str, role: str) -> None:
        await tx.execute(_MEMBER_INSERT, project=project, organization=organization, user=user, role=role)
