"""The tables and statements of the embedded broker."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.schema import CreateIndex, CreateTable

from taskman_server.kit.broker.lanes import Item
from taskman_server.kit.db import Database, JsonText, Statement, UtcTimestamp

_METADATA = sa.MetaData()

QUEUES = sa.Table(
    "queues",
    _METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("bindings", JsonText, nullable=False),
    sa.Column("delivery_limit", sa.Integer, nullable=False),
)

MESSAGES = sa.Table(
    "messages",
    _METADATA,
    # AUTOINCREMENT: a number is never used again, else a message could come to stand before the read position.
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("redriven", sa.Boolean, nullable=False),
    sa.Column("time", UtcTimestamp, nullable=False),
    sa.UniqueConstraint("queue", "event_id"),
    sa.Index("messages_queue", "queue"),  # SQLite appends the rowid, which is the sequence
    sqlite_autoincrement=True,
)

DEAD = sa.Table(
    "dead_letters",
    _METADATA,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("time", UtcTimestamp, nullable=False),
    sa.UniqueConstraint("queue", "event_id"),
    sqlite_autoincrement=True,
)

_put_queue = insert(QUEUES).values({name: bindparam(name) for name in ("name", "bindings", "delivery_limit")})
ALL_QUEUES = Statement(sa.select(QUEUES).order_by(QUEUES.c.name))
PUT_QUEUE = Statement(
    _put_queue.on_conflict_do_update(
        index_elements=["name"],
        set_={"bindings": _put_queue.excluded.bindings, "delivery_limit": _put_queue.excluded.delivery_limit},
    )
)
DELETE_QUEUE = Statement(sa.delete(QUEUES).where(QUEUES.c.name == bindparam("name")))

_MESSAGE = ("sequence", "queue", "event_id", "name", "key", "body", "attempts", "redriven", "time")
_DEAD = ("queue", "event_id", "name", "key", "body", "attempts", "reason", "time")


def _listed(column: sa.Column[Any], parameter: str) -> sa.ColumnElement[bool]:
    # One text for lists of any length: json_each reads the parameter.
    values = sa.func.json_each(bindparam(parameter, type_=JsonText)).table_valued("value")
    return column.in_(sa.select(values.c.value))


PUT_MESSAGE = Statement(
    insert(MESSAGES)
    .values({name: bindparam(name) for name in _MESSAGE})
    .on_conflict_do_nothing(index_elements=["queue", "event_id"])
)
"""A message into a queue, unless it is there already."""
LAST_SEQUENCE = Statement(
    sa.select(sa.column("seq", sa.Integer))
    .select_from(sa.table("sqlite_sequence"))
    .where(sa.column("name") == "messages")
)
NEXT = Statement(
    sa.select(MESSAGES)
    .where(MESSAGES.c.queue == bindparam("queue"), MESSAGES.c.sequence > bindparam("after"))
    .order_by(MESSAGES.c.sequence)
    .limit(bindparam("limit"))
)
COUNT_DELIVERY = Statement(
    sa.update(MESSAGES).where(_listed(MESSAGES.c.sequence, "sequences")).values(attempts=MESSAGES.c.attempts + 1)
)
UNCOUNT = Statement(
    sa.update(MESSAGES).where(_listed(MESSAGES.c.sequence, "sequences")).values(attempts=MESSAGES.c.attempts - 1)
)
DELETE_MESSAGES = Statement(sa.delete(MESSAGES).where(_listed(MESSAGES.c.sequence, "sequences")))
PURGE = Statement(
    sa.delete(MESSAGES).where(MESSAGES.c.queue == bindparam("queue"), ~_listed(MESSAGES.c.sequence, "but"))
)
COUNT_MESSAGES = Statement(
    sa.select(
        MESSAGES.c.queue,
        sa.func.count().label("total"),
        sa.func.min(MESSAGES.c.time, type_=UtcTimestamp).label("oldest"),
    ).group_by(MESSAGES.c.queue)
)

PUT_DEAD = Statement(insert(DEAD).values({name: bindparam(name) for name in _DEAD}).on_conflict_do_nothing())
DEAD_LETTERS = Statement(
    sa.select(DEAD).where(DEAD.c.queue == bindparam("queue")).order_by(DEAD.c.sequence).limit(bindparam("limit"))
)
TAKE_DEAD = Statement(
    sa.delete(DEAD)
    .where(
        DEAD.c.queue == bindparam("queue"),
        sa.or_(sa.cast(bindparam("ids", type_=JsonText), sa.Text).is_(None), _listed(DEAD.c.event_id, "ids")),
    )
    .returning(*DEAD.c)
)
PURGE_DEAD = Statement(sa.delete(DEAD).where(DEAD.c.queue == bindparam("queue")))
COUNT_DEAD = Statement(sa.select(DEAD.c.queue, sa.func.count().label("total")).group_by(DEAD.c.queue))


async def create(db: Database) -> None:
    """Make what tables and indexes are not there yet."""
    async with db.transaction() as tx:
        for table in _METADATA.sorted_tables:
            await tx.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                await tx.execute(CreateIndex(index, if_not_exists=True))


def message_row(queue: str, item: Item, time: datetime) -> dict[str, Any]:
    """The row of a message that comes into a queue."""
    message = item.message
    return {
        "sequence": item.sequence,
        "queue": queue,
        "event_id": message.id,
        "name": message.name,
        "key": message.key,
        "body": message.body,
        "attempts": item.attempts,
        "redriven": item.redriven,
        "time": time,
    }


def dead_row(queue: str, item: Item, reason: str, time: datetime) -> dict[str, Any]:
    """The row of a message that is given up."""
    message = item.message
    return {
        "queue": queue,
        "event_id": message.id,
        "name": message.name,
        "key": message.key,
        "body": message.body,
        "attempts": item.attempts,
        "reason": reason,
        "time": time,
    }
