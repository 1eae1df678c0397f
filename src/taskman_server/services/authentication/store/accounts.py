"""Queries on credentials, registrations, signing keys and milestones."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import bindparam, delete, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert  # SQLite's compiler takes it too

from taskman_server.kit.db import Database, Row, Statement, Transaction, UniqueViolation
from taskman_server.services.authentication.store.tables import (
    CREDENTIALS,
    MILESTONES,
    REGISTRATIONS,
    SIGNING_KEYS,
)

__all__ = ["AccountStore"]

_C = CREDENTIALS.c
_BY_EMAIL = Statement(select(CREDENTIALS).where(_C.email == bindparam("email")))
_BY_USER = Statement(
    select(CREDENTIALS).where(_C.user_id == bindparam("user_id"), _C.organization == bindparam("organization"))
)
_BY_USER_LOCKED = Statement(
    select(CREDENTIALS)
    .where(_C.user_id == bindparam("user_id"), _C.organization == bindparam("organization"))
    .with_for_update()
)
_INSERT = Statement(insert(CREDENTIALS))
_ATTACH = Statement(
    update(CREDENTIALS)
    .where(_C.user_id == bindparam("user"), _C.password_hash.is_(None))
    .values(password_hash=bindparam("password_hash"), update_time=bindparam("update_time"))
)
_SET_HASH = Statement(
    update(CREDENTIALS)
    .where(_C.user_id == bindparam("user"), _C.organization == bindparam("tenant"))
    .values(password_hash=bindparam("password_hash"), update_time=bindparam("update_time"))
)
_REHASH = Statement(
    update(CREDENTIALS)
    .where(_C.user_id == bindparam("user"), _C.password_hash == bindparam("old_hash"))
    .values(password_hash=bindparam("password_hash"))
)
_SET_IDENTITY = Statement(
    update(CREDENTIALS)
    .where(_C.user_id == bindparam("user"), _C.organization == bindparam("tenant"))
    .values(email=bindparam("email"), state=bindparam("state"), update_time=bindparam("update_time"))
)
_REGISTRATION = Statement(select(REGISTRATIONS).where(REGISTRATIONS.c.id == bindparam("id")))
_NEW_REGISTRATION = upsert(REGISTRATIONS)
_PUT_REGISTRATION = Statement(
    _NEW_REGISTRATION.on_conflict_do_update(
        index_elements=[REGISTRATIONS.c.id],
        set_={name: _NEW_REGISTRATION.excluded[name] for name in ("email", "password_hash", "create_time")},
    )
)
_DELETE_REGISTRATION = Statement(delete(REGISTRATIONS).where(REGISTRATIONS.c.id == bindparam("id")))
_PRUNE_REGISTRATIONS = Statement(delete(REGISTRATIONS).where(REGISTRATIONS.c.create_time < bindparam("before")))
_KEYS = Statement(
    select(SIGNING_KEYS)
    .where(or_(SIGNING_KEYS.c.retire_time.is_(None), SIGNING_KEYS.c.retire_time > bindparam("now")))
    .order_by(SIGNING_KEYS.c.retire_time.is_(None).desc(), SIGNING_KEYS.c.create_time.desc(), SIGNING_KEYS.c.kid)
)
_INSERT_KEY = Statement(insert(SIGNING_KEYS))
_RETIRE_KEYS = Statement(
    update(SIGNING_KEYS)
    .where(SIGNING_KEYS.c.retire_time.is_(None), SIGNING_KEYS.c.kid != bindparam("keep"))
    .values(retire_time=bindparam("retire_time"))
)
_PRUNE_KEYS = Statement(delete(SIGNING_KEYS).where(SIGNING_KEYS.c.retire_time < bindparam("before")))
_MILESTONE = Statement(select(MILESTONES).where(MILESTONES.c.name == bindparam("name")))
_INSERT_MILESTONE = Statement(insert(MILESTONES))
_DELETE_MILESTONE = Statement(delete(MILESTONES).where(MILESTONES.c.name == bindparam("name")))


class AccountStore:
    """Credentials: one for each user, found by address at sign-in and by id after it."""

    def __init__(self, db: Database) -> None:
        self.db = db

    async def credential_of_email(self, email: str) -> Row | None:
        """The credential of an address in its normal form. Addresses are unique everywhere (OPEN-POINTS 3)."""
        return await self.db.fetch_one(_BY_EMAIL, email=email)

    async def credential(self, organization: str, user: str) -> Row | None:
        """The credential of a user."""
        return await self.db.fetch_one(_BY_USER, user_id=user, organization=organization)

    async def credential_for_update(self, tx: Transaction, organization: str, user: str) -> Row | None:
        """The credential of a user, locked until the end of the transaction."""
        return await tx.fetch_one(_BY_USER_LOCKED, user_id=user, organization=organization)

    async def add_credential(
        self, tx: Transaction, *, user: str, organization: str, email: str, password_hash: str | None, now: datetime
    ) -> None:
        """Makes the credential of a user, or gives the one that is there its first password."""
        try:
            async with tx.savepoint():
                await tx.execute(
                    _INSERT,
                    user_id=user,
                    organization=organization,
                    email=email,
                    password_hash=password_hash,
                    state="active",
                    create_time=now,
                    update_time=now,
                )
        except UniqueViolation as error:
            if (
                "user_id" not in error.columns
                and await tx.fetch_one(_BY_USER, user_id=user, organization=organization) is None
            ):
                raise
            if password_hash is not None:
                await tx.execute(_ATTACH, user=user, password_hash=password_hash, update_time=now)

    async def set_password(
        self, tx: Transaction, organization: str, user: str, password_hash: str, now: datetime
    ) -> None:
        """Another password."""
        await tx.execute(_SET_HASH, user=user, tenant=organization, password_hash=password_hash, update_time=now)

    async def rehash(self, tx: Transaction, user: str, old_hash: str, password_hash: str) -> None:
        """The same password with today's parameters, unless it was changed meanwhile."""
        await tx.execute(_REHASH, user=user, old_hash=old_hash, password_hash=password_hash)

    async def set_identity(
        self, tx: Transaction, organization: str, user: str, email: str, state: str, now: datetime
    ) -> int:
        """Address and state as the Users service has them."""
        return await tx.execute(
            _SET_IDENTITY, user=user, tenant=organization, email=email, state=state, update_time=now
        )

    async def registration(self, tx: Transaction, registration: str) -> Row | None:
        """A registration that waits for its user."""
        return await tx.fetch_one(_REGISTRATION, id=registration)

    async def add_registration(self, registration: str, email: str, password_hash: str, now: datetime) -> None:
        """Puts a registration down, before the Users service is asked; an earlier one of the id is replaced."""
        await self.db.execute(
            _PUT_REGISTRATION, id=registration, email=email, password_hash=password_hash, create_time=now
        )

    async def delete_registration(self, tx: Transaction, registration: str) -> None:
        """The registration is dealt with."""
        await tx.execute(_DELETE_REGISTRATION, id=registration)

    async def prune_registrations(self, tx: Transaction, before: datetime) -> int:
        """Forgets registrations that came to nothing."""
        return await tx.execute(_PRUNE_REGISTRATIONS, before=before)

    async def signing_keys(self, now: datetime) -> list[Row]:
        """The keys that verify, the signing one first."""
        return await self.db.fetch_all(_KEYS, now=now)

    async def signing_keys_in(self, tx: Transaction, now: datetime) -> list[Row]:
        """The same, inside a transaction."""
        return await tx.fetch_all(_KEYS, now=now)

    async def add_signing_key(
        self, tx: Transaction, kid: str, private_key: str, now: datetime, retire_others: datetime
    ) -> None:
        """Another signing key; those before it verify until `retire_others`."""
        await tx.execute(_INSERT_KEY, kid=kid, private_key=private_key, create_time=now, retire_time=None)
        await tx.execute(_RETIRE_KEYS, keep=kid, retire_time=retire_others)

    async def prune_signing_keys(self, tx: Transaction, before: datetime) -> int:
        """Erases keys that verify nothing any more."""
        return await tx.execute(_PRUNE_KEYS, before=before)

    async def milestone(self, name: str) -> Row | None:
        """Something that happens once in a deployment's life, for example `administrator`."""
        return await self.db.fetch_one(_MILESTONE, name=name)

    async def drop_milestone(self, tx: Transaction, name: str) -> None:
        """It has to happen again."""
        await tx.execute(_DELETE_MILESTONE, name=name)

    async def add_milestone(self, tx: Transaction, name: str, organization: str, user: str, now: datetime) -> None:
        """It has happened.

        Raises:
            UniqueViolation: it had happened before.
        """
        await tx.execute(_INSERT_MILESTONE, name=name, organization=organization, user_id=user, time=now)
