"""What the handlers of this service share."""

from __future__ import annotations

from dataclasses import dataclass

from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import AuthenticationEvent
from taskman_server.kit.crypto import PasswordHasher
from taskman_server.kit.rpc import Context, Runtime
from taskman_server.services.authentication.mail import MailWorker
from taskman_server.services.authentication.session_cache import SessionCache
from taskman_server.services.authentication.store import AuthenticationStore
from taskman_server.services.authentication.throttle import Throttle
from taskman_server.services.authentication.tokens import KeyRing

__all__ = ["Parts", "origin_of", "payload"]

_USER_AGENT_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of the running service."""

    runtime: Runtime
    store: AuthenticationStore
    passwords: PasswordHasher
    keys: KeyRing
    throttle: Throttle
    mail: MailWorker
    sessions: SessionCache | None = None


def origin_of(context: Context) -> tuple[str, str]:
    """The caller's address and User-Agent, cut to what is kept of them."""
    return context.origin.ip_address, context.origin.user_agent[:_USER_AGENT_LENGTH]


def payload(
    context: Context, user: str = "", session: str = "", *, failure: str = "", ended_sessions: int = 0
) -> AuthenticationEvent:
    """The data of an `auth.*` event."""
    ip_address, user_agent = origin_of(context)
    return AuthenticationEvent(
        user=user,
        session=session,
        failure=failure,
        ip_address=ip_address,
        user_agent=user_agent,
        ended_sessions=ended_sessions,
    )
