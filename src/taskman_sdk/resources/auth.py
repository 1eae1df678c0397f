# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""What one does with sign-in, async."""

from __future__ import annotations

from collections.abc import Mapping

from taskman_sdk.models.authentication import (
    ChangePasswordResponse,
    Jwks,
    LogoutResponse,
    RegisterResponse,
    RequestPasswordResetResponse,
    ResetPasswordResponse,
    SetUpResponse,
    TokenResponse,
)
from taskman_sdk.resources._base import NOT_GIVEN, AsyncResource, NotGiven

__all__ = ["AsyncAuth"]


class AsyncAuth(AsyncResource):
    """`client.auth`: the verbs of `AuthenticationService`."""

    async def register(
        self,
        *,
        email: str,
        password: str,
        display_name: str,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> RegisterResponse:
        """Signs up with e-mail and password. The answer is the same whether or not the address already has an
        account; its owner is told by mail (AUTHN-5).

        `POST /v1/auth/register` · `AuthenticationService.Register`. Open to everyone.

        Args:
            email: The address to sign in with; compared without case.
            password: At least 8 characters; passwords known from breaches are refused (NIST SP 800-63B).
            display_name: The name that others see.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "authentication",
            "Register",
            RegisterResponse,
            {"email": email, "password": password, "display_name": display_name},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def login(
        self,
        *,
        email: str,
        password: str,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> TokenResponse:
        """Starts a session and answers its access and refresh token.

        `POST /v1/auth/login` · `AuthenticationService.Login`. Open to everyone.

        Args:
            email: The address of the account.
            password: Its password.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "authentication",
            "Login",
            TokenResponse,
            {"email": email, "password": password},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def refresh(
        self,
        *,
        refresh_token: str,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> TokenResponse:
        """Trades a refresh token for a new pair. A token works once; using it again after its short grace revokes
        the whole session (AUTHN-2, RFC 9700 section 4.14).

        `POST /v1/auth/refresh` · `AuthenticationService.Refresh`. Open to everyone.

        Args:
            refresh_token: The refresh token of the last answer.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "authentication",
            "Refresh",
            TokenResponse,
            {"refresh_token": refresh_token},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def logout(
        self,
        *,
        everywhere: bool | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> LogoutResponse:
        """Ends this session, or every session of the caller.

        `POST /v1/auth/logout` · `AuthenticationService.Logout`. For everyone who is signed in.

        Args:
            everywhere: End all sessions of the caller, not just this one.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "authentication",
            "Logout",
            LogoutResponse,
            {"everywhere": everywhere},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def change_password(
        self,
        *,
        current_password: str,
        new_password: str,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> ChangePasswordResponse:
        """Changes the caller's password and ends the caller's other sessions.

        `POST /v1/auth/password:change` · `AuthenticationService.ChangePassword`. For everyone who is signed in.

        Args:
            current_password: The password that is in force.
            new_password: The password to set.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "authentication",
            "ChangePassword",
            ChangePasswordResponse,
            {"current_password": current_password, "new_password": new_password},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def request_password_reset(
        self,
        *,
        email: str,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> RequestPasswordResetResponse:
        """Mails a single-use link that sets a new password, when the address has an account. The answer never
        tells (AUTHN-5).

        `POST /v1/auth/password:requestReset` · `AuthenticationService.RequestPasswordReset`. Open to everyone.

        Args:
            email: The address of the account.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "authentication",
            "RequestPasswordReset",
            RequestPasswordResetResponse,
            {"email": email},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def reset_password(
        self,
        *,
        token: str,
        password: str,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> ResetPasswordResponse:
        """Sets a password with the token of a mailed link, and ends every session of the account.

        `POST /v1/auth/password:reset` · `AuthenticationService.ResetPassword`. Open to everyone.

        Args:
            token: The token in the link.
            password: The password to set.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "authentication",
            "ResetPassword",
            ResetPasswordResponse,
            {"token": token, "password": password},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def set_up(
        self,
        *,
        token: str,
        email: str,
        password: str,
        display_name: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> SetUpResponse:
        """Creates the first administrator with the one-time token that the first start printed (OPS-1).

        `POST /v1/auth/setUp` · `AuthenticationService.SetUp`. Open to everyone.

        Args:
            token: The token of the set-up link.
            email: The administrator's address.
            password: The administrator's password.
            display_name: The administrator's name.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "authentication",
            "SetUp",
            SetUpResponse,
            {"token": token, "email": email, "password": password, "display_name": display_name},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def get_jwks(
        self,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Jwks:
        """The public keys that verify access tokens (RFC 7517, AUTHN-3).

        `GET /.well-known/jwks.json` · `AuthenticationService.GetJwks`. Open to everyone.

        Args:
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "authentication",
            "GetJwks",
            Jwks,
            {},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )
