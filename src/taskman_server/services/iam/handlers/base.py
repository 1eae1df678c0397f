"""What the handlers of roles, policies and assignments share: lists, and whether one may give what one gives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import sqlalchemy as sa

from taskman_sdk import codec
from taskman_sdk.proto.taskman.authorization.v1.authorization_pb import PlanKind
from taskman_sdk.proto.taskman.iam.v1.iam_pb import Policy
from taskman_server.kit import filters
from taskman_server.kit.cel import Collection as SqlCollection
from taskman_server.kit.cel import Environment
from taskman_server.kit.db import Row, Transaction
from taskman_server.kit.paging import page_size
from taskman_server.kit.rpc import Call, Runtime
from taskman_server.services.iam import defaults, rules
from taskman_server.services.iam.convert import policy_of
from taskman_server.services.iam.store import POLICIES, ROLES, IamStore

__all__ = ["Base", "Listing"]

M = TypeVar("M", bound="codec.Message[Any]")


class _ListRequest(Protocol):
    @property
    def page_size(self) -> int: ...
    @property
    def page_token(self) -> str: ...
    @property
    def filter(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Listing(Generic[M]):
    """How one kind is listed: the system's own first, then rows by id.

    Attributes:
        table: its rows.
        environment: what a filter can name.
        columns: those names as columns.
        resource: what policies can name, as columns.
        system: what every organization has.
        message_of: a row as a message.
        values_of: a message as a filter sees it.
        resource_of: a message as a policy sees it.
    """

    table: sa.Table
    environment: Environment
    columns: Mapping[str, sa.ColumnElement[Any] | SqlCollection]
    resource: Mapping[str, sa.ColumnElement[Any] | SqlCollection]
    system: tuple[M, ...]
    message_of: Callable[[Row], M]
    values_of: Callable[[M], Mapping[str, Any]]
    resource_of: Callable[[M], Mapping[str, Any]]


class Base:
    """Store and runtime, and what all three kinds need."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.store = IamStore(runtime.db)

    async def _list(self, listing: Listing[M], request: _ListRequest, call: Call) -> tuple[list[M], str]:
        """One page, and the token of the next; only what the caller may read (AUTHZ-5)."""
        program = filters.compile_filter(listing.environment, request.filter)
        scope = await call.scope()
        organization = call.principal.organization
        query = {"method": call.method.name, "organization": organization, "filter": request.filter}
        seen, after = self._position(request.page_token, query)
        if scope.denied:
            return [], ""
        limit = page_size(request.page_size)
        now = {"now": call.now}
        found: list[tuple[list[int | str], M]] = []
        for index, message in enumerate(listing.system[seen:], seen):
            allowed = scope.program is None or scope.program.test(
                {"resource": listing.resource_of(message), **scope.constants}
            )
            if allowed and (program is None or program.test({**listing.values_of(message), **now})):
                found.append(([index + 1, ""], message))
        if len(found) <= limit:
            conditions = [] if scope.program is None else [scope.program.plan(listing.resource, scope.constants)]
            if program is not None:
                conditions.append(filters.plan_filter(program, listing.columns, call.now))
            rows = await self.store.page(listing.table, organization, conditions, after, limit + 1 - len(found))
            found += [([len(listing.system), row.id], listing.message_of(row)) for row in rows]
        token = self.runtime.pager.encode(query, found[limit - 1][0]) if len(found) > limit else ""
        return [message for _, message in found[:limit]], token

    def _position(self, token: str, query: Mapping[str, Any]) -> tuple[int, str]:
        if not token:
            return 0, ""
        seen, after = self.runtime.pager.decode(token, query)
        assert isinstance(seen, int)
        assert isinstance(after, str)
        return seen, after

    async def _check_may_give(self, call: Call, given: Collection[str], what: str, verb: str = "gives") -> None:
        """Refuses to give what the caller does not hold; administrators may give everything."""
        if not given or call.principal.type == "service" or await self._is_admin(call):
            return
        held = []
        for permission in sorted(given):
            scope = await call.scope(permission)
            if scope.kind is PlanKind.ALWAYS_ALLOWED:
                held.append(permission)
        rules.check_grants(given, held, what, verb)

    async def _is_admin(self, call: Call) -> bool:
        rows = await self.store.assignments_of(call.principal.organization, call.principal.id)
        return any(row.role == defaults.ADMIN and rules.live(row.expire_time, call.now) for row in rows)

    async def _role_names(self, organization: str, tx: Transaction | None = None) -> set[str]:
        rows = await self.store.all(ROLES, organization, tx)
        return {row.name for row in rows} | {role.name for role in defaults.ROLES}

    async def _policies(self, organization: str, tx: Transaction | None = None) -> list[Policy]:
        """The system's policies and the organization's own."""
        return [*defaults.POLICIES, *map(policy_of, await self.store.all(POLICIES, organization, tx))]
