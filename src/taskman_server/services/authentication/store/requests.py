"""Queries on what a person asks for before being signed in: single-use tokens, mails, and the brakes on guessing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import bindparam, case, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert  # SQLite's compiler takes it too

from taskman_server.kit.db import Database, Row, Statement, Transaction, UniqueViolation
from taskman_server.services.authentication.store.tables import (
    ACTION_TOKENS,
    KNOWN_ADDRESSES,
    MAIL_REQUESTS,
    THROTTLES,
)

__all__ = ["RequestStore"]

_A, _M, _H, _K = ACTION_TOKENS.c, MAIL_REQUESTS.c, THROTTLES.c, KNOWN_ADDRESSES.c
_OPEN = (_A.purpose == bindparam("wanted"), _A.use_time.is_(None), _A.expire_time > bindparam("now"))
_TOKEN = Statement(select(ACTION_TOKENS).where(_A.hash == bindparam("token_hash"), *_OPEN))
_USE_TOKEN = Statement(
    update(ACTION_TOKENS).where(_A.hash == bindparam("token_hash"), *_OPEN).values(use_time=bindparam("used"))
)
_RELEASE_TOKEN = Statement(update(ACTION_TOKENS).where(_A.hash == bindparam("token_hash")).values(use_time=None))
_INSERT_TOKEN = Statement(insert(ACTION_TOKENS))
_DELETE_TOKENS = Statement(
    delete(ACTION_TOKENS).where(_A.user_id == bindparam("user"), _A.purpose == bindparam("purpose"))
)
_PRUNE_TOKENS = Statement(delete(ACTION_TOKENS).where(_A.expire_time < bindparam("before")))
_INSERT_MAIL = Statement(insert(MAIL_REQUESTS))
_DUE_MAILS = Statement(
    select(MAIL_REQUESTS).where(_M.due_time <= bindparam("now")).order_by(_M.due_time, _M.id).limit(50)
)
_NEXT_MAIL = Statement(select(func.min(_M.due_time, type_=_M.due_time.type).label("due_time")))
_CLAIM_MAIL = Statement(
    update(MAIL_REQUESTS)
    .where(_M.id == bindparam("mail"), _M.due_time == bindparam("due"))
    .values(due_time=bindparam("until"))
)
_DELETE_MAIL = Statement(delete(MAIL_REQUESTS).where(_M.id == bindparam("mail")))
_DELAY_MAIL = Statement(
    update(MAIL_REQUESTS)
    .where(_M.id == bindparam("mail"))
    .values(attempts=bindparam("made"), due_time=bindparam("due"))
)
_THROTTLES = Statement(select(THROTTLES).where(_H.key.in_(bindparam("keys", expanding=True))))
_FIRST_FAILURE = upsert(THROTTLES).values(key=bindparam("key"), failures=1, last_time=bindparam("now"), reported=False)
# One statement each, so that of many processes none overwrites what another counted.
_COUNT_FAILURE = Statement(
    _FIRST_FAILURE.on_conflict_do_update(
        index_elements=[_H.key],
        set_={
            "failures": case((_H.last_time > bindparam("since", type_=_H.last_time.type), _H.failures + 1), else_=1),
            "last_time": _FIRST_FAILURE.excluded.last_time,
            "reported": False,
        },
    )
)
_BEGIN_PAUSE = Statement(
    _FIRST_FAILURE.on_conflict_do_update(
        index_elements=[_H.key],
        set_={"failures": 1, "last_time": _FIRST_FAILURE.excluded.last_time, "reported": False},
        where=_H.last_time <= bindparam("before", type_=_H.last_time.type),
    )
)
_REPORT_THROTTLE = Statement(
    update(THROTTLES).where(_H.key == bindparam("name"), _H.reported.is_(False)).values(reported=True)
)
_DELETE_THROTTLE = Statement(delete(THROTTLES).where(_H.key == bindparam("name")))
_PRUNE_THROTTLES = Statement(delete(THROTTLES).where(_H.last_time < bindparam("before")))
_KNOWN = Statement(select(_K.last_time).where(_K.user_id == bindparam("user"), _K.prefix == bindparam("address")))
_NEW_KNOWN = upsert(KNOWN_ADDRESSES)
_ADD_KNOWN = Statement(
    _NEW_KNOWN.on_conflict_do_update(
        index_elements=[_K.user_id, _K.prefix], set_={"last_time": _NEW_KNOWN.excluded.last_time}
    )
)
_PRUNE_KNOWN = Statement(delete(KNOWN_ADDRESSES).where(_K.last_time < bindparam("before")))


class RequestStore:
    """Tokens of links, mails to send, failures to count."""

    db: Database

    async def action_token(self, token_hash: str, purpose: str, now: datetime) -> Row | None:
        """A token that can still be used."""
        return await self.db.fetch_one(_TOKEN, token_hash=token_hash, wanted=purpose, now=now)

    async def use_action_token(self, tx: Transaction, token_hash: str, purpose: str, now: datetime) -> bool:
        """Uses a token up; False when somebody else has, or its time is over."""
        return await tx.execute(_USE_TOKEN, token_hash=token_hash, wanted=purpose, now=now, used=now) == 1

    async def release_action_token(self, tx: Transaction, token_hash: str) -> None:
        """Makes a used token usable again: what it was for did not come about."""
        await tx.execute(_RELEASE_TOKEN, token_hash=token_hash)

    async def replace_action_token(
        self,
        tx: Transaction,
        *,
        token_hash: str,
        purpose: str,
        user: str,
        organization: str,
        now: datetime,
        expires: datetime,
    ) -> None:
        """A new token of a purpose for a user; those before it are gone."""
        await tx.take_turn(f"action {purpose} {user}")
        await tx.execute(_DELETE_TOKENS, user=user, purpose=purpose)
        await tx.execute(
            _INSERT_TOKEN,
            hash=token_hash,
            organization=organization,
            purpose=purpose,
            user_id=user,
            create_time=now,
            expire_time=expires,
            use_time=None,
        )

    async def delete_action_tokens(self, tx: Transaction, user: str, purpose: str) -> None:
        """No token of the purpose works any more."""
        await tx.execute(_DELETE_TOKENS, user=user, purpose=purpose)

    async def add_mail(
        self,
        tx: Transaction,
        *,
        mail: str,
        template: str,
        email: str,
        request_id: str,
        traceparent: str,
        ip_address: str,
        user_agent: str,
        now: datetime,
    ) -> None:
        """Asks for a mail; nothing where the same one waits already."""
        try:
            async with tx.savepoint():
                await tx.execute(
                    _INSERT_MAIL,
                    id=mail,
                    template=template,
                    email=email,
                    create_time=now,
                    due_time=now,
                    attempts=0,
                    request_id=request_id,
                    traceparent=traceparent,
                    ip_address=ip_address,
                    user_agent=user_agent,
                )
        except UniqueViolation:
            pass

    async def due_mails(self, now: datetime) -> list[Row]:
        """Mails to send now, the oldest first."""
        return await self.db.fetch_all(_DUE_MAILS, now=now)

    async def claim_mail(self, row: Row, until: datetime) -> bool:
        """Keeps a due mail from the other processes until a time; False when another one has it."""
        return await self.db.execute(_CLAIM_MAIL, mail=row.id, due=row.due_time, until=until) == 1

    async def next_mail_time(self) -> datetime | None:
        """When the next mail is due; None when none waits."""
        row = await self.db.fetch_one(_NEXT_MAIL)
        return None if row is None else row.due_time

    async def delete_mail(self, tx: Transaction, mail: str) -> None:
        """The mail is sent, or need not be."""
        await tx.execute(_DELETE_MAIL, mail=mail)

    async def delay_mail(self, tx: Transaction, mail: str, attempts: int, due: datetime) -> None:
        """The mail could not be handed over; again at `due`."""
        await tx.execute(_DELAY_MAIL, mail=mail, made=attempts, due=due)

    async def throttles(self, keys: Sequence[str]) -> dict[str, Row]:
        """The counters that exist, by key."""
        return {row.key: row for row in await self.db.fetch_all(_THROTTLES, keys=list(keys))}

    async def count_failure(self, tx: Transaction, key: str, now: datetime, since: datetime) -> None:
        """One failure more; the first one where the last was not after `since`."""
        await tx.execute(_COUNT_FAILURE, key=key, now=now, since=since)

    async def begin_pause(self, tx: Transaction, key: str, now: datetime, before: datetime) -> bool:
        """Notes that something was done now that is done once in a while; False when it was after `before` already."""
        return await tx.execute(_BEGIN_PAUSE, key=key, now=now, before=before) == 1

    async def report_throttle(self, tx: Transaction, key: str) -> bool:
        """Notes that the pause was reported; False when it was before."""
        return await tx.execute(_REPORT_THROTTLE, name=key) == 1

    async def clear_throttle(self, tx: Transaction, key: str) -> None:
        """No failures."""
        await tx.execute(_DELETE_THROTTLE, name=key)

    async def is_known_address(self, user: str, prefix: str) -> bool:
        """Whether the user was signed in from there before."""
        return await self.db.fetch_one(_KNOWN, user=user, address=prefix) is not None

    async def add_known_address(
        self, tx: Transaction, user: str, organization: str, prefix: str, now: datetime
    ) -> None:
        """The user proved to be there."""
        await tx.execute(_ADD_KNOWN, user_id=user, prefix=prefix, organization=organization, last_time=now)

    async def prune_requests(self, tx: Transaction, *, tokens: datetime, failures: datetime, known: datetime) -> int:
        """Forgets tokens that expired before `tokens`, and counters and addresses unused since the other times."""
        return (
            await tx.execute(_PRUNE_TOKENS, before=tokens)
            + await tx.execute(_PRUNE_THROTTLES, before=failures)
            + await tx.execute(_PRUNE_KNOWN, before=known)
        )
