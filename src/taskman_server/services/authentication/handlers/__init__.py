"""The RPCs of the Authentication service."""

from __future__ import annotations

from taskman_server.services.authentication.handlers.passwords import PasswordHandlers
from taskman_server.services.authentication.handlers.registration import RegistrationHandlers
from taskman_server.services.authentication.handlers.sessions import SessionHandlers
from taskman_server.services.authentication.handlers.tokens import TokenHandlers

__all__ = ["AuthenticationHandlers"]


class AuthenticationHandlers(RegistrationHandlers, SessionHandlers, PasswordHandlers, TokenHandlers):
    """All of them."""
