"""The Authentication service: signs people in and says who a token belongs to. Alone in holding credentials.

`SERVICE` is what `app` runs. Beside it, for the first start: `ensure_administrator` and `issue_setup_token`; and
`rotate_signing_key` for whoever looks after the keys.
"""

from __future__ import annotations

from taskman_server.kit.crypto import PasswordHasher
from taskman_server.kit.rpc import Runtime, ServiceDefinition, ServiceParts
from taskman_server.services.authentication.consumers import HEARS, UserEvents
from taskman_server.services.authentication.first_start import ensure_administrator, issue_setup_token
from taskman_server.services.authentication.handlers import AuthenticationHandlers
from taskman_server.services.authentication.housekeeping import Housekeeper
from taskman_server.services.authentication.mail import MailWorker
from taskman_server.services.authentication.parts import Parts
from taskman_server.services.authentication.session_cache import SessionCache
from taskman_server.services.authentication.store import AuthenticationStore
from taskman_server.services.authentication.throttle import Throttle
from taskman_server.services.authentication.tokens import KeyRing

__all__ = ["SERVICE", "build", "ensure_administrator", "issue_setup_token", "rotate_signing_key"]


def build(runtime: Runtime) -> ServiceParts:
    """Puts the service together."""
    store = AuthenticationStore(runtime.db)
    sessions = SessionCache(runtime, runtime.redis) if runtime.redis is not None else None
    if sessions is not None:
        store.on_end = sessions.end
    parts = Parts(
        runtime=runtime,
        store=store,
        passwords=PasswordHasher(runtime.settings.password_hash),
        keys=KeyRing(runtime, store),
        throttle=Throttle(store),
        mail=MailWorker(runtime, store),
        sessions=sessions,
    )
    return ServiceParts(
        handlers=AuthenticationHandlers(parts),
        subscriptions=UserEvents(runtime, store).subscriptions(),
        workers=[parts.mail, Housekeeper(runtime, store)],
        wakes=[parts.mail.wake],
        start=parts.keys.start,
    )


async def rotate_signing_key(runtime: Runtime) -> str:
    """Signs with a new key from now on; running processes notice within 30 s. Answers the new key's id (AUTHN-3)."""
    return await KeyRing(runtime, AuthenticationStore(runtime.db)).rotate()


SERVICE = ServiceDefinition("authentication", "authentication", build, port_offset=0, hears=HEARS)
