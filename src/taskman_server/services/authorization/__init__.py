"""The Authorization service: who may do what (AUTHZ-1, AUTHZ-2, AUTHZ-5).

It decides by a copy of IAM's roles, policies and assignments, made from events and rebuilt from a snapshot at any
time. Deny by default, an explicit deny wins, doubt denies.
"""

from __future__ import annotations

from typing import Final

from taskman_server.kit.rpc.runtime import Runtime, ServiceDefinition, ServiceParts
from taskman_server.services.authorization.consumers import HEARS, AuthorizationConsumers
from taskman_server.services.authorization.copy import Copy, Keeper
from taskman_server.services.authorization.handlers import AuthorizationHandlers

__all__ = ["SERVICE"]


def _build(runtime: Runtime) -> ServiceParts:
    copy = Copy(runtime)
    return ServiceParts(
        handlers=AuthorizationHandlers(runtime, copy),
        subscriptions=AuthorizationConsumers(copy).subscriptions(),
        workers=[Keeper(copy)],
    )


SERVICE: Final = ServiceDefinition(name="authorization", area="authorization", build=_build, port_offset=1, hears=HEARS)
