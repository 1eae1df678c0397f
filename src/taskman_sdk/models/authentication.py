# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""Models of the area `authentication`."""

from __future__ import annotations

from pydantic import Field

from taskman_sdk.models._base import Model

__all__ = [
    "ChangePasswordResponse",
    "Jwk",
    "Jwks",
    "LogoutResponse",
    "RegisterResponse",
    "RequestPasswordResetResponse",
    "ResetPasswordResponse",
    "SetUpResponse",
    "TokenResponse",
]


class RegisterResponse(Model):
    """The same for every address.

    Attributes:
        email: The address that was signed up, in its normal form.
        next_step: What to do next, in words.
    """

    email: str = Field(default="", description="The address that was signed up, in its normal form.")
    next_step: str = Field(default="", description="What to do next, in words.")


class TokenResponse(Model):
    """A pair of tokens (RFC 6749 section 5.1).

    Attributes:
        access_token: A signed JWT, sent as `Authorization: Bearer …`.
        refresh_token: Trades for the next pair, once.
        token_type: Always `Bearer`.
        expires_in: Seconds until the access token expires.
    """

    access_token: str = Field(default="", repr=False, description="A signed JWT, sent as `Authorization: Bearer …`.")
    refresh_token: str = Field(default="", repr=False, description="Trades for the next pair, once.")
    token_type: str = Field(default="", description="Always `Bearer`.")
    expires_in: int = Field(default=0, description="Seconds until the access token expires.")


class LogoutResponse(Model):
    """The sessions have ended.

    Attributes:
        ended_sessions: How many sessions ended.
    """

    ended_sessions: int = Field(default=0, description="How many sessions ended.")


class ChangePasswordResponse(Model):
    """The password is changed."""


class RequestPasswordResetResponse(Model):
    """The same for every address."""


class ResetPasswordResponse(Model):
    """The password is set."""


class SetUpResponse(Model):
    """The administrator exists and can sign in.

    Attributes:
        user: The administrator's user id.
    """

    user: str = Field(default="", description="The administrator's user id.")


class Jwk(Model):
    """One public key (RFC 8037 for OKP keys).

    Attributes:
        kty: Key type: `OKP`.
        crv: Curve: `Ed25519`.
        x: The public key, base64url.
        kid: Key id, as in the header of a token.
        alg: Algorithm: `EdDSA`.
        use: Use: `sig`.
    """

    kty: str = Field(default="", description="Key type: `OKP`.")
    crv: str = Field(default="", description="Curve: `Ed25519`.")
    x: str = Field(default="", description="The public key, base64url.")
    kid: str = Field(default="", description="Key id, as in the header of a token.")
    alg: str = Field(default="", description="Algorithm: `EdDSA`.")
    use: str = Field(default="", description="Use: `sig`.")


class Jwks(Model):
    """A JSON Web Key Set (RFC 7517).

    Attributes:
        keys: The keys in force, the signing key first.
    """

    keys: list[Jwk] = Field(default_factory=list, description="The keys in force, the signing key first.")
