"""Changing a password, and setting one that was forgotten."""

from __future__ import annotations

from taskman_sdk.errors import FieldViolation, InvalidArgumentError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import (
    ChangePasswordRequest,
    ChangePasswordResponse,
    RequestPasswordResetRequest,
    RequestPasswordResetResponse,
    ResetPasswordRequest,
    ResetPasswordResponse,
)
from taskman_server.kit.crypto import digest
from taskman_server.kit.emails import normal_email
from taskman_server.kit.rpc import Call
from taskman_server.kit.rpc.call import not_found
from taskman_server.services.authentication import rules
from taskman_server.services.authentication.handlers.sessions import refuse_throttled
from taskman_server.services.authentication.mail import PASSWORD_RESET
from taskman_server.services.authentication.parts import Parts, payload
from taskman_server.services.authentication.passwords import check_password
from taskman_server.services.authentication.throttle import Throttle

__all__ = ["PasswordHandlers"]


class PasswordHandlers:
    """Passwords of accounts that exist."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def change_password(self, request: ChangePasswordRequest, call: Call) -> ChangePasswordResponse:
        """The current password is asked for, and guessing it with a stolen token is slowed down as a login is."""
        parts, store = self._parts, self._parts.store
        organization, user = call.principal.organization, call.principal.id
        credential = await store.credential(organization, user)
        if credential is None:
            raise not_found("account", user)
        attempt = Throttle.attempt(credential.email, call.origin.ip_address, known_address=True)
        await refuse_throttled(parts, call, attempt, credential)
        with parts.throttle.under_way(attempt):
            verdict = await parts.passwords.verify(credential.password_hash, request.current_password)
            if not verdict.matches:
                async with parts.runtime.db.transaction() as tx:
                    await parts.throttle.failed(tx, attempt, call.now)
                raise _wrong_current_password()
        check_password(request.new_password, email=credential.email, field="new_password")
        password_hash = await parts.passwords.hash(request.new_password)
        tx = await call.begin()
        current = await store.credential_for_update(tx, organization, user)
        if current is None or current.password_hash != credential.password_hash:
            raise _wrong_current_password()
        await store.set_password(tx, organization, user, password_hash, call.now)
        await parts.throttle.succeeded(tx, attempt)
        await store.delete_action_tokens(tx, user, PASSWORD_RESET)
        session = call.principal.session
        ended = await store.end_sessions(tx, organization, user, "password_changed", call.now, keep=session)
        data = payload(call, user, session, ended_sessions=ended)
        await call.emit(tx, "auth.password.changed", data, subject=user)
        return ChangePasswordResponse()

    async def request_password_reset(
        self, request: RequestPasswordResetRequest, call: Call
    ) -> RequestPasswordResetResponse:
        """Puts the wish down; whether there is such an account is looked up later, when nobody waits for it."""
        email = normal_email(request.email)
        tx = await call.begin()
        await self._parts.mail.request(tx, call, email)
        return RequestPasswordResetResponse()

    async def reset_password(self, request: ResetPasswordRequest, call: Call) -> ResetPasswordResponse:
        """Uses the token of the link up. The address it is used from counts as the owner's (AUTHN-8)."""
        parts, store = self._parts, self._parts.store
        token_hash = digest(request.token)
        token = await store.action_token(token_hash, PASSWORD_RESET, call.now)
        if token is None:
            raise _bad_reset_token()
        user, organization = token.user_id, token.organization
        credential = await store.credential(organization, user)
        if credential is None or credential.state != "active":
            raise _bad_reset_token()
        check_password(request.password, email=credential.email)
        password_hash = await parts.passwords.hash(request.password)
        tx = await call.begin()
        current = await store.credential_for_update(tx, organization, user)
        if current is None or current.state != "active":
            raise _bad_reset_token()
        if not await store.use_action_token(tx, token_hash, PASSWORD_RESET, call.now):
            raise _bad_reset_token()
        await store.set_password(tx, organization, user, password_hash, call.now)
        ended = await store.end_sessions(tx, organization, user, "password_reset", call.now)
        prefix = rules.address_prefix(call.origin.ip_address)
        await store.add_known_address(tx, user, organization, prefix, call.now)
        attempt = Throttle.attempt(credential.email, call.origin.ip_address, known_address=True)
        await parts.throttle.succeeded(tx, attempt)
        data = payload(call, user, ended_sessions=ended)
        await call.emit(tx, "auth.password.changed", data, subject=user, organization=organization, actor=user)
        return ResetPasswordResponse()


def _wrong_current_password() -> InvalidArgumentError:
    return InvalidArgumentError(
        "The current password is wrong.",
        reason="CURRENT_PASSWORD_WRONG",
        field_violations=[FieldViolation("current_password", "it is not the password in force", "password")],
    )


def _bad_reset_token() -> InvalidArgumentError:
    return InvalidArgumentError(
        "The link was used already or has expired. Ask for a new one.",
        reason="RESET_TOKEN_INVALID",
        field_violations=[FieldViolation("token", "it was used already or has expired", "token")],
    )
