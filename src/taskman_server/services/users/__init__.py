"""The Users service: holds people, their address, name and state, never a credential (USER-1)."""

from __future__ import annotations

from taskman_server.kit.rpc import Runtime, ServiceDefinition, ServiceParts
from taskman_server.services.users.handlers import UserHandlers

__all__ = ["SERVICE", "build"]


def build(runtime: Runtime) -> ServiceParts:
    """Puts the service together."""
    return ServiceParts(handlers=UserHandlers(runtime))


SERVICE = ServiceDefinition("users", "user", build, port_offset=2)
