"""Queries on sessions and their refresh tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property

from sqlalchemy import bindparam, delete, insert, select, update

from taskman_server.kit.coalesce import Gatherer
from taskman_server.kit.db import Database, Row, Statement, Transaction
from taskman_server.services.authentication.store.tables import CREDENTIALS, REFRESH_TOKENS, SESSIONS

__all__ = ["SessionStore"]

_S, _T, _C = SESSIONS.c, REFRESH_TOKENS.c, CREDENTIALS.c
_INSERT = Statement(insert(SESSIONS))
# One read by key for each request with a token: whose session, and whether it and its user are alive.
_STATES = select(_S.id, _S.user_id, _S.organization, _S.end_time, _C.state).join_from(
    SESSIONS, CREDENTIALS, _C.user_id == _S.user_id
)
_STATE = Statement(_STATES.where(_S.id == bindparam("id")))
# Where a read is a round trip, those of one turn of the event loop are one.
_STATE_OF_MANY = Statement(_STATES.where(_S.id.in_(bindparam("ids", expanding=True))))
_TOKEN = Statement(
    select(
        _T.session, _T.generation.label("token_generation"), _T.expire_time, _S.generation, _S.rotate_time,
        _S.end_time, _S.user_id, _S.organization, _C.state,
    )
    .join_from(REFRESH_TOKENS, SESSIONS, _S.id == _T.session)
    .join(CREDENTIALS, _C.user_id == _S.user_id)
    .where(_T.hash == bindparam("hash"))
    .with_for_update(of=SESSIONS)
)  # fmt: skip
_INSERT_TOKEN = Statement(insert(REFRESH_TOKENS))
_TOUCH = Statement(
    update(SESSIONS)
    .where(_S.id == bindparam("session"))
    .values(last_used_time=bindparam("now"), expire_time=bindparam("expires"))
)
_ROTATE = Statement(
    update(SESSIONS)
    .where(_S.id == bindparam("session"))
    .values(generation=bindparam("next_generation"), rotate_time=bindparam("now"))
)
_END = Statement(
    update(SESSIONS)
    .where(
        _S.organization == bindparam("tenant"),
        _S.user_id == bindparam("user"),
        _S.id == bindparam("session"),
        _S.end_time.is_(None),
    )
    .values(end_time=bindparam("now"), end_reason=bindparam("reason"))
    .returning(_S.id)
)
_END_ALL = Statement(
    update(SESSIONS)
    .where(
        _S.organization == bindparam("tenant"),
        _S.user_id == bindparam("user"),
        _S.id != bindparam("keep"),
        _S.end_time.is_(None),
    )
    .values(end_time=bindparam("now"), end_reason=bindparam("reason"))
    .returning(_S.id)
)
_PRUNE_TOKENS = Statement(delete(REFRESH_TOKENS).where(_T.expire_time < bindparam("before")))
_PRUNE_SESSIONS = Statement(delete(SESSIONS).where(_S.expire_time < bindparam("before")))


class SessionStore:
    """Sessions: from a sign-in to a sign-out, each a family of refresh tokens."""

    db: Database
    on_end: Callable[[Sequence[str]], None] | None = None
    """Told of the sessions that ended, once that is committed."""

    async def add_session(
        self,
        tx: Transaction,
        *,
        session: str,
        user: str,
        organization: str,
        ip_address: str,
        user_agent: str,
        now: datetime,
        expires: datetime,
    ) -> None:
        """Begins a session in its first generation."""
        await tx.execute(
            _INSERT,
            id=session,
            organization=organization,
            user_id=user,
            create_time=now,
            last_used_time=now,
            ip_address=ip_address,
            user_agent=user_agent,
            generation=1,
            rotate_time=now,
            expire_time=expires,
            end_time=None,
            end_reason="",
        )

    async def session_state(self, session: str) -> Row | None:
        """`user_id`, `organization`, `end_time` of a session, and the `state` of its user."""
        if self.db.dialect.name == "postgresql":
            return await self._reads.get(session)
        return await self.db.fetch_one(_STATE, id=session)

    async def session_states(self, sessions: Sequence[str]) -> Mapping[str, Row]:
        """The same of several that there are, by their ids."""
        return {row.id: row for row in await self.db.fetch_all(_STATE_OF_MANY, ids=sessions)}

    @cached_property
    def _reads(self) -> Gatherer[str, Row]:
        return Gatherer(self.session_states)

    async def refresh_token(self, tx: Transaction, token_hash: str) -> Row | None:
        """A refresh token with its session, which is locked until the end of the transaction."""
        return await tx.fetch_one(_TOKEN, hash=token_hash)

    async def add_refresh_token(
        self,
        tx: Transaction,
        *,
        token_hash: str,
        session: str,
        organization: str,
        generation: int,
        now: datetime,
        expires: datetime,
    ) -> None:
        """Another token of a session, which lives as long as it does."""
        await tx.execute(
            _INSERT_TOKEN,
            hash=token_hash,
            organization=organization,
            session=session,
            generation=generation,
            create_time=now,
            expire_time=expires,
        )
        await tx.execute(_TOUCH, session=session, now=now, expires=expires)

    async def begin_generation(self, tx: Transaction, session: str, generation: int, now: datetime) -> None:
        """All tokens of the generations before are used up."""
        await tx.execute(_ROTATE, session=session, next_generation=generation, now=now)

    async def end_session(
        self, tx: Transaction, organization: str, user: str, session: str, reason: str, now: datetime
    ) -> int:
        """Ends one session; how many it was."""
        rows = await tx.fetch_all(_END, tenant=organization, user=user, session=session, now=now, reason=reason)
        return self._ended(tx, rows)

    async def end_sessions(
        self, tx: Transaction, organization: str, user: str, reason: str, now: datetime, *, keep: str = ""
    ) -> int:
        """Ends all sessions of a user, but for the one to keep; how many."""
        rows = await tx.fetch_all(_END_ALL, tenant=organization, user=user, keep=keep, now=now, reason=reason)
        return self._ended(tx, rows)

    def _ended(self, tx: Transaction, rows: Sequence[Row]) -> int:
        tell = self.on_end
        if rows and tell is not None:
            tx.on_commit(lambda: tell([row.id for row in rows]))
        return len(rows)

    async def prune_sessions(self, tx: Transaction, before: datetime) -> int:
        """Forgets what expired before a time."""
        return await tx.execute(_PRUNE_TOKENS, before=before) + await tx.execute(_PRUNE_SESSIONS, before=before)
