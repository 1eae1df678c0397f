"""What all lists of this service share: filter, policy, page (AUTHZ-5, AIP-158)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from taskman_sdk import codec
from taskman_server.kit.cel import Collection, Environment
from taskman_server.kit.db import Row
from taskman_server.kit.filters import compile_filter, list_environment, plan_filter
from taskman_server.kit.guard import Scope
from taskman_server.kit.paging import Keyset, SortKey, page, page_size
from taskman_server.kit.rpc.call import Call
from taskman_server.services.notifications.store import NotificationStore

__all__ = ["Listing"]


class Listing:
    """A list over one table, by id: ids are in the order of their making."""

    def __init__(
        self,
        table: sa.Table,
        message: type[codec.Message[Any]],
        *,
        newest_first: bool,
        exclude: Sequence[str] = (),
        policy: Mapping[str, sa.ColumnElement[Any]] | None = None,
    ) -> None:
        """Args:
        table: the rows.
        message: what they are answered as; its fields are what a filter can name.
        newest_first: the order.
        exclude: fields that a filter cannot name.
        policy: the columns of `resource.…` in policies.
        """
        self._table = table
        self._environment: Environment = list_environment(message, exclude=exclude)
        self._columns: dict[str, sa.ColumnElement[Any] | Collection] = {
            name: Collection.of_json(table.c[name]) if kind.kind == "list" else table.c[name]
            for name, kind in self._environment.variables.items()
            if name != "now"
        }
        self._policy = policy or {}
        self._keyset = Keyset(SortKey(table.c.id, newest_first))

    async def page(
        self,
        store: NotificationStore,
        call: Call,
        request: Any,
        conditions: Sequence[sa.ColumnElement[bool]] = (),
        scope: Scope | None = None,
    ) -> tuple[Sequence[Row], str]:
        """The rows of a page, and the token of the next one.

        Args:
            store: where the rows are.
            call: who asks.
            request: has `filter`, `page_size` and `page_token`.
            conditions: what every row must meet beside belonging to the caller's organization.
            scope: the caller's rights, where a permission is needed.

        Raises:
            InvalidArgumentError: filter or token cannot be used.
        """
        principal = call.principal
        where: list[sa.ColumnElement[bool]] = [self._table.c.organization == principal.organization, *conditions]
        query = {
            "list": self._table.name,
            "organization": principal.organization,
            "principal": principal.id,
            "filter": request.filter,
        }
        program = compile_filter(self._environment, request.filter)
        if program is not None:
            where.append(plan_filter(program, self._columns, call.now))
        if request.page_token:
            where.append(self._keyset.after(call.runtime.pager.decode(request.page_token, query)))
        if scope is not None and scope.denied:
            return [], ""
        if scope is not None and scope.program is not None:
            where.append(scope.program.plan(self._policy, scope.constants))
        size = page_size(request.page_size)
        rows, more = page(await store.page(self._table, where, self._keyset.order_by(), size + 1), size)
        token = call.runtime.pager.encode(query, self._keyset.values(rows[-1])) if more else ""
        return rows, token
