"""Tables and queries of the Authentication service; nothing else in it touches SQL."""

from taskman_server.services.authentication.store.accounts import AccountStore
from taskman_server.services.authentication.store.requests import RequestStore
from taskman_server.services.authentication.store.sessions import SessionStore
from taskman_server.services.authentication.store.tables import METADATA

__all__ = ["METADATA", "AuthenticationStore"]


class AuthenticationStore(AccountStore, SessionStore, RequestStore):
    """All queries of the service."""
