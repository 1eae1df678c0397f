"""Keeping the copy true: events in any order, snapshots, and what decisions are read from (AUTHZ-4).

An event is applied at once, wherever it stands in the order; each row takes only what is newer than itself. Where
versions are missing in between, a snapshot of the IAM Admin service fills the gap. A snapshot is also taken when an
organization is first asked about in this process (the system's own roles may be those of another release), and when
somebody without any role asks, whose first assignment may still be on its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from taskman_sdk.errors import TaskManError, UnavailableError
from taskman_sdk.proto.taskman.iam.v1.iam_pb import Assignment, Effect, GetSnapshotRequest, Policy, Role, Snapshot
from taskman_server.kit.db import Transaction
from taskman_server.kit.guard import CHANGED
from taskman_server.kit.rpc import Runtime
from taskman_server.services.authorization.rulebook_cache import RulebookCache
from taskman_server.services.authorization.rules import Plan, Rulebook, make_plan
from taskman_server.services.authorization.store import ASSIGNMENTS, POLICIES, ROLES, AuthorizationStore, State

__all__ = ["Copy", "Keeper", "Standing"]

MISS_PAUSE: Final = 1.0
FAILURE_PAUSE: Final = 1.0
GAP_GRACE: Final = 0.1
MOST_AHEAD: Final = 1000
BOOKS: Final = 1000
PLANS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Standing:
    """What a principal is, when it is decided: its roles, and the rules of its organization.

    `key` names the state of the copy that the rules were read from. `ends`: when the first of the roles ends by itself.
    `since`: the generation of the copy before any of this was read.
    """

    roles: tuple[str, ...]
    book: Rulebook
    version: int
    key: tuple[str, int]
    ends: datetime | None
    since: int


def row_of(message: Role | Policy | Assignment) -> tuple[sa.Table, dict[str, Any]]:
    """The table and values of what an event or a snapshot holds."""
    if isinstance(message, Role):
        return ROLES, {"name": message.name, "permissions": list(message.permissions)}
    if isinstance(message, Policy):
        return POLICIES, {
            "name": message.name,
            # anything but a plain grant is read as a denial
            "allow": message.effect is Effect.ALLOW,
            "roles": list(message.roles),
            "permissions": list(message.permissions),
            "condition": message.condition,
        }
    expires = message.expire_time.to_datetime() if message.expire_time is not None else None
    return ASSIGNMENTS, {"principal": message.principal, "role": message.role, "expire_time": expires}


class Copy:
    """The copy of one process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._store = AuthorizationStore(runtime.db)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._checked: set[str] = set()
        self._not_before: dict[tuple[str, str], float] = {}
        self._books: dict[tuple[str, int], Rulebook] = {}
        self._plans: dict[tuple[str, int, tuple[str, ...], str], Plan] = {}
        self._shared = RulebookCache(runtime.redis, runtime.telemetry) if runtime.redis is not None else None
        self.gaps: asyncio.Queue[str] = asyncio.Queue()

    async def standing(self, organization: str, principal: str) -> Standing:
        """The roles of a principal that hold now, and the rules they are read by.

        Raises:
            UnavailableError: nothing is known of the organization, and the IAM Admin service does not answer.
        """
        state = await self._store.state(organization)
        if state is None or not state.loaded or state.ahead or organization not in self._checked:
            state = await self._catch_up(organization, state)
        roles, ends = await self._roles(organization, principal)
        if not roles and self._due(organization, principal, MISS_PAUSE):
            try:
                await self.refresh(organization, anew=True)
            except TaskManError as error:
                self._log_failure(organization, error)
            state = await self._store.state(organization) or state
            roles, ends = await self._roles(organization, principal)
        since = state.generation
        state, book = await self._book(organization, state)
        known = tuple(name for name in roles if name in book.roles)
        return Standing(known, book, state.latest, (organization, state.generation), ends, since)

    def plan(self, standing: Standing, permission: str) -> Plan:
        """What the rights come to; worked out once for everybody with the same roles."""
        key = (*standing.key, standing.roles, permission)
        plan = self._plans.get(key)
        if plan is None:
            plan = make_plan(standing.book, standing.roles, permission)
            if plan.problem:
                self._runtime.telemetry.log.error(
                    "policies cannot be decided", organization=key[0], permission=permission, problem=plan.problem
                )
            if len(self._plans) >= PLANS:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    async def apply(
        self, tx: Transaction, organization: str, message: Role | Policy | Assignment, version: int, *, gone: bool
    ) -> None:
        """Takes over one change, told by an event; twice or in any order comes to the same.

        Args:
            tx: the transaction of the event.
            organization: the tenant.
            message: the role, policy or assignment as it is now, or was when deleted.
            version: the organization's version after the change.
            gone: it was deleted.
        """
        await self._store.lock(tx, organization)
        before = await self._store.state(organization, tx)
        state = before or State()
        if version <= state.version or version in state.ahead:
            return
        table, values = row_of(message)
        await self._store.put(tx, table, organization, message.id, version, gone=gone, **values)
        after = _advanced(state, [*state.ahead, version])
        await self._store.set_state(tx, organization, before, after)
        self._tell(tx, organization)
        if after.ahead:
            tx.on_commit(lambda: self.gaps.put_nowait(organization))
        elif gone or state.ahead:
            await self._store.forget_gone(tx, organization, after.version)

    async def refresh(self, organization: str, *, anew: bool = False) -> None:
        """Takes a snapshot. Several who ask at once share one; with `anew`, one that began after this call.

        Raises:
            TaskManError: the IAM Admin service does not answer.
        """
        running = self._running.get(organization)
        if running is not None and anew:
            await asyncio.wait([running])
            running = self._running.get(organization)
        if running is None:
            running = self._running[organization] = asyncio.create_task(self._refresh(organization))
            running.add_done_callback(lambda _: self._running.pop(organization, None))
        await asyncio.shield(running)

    async def has_gap(self, organization: str) -> bool:
        """Whether versions are missing in between."""
        state = await self._store.state(organization)
        return state is not None and bool(state.ahead)

    async def _refresh(self, organization: str) -> None:
        while True:
            at = await self._store.state(organization)
            context = self._runtime.context(organization)
            request = GetSnapshotRequest(organization=organization)
            snapshot = await context.peer("IamAdminService.GetSnapshot", request, Snapshot)
            news = at is None or not at.loaded or bool(at.ahead) or at.version != snapshot.version
            if organization in self._checked and not news:
                return
            if await self._take(organization, snapshot, at):
                self._checked.add(organization)
                return

    async def _take(self, organization: str, snapshot: Snapshot, at: State | None) -> bool:
        """Puts a snapshot in place; False when the copy has overtaken it meanwhile."""
        known = at.version if at is not None else 0
        async with self._runtime.db.transaction() as tx:
            await self._store.lock(tx, organization)
            before = await self._store.state(organization, tx)
            state = before or State()
            if snapshot.version < known:
                # IAM was put back to an earlier state, for example from a backup. What it says is so.
                await self._store.clear(tx, organization)
                state = replace(state, ahead=())
            elif snapshot.version < state.version:
                return False
            tables: dict[sa.Table, list[dict[str, Any]]] = {ROLES: [], POLICIES: [], ASSIGNMENTS: []}
            messages: Iterable[Role | Policy | Assignment]
            for messages in (snapshot.roles, snapshot.policies, snapshot.assignments):
                for message in messages:
                    table, values = row_of(message)
                    tables[table].append({"id": message.id, **values})
            for table, rows in tables.items():
                await self._store.replace(tx, table, organization, snapshot.version, rows)
            after = _advanced(replace(state, version=snapshot.version, loaded=True), state.ahead)
            await self._store.set_state(tx, organization, before, after)
            self._tell(tx, organization)
            await self._store.forget_gone(tx, organization, after.version)
        return True

    def _tell(self, tx: Transaction, organization: str) -> None:
        """Tells whoever remembers decisions that they are to be made anew (see `kit.guard`)."""
        redis = self._runtime.redis
        if redis is not None:
            tx.on_commit(lambda: redis.soon(redis.publish(CHANGED, organization)))

    async def _catch_up(self, organization: str, state: State | None) -> State:
        usable = state is not None and state.loaded
        if not usable or self._due(organization, "", FAILURE_PAUSE):
            try:
                await self.refresh(organization)
            except TaskManError as error:
                self._log_failure(organization, error)
                if not usable:
                    raise UnavailableError(
                        "Rights cannot be decided: the IAM Admin service does not answer. Try again.",
                        reason="RIGHTS_UNKNOWN",
                        retry_after=1,
                    ) from error
            else:
                self._not_before.pop((organization, ""), None)
        found = await self._store.state(organization)
        assert found is not None
        return found

    async def _roles(self, organization: str, principal: str) -> tuple[list[str], datetime | None]:
        now = self._runtime.clock.now()
        found = await self._store.held(organization, principal)
        held = {role: expires for role, expires in found if expires is None or expires > now}
        return sorted(held), min((expires for expires in held.values() if expires is not None), default=None)

    async def _book(self, organization: str, state: State) -> tuple[State, Rulebook]:
        """The rules in this state of the copy, or in a later one; with the state that they are of."""
        while (book := self._books.get((organization, state.generation))) is None:
            if self._shared is not None:
                book = await self._shared.get(organization, state.generation)
                if book is not None:
                    self._remember(organization, state, book)
                    break
            read = await self._store.rulebook(organization)
            now = await self._store.state(organization)
            assert now is not None, "a copy is never dropped"
            if now.generation == state.generation:
                self._remember(organization, state, read)
                if self._shared is not None:
                    self._shared.keep(organization, state.generation, read)
            state = now  # another process may have changed it between two reads: what was read then is of no state
        return state, book

    def _remember(self, organization: str, state: State, book: Rulebook) -> None:
        if len(self._books) >= BOOKS:
            self._books.clear()
        self._books[organization, state.generation] = book

    def _due(self, organization: str, principal: str, pause: float) -> bool:
        """Whether this may be asked of IAM again; if so, not again before `pause` seconds have passed."""
        now = self._runtime.clock.monotonic()
        if self._not_before.get((organization, principal), now) > now:
            return False
        if len(self._not_before) >= PLANS:
            self._not_before.clear()
        self._not_before[organization, principal] = now + pause
        return True

    def _log_failure(self, organization: str, error: TaskManError) -> None:
        self._runtime.telemetry.log.warning(
            "no snapshot of roles and policies", organization=organization, reason=error.reason
        )


def _advanced(state: State, ahead: Iterable[int]) -> State:
    """The state with these versions in it, those that now follow without a gap counted in."""
    version = state.version
    rest = sorted({each for each in ahead if each > version})
    while rest and rest[0] == version + 1:
        version = rest.pop(0)
    return replace(state, version=version, ahead=tuple(rest[:MOST_AHEAD]), generation=state.generation + 1)


class Keeper:
    """Fills gaps that no event has filled."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            waiting = {await self._copy.gaps.get()}
            # What is missing is mostly on its way already.
            await asyncio.sleep(GAP_GRACE)
            while not self._copy.gaps.empty():
                waiting.add(self._copy.gaps.get_nowait())
            for organization in waiting:
                try:
                    if await self._copy.has_gap(organization):
                        await self._copy.refresh(organization, anew=True)
                except TaskManError:
                    self._copy.gaps.put_nowait(organization)
                    await asyncio.sleep(FAILURE_PAUSE)
