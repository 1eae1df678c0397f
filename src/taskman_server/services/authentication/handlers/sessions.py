"""Signing in, staying signed in, signing out."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from taskman_sdk.errors import InvalidArgumentError, TaskManError, UnauthenticatedError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import (
    LoginRequest,
    LogoutRequest,
    LogoutResponse,
    RefreshRequest,
    TokenResponse,
)
from taskman_server.kit.crypto import digest, new_secret
from taskman_server.kit.db import Row, Transaction
from taskman_server.kit.emails import normal_email
from taskman_server.kit.ids import new_id
from taskman_server.kit.organizations import DEFAULT_ORGANIZATION
from taskman_server.kit.rpc import Call
from taskman_server.services.authentication import rules
from taskman_server.services.authentication.parts import Parts, origin_of, payload
from taskman_server.services.authentication.throttle import Attempt, Throttle, throttled

__all__ = ["REFRESH_PREFIX", "SessionHandlers", "refuse_throttled"]

REFRESH_PREFIX: Final = "tmr"


async def refuse_throttled(parts: Parts, call: Call, attempt: Attempt, credential: Row | None) -> None:
    """Refuses an attempt that has to wait; each pause is put on record once.

    Raises:
        ResourceExhaustedError: with the time to wait.
    """
    key, seconds = await parts.throttle.check(attempt, call.now)
    if not seconds:
        return
    async with parts.runtime.db.transaction() as tx:
        if await parts.store.report_throttle(tx, key):
            await _emit_failure(call, tx, credential, "throttled")
    raise throttled(seconds)


async def _emit_failure(call: Call, tx: Transaction, credential: Row | None, failure: str) -> None:
    user = credential.user_id if credential is not None else ""
    await call.emit(
        tx,
        "auth.login.failed",
        payload(call, user, failure=failure),
        subject=user or "anonymous",
        result="failure",
        # Whoever runs the deployment hears of attempts on accounts that do not exist.
        organization=credential.organization if credential is not None else DEFAULT_ORGANIZATION,
    )


def _account(email: str) -> str:
    try:
        return normal_email(email)
    except InvalidArgumentError:
        return email.strip().casefold()  # no account has it, and it takes as long to say so


class SessionHandlers:
    """Sessions and their tokens."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def login(self, request: LoginRequest, call: Call) -> TokenResponse:
        """One error and one duration for every wrong attempt: it does not tell whether there is such an account
        (AUTHN-5). Guessing is slowed down (AUTHN-8)."""
        parts, ip_address = self._parts, call.origin.ip_address
        email = _account(request.email)
        credential = await parts.store.credential_of_email(email)
        prefix = rules.address_prefix(ip_address)
        known = credential is not None and await parts.store.is_known_address(credential.user_id, prefix)
        attempt = Throttle.attempt(email, ip_address, known_address=known)
        await refuse_throttled(parts, call, attempt, credential)
        with parts.throttle.under_way(attempt):
            old_hash = credential.password_hash if credential is not None else None
            verdict = await parts.passwords.verify(old_hash, request.password)
            if credential is None or not verdict.matches or credential.state != "active":
                await self._fail(call, attempt, credential)
        assert credential is not None
        new_hash = await parts.passwords.hash(request.password) if verdict.outdated else ""
        await parts.keys.ready()
        tx = await call.begin()
        current = await parts.store.credential_for_update(tx, credential.organization, credential.user_id)
        # Shut out, or the password changed, while we were verifying.
        if current is None or current.state != "active" or current.password_hash != old_hash:
            raise _wrong_credentials()
        if new_hash and old_hash:
            await parts.store.rehash(tx, credential.user_id, old_hash, new_hash)
        await parts.throttle.succeeded(tx, attempt)
        user, organization = credential.user_id, credential.organization
        await parts.store.add_known_address(tx, user, organization, prefix, call.now)
        session = await self._begin_session(tx, call, user, organization)
        data = payload(call, user, session)
        await call.emit(tx, "auth.login.succeeded", data, subject=user, organization=organization, actor=user)
        return await self._tokens(tx, call, user, organization, session, generation=1)

    async def refresh(self, request: RefreshRequest, call: Call) -> TokenResponse:
        """Rotates; a token that was used up before ends the session (AUTHN-2). One transaction decides, so that of
        two calls at once the second sees what the first did."""
        parts, store = self._parts, self._parts.store
        await parts.keys.ready()
        failure: TaskManError
        async with parts.runtime.db.transaction() as tx:
            row = await store.refresh_token(tx, digest(request.refresh_token))
            if row is None:
                raise _bad_refresh_token()
            state = rules.SessionState(row.generation, row.rotate_time, row.end_time is not None)
            decision = rules.decide_refresh(row.token_generation, row.expire_time, state, call.now)
            user, organization, session = row.user_id, row.organization, row.session
            if row.state != "active" or decision == "ended":
                failure = UnauthenticatedError("The session has ended. Sign in again.", reason="SESSION_ENDED")
            elif decision == "expired":
                failure = UnauthenticatedError(
                    "The refresh token has expired. Sign in again.", reason="REFRESH_TOKEN_EXPIRED"
                )
            elif decision == "reused":
                # Committed, although the call fails: whoever holds the copies of this family is out.
                ended = await store.end_session(tx, organization, user, session, "reused", call.now)
                await call.emit(
                    tx,
                    "auth.token.reused",
                    payload(call, user, session, ended_sessions=ended),
                    subject=user,
                    result="failure",
                    organization=organization,
                    actor=user,
                )
                failure = UnauthenticatedError(
                    "The refresh token was used before, so the session was ended. Sign in again.",
                    reason="REFRESH_TOKEN_REUSED",
                )
            else:
                generation = row.generation
                if decision == "rotate":
                    generation += 1
                    await store.begin_generation(tx, session, generation, call.now)
                data = payload(call, user, session)
                await call.emit(tx, "auth.token.refreshed", data, subject=user, organization=organization, actor=user)
                return await self._tokens(tx, call, user, organization, session, generation=generation)
        raise failure

    async def logout(self, request: LogoutRequest, call: Call) -> LogoutResponse:
        """Ends this session, or all of the caller; its tokens are good for nothing within a second."""
        principal = call.principal
        tx = await call.begin()
        store, where = self._parts.store, (principal.organization, principal.id)
        if request.everywhere:
            ended = await store.end_sessions(tx, *where, "logout", call.now)
        else:
            ended = await store.end_session(tx, *where, principal.session, "logout", call.now)
        if ended:
            session = "" if request.everywhere else principal.session
            data = payload(call, principal.id, session, ended_sessions=ended)
            await call.emit(tx, "auth.logout", data, subject=principal.id)
        return LogoutResponse(ended_sessions=ended)

    async def _fail(self, call: Call, attempt: Attempt, credential: Row | None) -> None:
        if credential is None:
            failure = "unknown_account"
        elif credential.state != "active":
            failure = "deactivated"
        else:
            failure = "password" if credential.password_hash else "no_password"
        async with self._parts.runtime.db.transaction() as tx:
            await self._parts.throttle.failed(tx, attempt, call.now)
            await _emit_failure(call, tx, credential, failure)
        raise _wrong_credentials()

    async def _begin_session(self, tx: Transaction, call: Call, user: str, organization: str) -> str:
        session = new_id("session")
        ip_address, user_agent = origin_of(call)
        await self._parts.store.add_session(
            tx,
            session=session,
            user=user,
            organization=organization,
            ip_address=ip_address,
            user_agent=user_agent,
            now=call.now,
            expires=call.now,
        )
        return session

    async def _tokens(
        self, tx: Transaction, call: Call, user: str, organization: str, session: str, *, generation: int
    ) -> TokenResponse:
        settings = self._parts.runtime.settings
        token = new_secret(REFRESH_PREFIX)
        await self._parts.store.add_refresh_token(
            tx,
            token_hash=digest(token),
            session=session,
            organization=organization,
            generation=generation,
            now=call.now,
            expires=call.now + timedelta(seconds=settings.refresh_token_seconds),
        )
        return TokenResponse(
            access_token=self._parts.keys.sign(user, organization, session),
            refresh_token=token,
            token_type="Bearer",
            expires_in=settings.access_token_seconds,
        )


def _wrong_credentials() -> UnauthenticatedError:
    return UnauthenticatedError(
        "The e-mail address or the password is wrong. Check both, or reset the password.", reason="CREDENTIALS_INVALID"
    )


def _bad_refresh_token() -> UnauthenticatedError:
    return UnauthenticatedError("The refresh token is not valid. Sign in again.", reason="REFRESH_TOKEN_INVALID")
