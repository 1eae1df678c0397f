"""Queries of the notification service. What a person or an organization asks is asked within its organization; the
worker alone looks at what is due in all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.dialects.postgresql import insert as upsert  # SQLite's compiler takes it too

from taskman_server.kit.db import Database, Executor, Row, Statement, Transaction
from taskman_server.services.notifications.outcome import Attempt, AttemptRow
from taskman_server.services.notifications.tables import ATTEMPTS, DELIVERIES, NOTIFICATIONS, RECIPIENTS, WEBHOOKS

__all__ = ["End", "NotificationStore"]

_ORGANIZATION: Final[sa.BindParameter[str]] = bindparam("organization")
_ID: Final[sa.BindParameter[str]] = bindparam("id")


def _one(table: sa.Table, *more: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(table).where(table.c.id == _ID, table.c.organization == _ORGANIZATION, *more)


_RECIPIENT = Statement(_one(RECIPIENTS))
_NEW_RECIPIENT = upsert(RECIPIENTS)
_RECIPIENT_KEEP = Statement(
    _NEW_RECIPIENT.on_conflict_do_update(
        index_elements=[RECIPIENTS.c.id],
        set_={
            name: _NEW_RECIPIENT.excluded[name]
            for name in ("organization", "email", "display_name", "locale", "active", "event_time")
        },
        where=RECIPIENTS.c.event_time <= _NEW_RECIPIENT.excluded.event_time,
    )
)

_NOTIFICATION = Statement(_one(NOTIFICATIONS, NOTIFICATIONS.c.user == bindparam("user")))
_NOTIFICATION_INSERT = Statement(sa.insert(NOTIFICATIONS))
_NOTIFICATION_READ = Statement(
    sa.update(NOTIFICATIONS)
    .where(
        NOTIFICATIONS.c.id == bindparam("key"),
        NOTIFICATIONS.c.organization == bindparam("owner"),
        NOTIFICATIONS.c.read_time.is_(None),
    )
    .values(read_time=bindparam("read_time"))
)

_WEBHOOK = Statement(_one(WEBHOOKS))
_WEBHOOK_FOR_UPDATE = Statement(_one(WEBHOOKS).with_for_update())
_WEBHOOK_INSERT = Statement(sa.insert(WEBHOOKS))
_WEBHOOK_UPDATE = Statement(
    sa.update(WEBHOOKS)
    .where(WEBHOOKS.c.id == bindparam("key"), WEBHOOKS.c.organization == bindparam("owner"))
    .values(
        {name: bindparam(name) for name in ("url", "event_types", "disabled", "description", "update_time")}
        | {"version": WEBHOOKS.c.version + 1}
    )
)
_WEBHOOK_DELETE = Statement(sa.delete(WEBHOOKS).where(WEBHOOKS.c.id == _ID, WEBHOOKS.c.organization == _ORGANIZATION))
_WEBHOOK_COUNT = Statement(
    sa.select(sa.func.count().label("count")).select_from(WEBHOOKS).where(WEBHOOKS.c.organization == _ORGANIZATION)
)
_WEBHOOK_URLS = Statement(sa.select(WEBHOOKS.c.id, WEBHOOKS.c.url).where(WEBHOOKS.c.organization == _ORGANIZATION))
_WEBHOOKS_ACTIVE = Statement(
    sa.select(WEBHOOKS.c.id, WEBHOOKS.c.url, WEBHOOKS.c.event_types).where(
        WEBHOOKS.c.organization == _ORGANIZATION, WEBHOOKS.c.disabled.is_(False)
    )
)

_DELIVERY = Statement(_one(DELIVERIES))
_DELIVERY_FOR_UPDATE = Statement(_one(DELIVERIES).with_for_update())
_DELIVERIES_FOR_UPDATE = Statement(
    # In one order everywhere: another process may be recording some of the same at this moment.
    sa.select(DELIVERIES)
    .where(DELIVERIES.c.id.in_(bindparam("deliveries", expanding=True)))
    .order_by(DELIVERIES.c.id)
    .with_for_update()
)
_DELIVERY_INSERT = Statement(sa.insert(DELIVERIES))
_DELIVERY_SEND = Statement(
    sa.update(DELIVERIES)
    .where(DELIVERIES.c.id == bindparam("key"), DELIVERIES.c.organization == bindparam("owner"))
    .values(state="pending", tries=0, next_attempt_time=bindparam("now"))
)


def _first_organization(*more: sa.ColumnElement[bool]) -> sa.ScalarSelect[Any]:
    pending = sa.select(sa.func.min(DELIVERIES.c.organization))
    return pending.where(
        DELIVERIES.c.state == "pending", DELIVERIES.c.channel == bindparam("channel"), *more
    ).scalar_subquery()


def _organizations_due() -> sa.Select[Any]:
    # From one organization to the next by index: however many deliveries each has, it costs two look-ups.
    first = sa.select(_first_organization().label("organization")).cte("organizations", recursive=True)
    following = _first_organization(DELIVERIES.c.organization > first.c.organization).label("organization")
    every = first.union_all(sa.select(following).where(first.c.organization.is_not(None)))
    due = sa.exists().where(
        DELIVERIES.c.state == "pending",
        DELIVERIES.c.channel == bindparam("channel"),
        DELIVERIES.c.organization == every.c.organization,
        DELIVERIES.c.next_attempt_time <= bindparam("now"),
    )
    return sa.select(every.c.organization).where(every.c.organization.is_not(None), due)


_ORGANIZATIONS_DUE = Statement(_organizations_due())
_RUNNING: Final[sa.BindParameter[Any]] = bindparam("running", expanding=True)
_DUE = Statement(
    sa.select(DELIVERIES, WEBHOOKS.c.url.label("webhook_url"))
    .join_from(
        DELIVERIES,
        WEBHOOKS,
        sa.and_(WEBHOOKS.c.id == DELIVERIES.c.webhook, WEBHOOKS.c.organization == DELIVERIES.c.organization),
        isouter=True,
    )
    .where(
        DELIVERIES.c.state == "pending",
        DELIVERIES.c.channel == bindparam("channel"),
        DELIVERIES.c.organization == _ORGANIZATION,
        DELIVERIES.c.next_attempt_time <= bindparam("now"),
        # One that is running is due only when its lease ran out before it ended.
        DELIVERIES.c.id.not_in(_RUNNING),
    )
    .order_by(DELIVERIES.c.next_attempt_time)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True, of=DELIVERIES)
)


def _due_beside() -> sa.Select[Any]:
    # The first of each other webhook by index: a long row that waits for a busy one is not gone through.
    waiting = DELIVERIES.alias("waiting")
    first = (
        sa.select(waiting.c.id)
        .where(
            waiting.c.state == "pending",
            waiting.c.webhook == WEBHOOKS.c.id,
            waiting.c.next_attempt_time <= bindparam("now"),
            waiting.c.id.not_in(_RUNNING),
        )
        .order_by(waiting.c.next_attempt_time)
        .limit(1)
        .correlate(WEBHOOKS)
        .scalar_subquery()
    )
    return (
        sa.select(DELIVERIES, WEBHOOKS.c.url.label("webhook_url"))
        .join_from(WEBHOOKS, DELIVERIES, DELIVERIES.c.id == first)
        .where(
            WEBHOOKS.c.organization == _ORGANIZATION,
            WEBHOOKS.c.id.not_in(bindparam("busy", expanding=True)),
            # Said again of the row itself: it is looked at once more when somebody else had it locked.
            DELIVERIES.c.state == "pending",
            DELIVERIES.c.next_attempt_time <= bindparam("now"),
        )
        .order_by(DELIVERIES.c.next_attempt_time)
        .limit(1)
        .with_for_update(skip_locked=True, of=DELIVERIES)
    )


_DUE_BESIDE = Statement(_due_beside())
_CLAIM = Statement(
    sa.update(DELIVERIES).where(DELIVERIES.c.id == bindparam("key")).values(next_attempt_time=bindparam("until"))
)
_NEXT_DUE = Statement(
    sa.select(sa.func.min(DELIVERIES.c.next_attempt_time).label("time")).where(
        DELIVERIES.c.state == "pending", DELIVERIES.c.next_attempt_time > bindparam("now")
    )
)
_FINISH = Statement(
    sa.update(DELIVERIES)
    .where(DELIVERIES.c.id == bindparam("key"))
    .values({name: bindparam(name) for name in ("state", "tries", "next_attempt_time", "recipient", "payload")})
)
_ATTEMPTS = Statement(
    sa.select(ATTEMPTS)
    .where(ATTEMPTS.c.delivery.in_(bindparam("deliveries", expanding=True)))
    .order_by(ATTEMPTS.c.delivery, ATTEMPTS.c.number)
)
_ATTEMPT_INSERT = Statement(sa.insert(ATTEMPTS))


@dataclass(frozen=True, slots=True)
class End:
    """What came of a delivery that was taken.

    Attributes:
        row: the delivery as it was taken.
        claim: until when.
        attempt: what was done.
        values: what becomes of the row's columns.
    """

    row: Row
    claim: datetime
    attempt: Attempt
    values: Mapping[str, Any]


class NotificationStore:
    """Everything the service keeps."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # people

    async def recipient(self, organization: str, user: str, tx: Executor | None = None) -> Row | None:
        """What is known of a user."""
        return await (tx or self._db).fetch_one(_RECIPIENT, organization=organization, id=user)

    async def keep_recipient(self, tx: Transaction, user: str, **values: Any) -> None:
        """Takes over what an event says of a user, unless something newer is known."""
        await tx.execute(_RECIPIENT_KEEP, id=user, **values)

    # the inbox

    async def notification(
        self, organization: str, user: str, identifier: str, tx: Transaction | None = None
    ) -> Row | None:
        """One entry of a user's inbox."""
        return await (tx or self._db).fetch_one(_NOTIFICATION, organization=organization, user=user, id=identifier)

    async def add_notification(self, tx: Transaction, **values: Any) -> None:
        """Puts an entry into an inbox."""
        await tx.execute(_NOTIFICATION_INSERT, read_time=None, **values)

    async def mark_read(self, tx: Transaction, organization: str, identifier: str, now: datetime) -> bool:
        """Notes when an entry was first read; False when that was noted before."""
        return await tx.execute(_NOTIFICATION_READ, key=identifier, owner=organization, read_time=now) == 1

    # webhooks

    async def webhook(self, organization: str, identifier: str) -> Row | None:
        """One webhook."""
        return await self._db.fetch_one(_WEBHOOK, organization=organization, id=identifier)

    async def webhook_for_update(self, tx: Transaction, organization: str, identifier: str) -> Row | None:
        """One webhook, kept from changing until the end of the transaction."""
        return await tx.fetch_one(_WEBHOOK_FOR_UPDATE, organization=organization, id=identifier)

    async def add_webhook(self, tx: Transaction, **values: Any) -> None:
        """Makes a webhook."""
        await tx.execute(_WEBHOOK_INSERT, version=1, **values)

    async def change_webhook(self, tx: Transaction, row: Row, now: datetime, **changes: Any) -> None:
        """Changes some of `url`, `event_types`, `disabled`, `description`."""
        values = {name: getattr(row, name) for name in ("url", "event_types", "disabled", "description")} | changes
        await tx.execute(_WEBHOOK_UPDATE, key=row.id, owner=row.organization, update_time=now, **values)

    async def remove_webhook(self, tx: Transaction, organization: str, identifier: str) -> None:
        """Deletes a webhook; its deliveries stay on record."""
        await tx.execute(_WEBHOOK_DELETE, organization=organization, id=identifier)

    async def count_webhooks(self, tx: Transaction, organization: str) -> int:
        """How many webhooks an organization has; nobody else makes one before the transaction ends."""
        await tx.take_turn(f"webhooks {organization}")
        row = await tx.fetch_one(_WEBHOOK_COUNT, organization=organization)
        assert row is not None
        return int(row.count)

    async def webhook_urls(self, tx: Transaction, organization: str) -> list[Row]:
        """Where each webhook of an organization goes."""
        return await tx.fetch_all(_WEBHOOK_URLS, organization=organization)

    async def active_webhooks(self, organization: str, executor: Executor | None = None) -> list[Row]:
        """The webhooks of an organization that are on."""
        return await (executor or self._db).fetch_all(_WEBHOOKS_ACTIVE, organization=organization)

    # deliveries

    async def delivery(self, organization: str, identifier: str) -> Row | None:
        """One delivery."""
        return await self._db.fetch_one(_DELIVERY, organization=organization, id=identifier)

    async def delivery_for_update(self, tx: Transaction, organization: str, identifier: str) -> Row | None:
        """One delivery, kept from changing until the end of the transaction."""
        return await tx.fetch_one(_DELIVERY_FOR_UPDATE, organization=organization, id=identifier)

    async def add_delivery(self, tx: Transaction, now: datetime, **values: Any) -> None:
        """Makes a delivery that is due now."""
        await tx.execute(_DELIVERY_INSERT, state="pending", next_attempt_time=now, create_time=now, tries=0, **values)

    async def send_again(self, tx: Transaction, row: Row, now: datetime) -> None:
        """Makes a delivery due now, with all its tries before it."""
        await tx.execute(_DELIVERY_SEND, key=row.id, owner=row.organization, now=now)

    async def attempts(self, deliveries: Sequence[str], executor: Executor | None = None) -> dict[str, list[Row]]:
        """The attempts of some deliveries, oldest first."""
        found: dict[str, list[Row]] = {identifier: [] for identifier in deliveries}
        if deliveries:
            for row in await (executor or self._db).fetch_all(_ATTEMPTS, deliveries=list(deliveries)):
                found[row.delivery].append(row)
        return found

    async def organizations_due(self, channel: str, now: datetime) -> list[str]:
        """The organizations with deliveries over a channel that are due."""
        rows = await self._db.fetch_all(_ORGANIZATIONS_DUE, channel=channel, now=now)
        return [row.organization for row in rows]

    def claiming(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction for `claim`. A claim that a power cut takes back is made again: it does not wait for the
        disk."""
        return self._db.transaction(durable=False)

    async def claim(
        self,
        tx: Transaction,
        channel: str,
        organization: str,
        now: datetime,
        lease: timedelta,
        *,
        running: Collection[str],
        busy: Collection[str] = (),
        limit: int = 1,
    ) -> list[Row]:
        """Takes the deliveries of an organization that are due longest; nobody else gets them before the lease has run
        out.

        None that is `running`, nor to a `busy` webhook; with `busy` ones it takes one at most, and what is left of
        deleted webhooks waits. `webhook_url` is where it goes now; None when its webhook was deleted, and for mails.
        """
        common: dict[str, Any] = {"organization": organization, "now": now, "running": list(running)}
        if busy:
            rows = await tx.fetch_all(_DUE_BESIDE, busy=list(busy), **common)
        else:
            rows = await tx.fetch_all(_DUE, channel=channel, limit=limit, **common)
        if rows:
            await tx.execute_many(_CLAIM, [{"key": row.id, "until": now + lease} for row in rows])
        return rows

    async def next_due(self, now: datetime) -> datetime | None:
        """When the next delivery is due that is not due yet."""
        row = await self._db.fetch_one(_NEXT_DUE, now=now)
        return None if row is None else row.time

    async def finish(self, tx: Transaction, ends: Sequence[End]) -> list[tuple[Row, list[AttemptRow]] | None]:
        """Records attempts, at most one of each delivery, and what becomes of the deliveries: each as it is then with
        all its attempts, oldest first, or None when it was no longer ours."""
        # Locked first: who had one before us may be recording at this moment, and attempts are numbered.
        identifiers = [end.row.id for end in ends]
        locked = {row.id: row for row in await tx.fetch_all(_DELIVERIES_FOR_UPDATE, deliveries=identifiers)}
        attempts: dict[str, list[AttemptRow]] = {k: [*v] for k, v in (await self.attempts(identifiers, tx)).items()}
        made, finished = [], []
        found: list[tuple[Row, list[AttemptRow]] | None] = []
        for end in ends:
            row, all_of_it = locked.get(end.row.id), attempts[end.row.id]
            place = {"delivery": end.row.id, "organization": end.row.organization, "number": len(all_of_it) + 1}
            made.append(place | end.attempt._asdict())
            all_of_it.append(end.attempt)
            # Not when somebody else took it over or sent it off anew meanwhile.
            if row is None or row.state != "pending" or row.next_attempt_time != end.claim:
                found.append(None)
                continue
            finished.append({"key": row.id, **end.values})
            found.append((row._replace(**end.values), all_of_it))
        await tx.execute_many(_ATTEMPT_INSERT, made)
        await tx.execute_many(_FINISH, finished)
        return found

    # lists

    async def page(
        self,
        table: sa.Table,
        conditions: Sequence[sa.ColumnElement[bool]],
        order: Sequence[sa.ColumnElement[Any]],
        limit: int,
    ) -> list[Row]:
        """Rows of a table that meet all conditions."""
        return await self._db.fetch_all(sa.select(table).where(*conditions).order_by(*order).limit(limit))
