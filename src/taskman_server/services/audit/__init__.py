"""The Audit service: every event of every service, in one append-only hash chain for each organization.

AUDIT-1, AUDIT-2, AUDIT-3, AUDIT-5. Events of no organization (a failed sign-in to an account that does not exist) are
in the chain of the organization named by the empty string. What a chain can show and what it cannot is said in `rules`.
"""

from __future__ import annotations

from typing import Final

from taskman_server.kit.rpc.runtime import Runtime, ServiceDefinition, ServiceParts
from taskman_server.services.audit.consumers import HEARS, AuditConsumers
from taskman_server.services.audit.handlers import AuditHandlers
from taskman_server.services.audit.keeper import Keeper
from taskman_server.services.audit.stores import store_of

__all__ = ["SERVICE"]


def _build(runtime: Runtime) -> ServiceParts:
    return ServiceParts(
        handlers=AuditHandlers(runtime),
        subscriptions=AuditConsumers(runtime).subscriptions(),
        workers=[Keeper(runtime, store_of(runtime.db))],
    )


SERVICE: Final = ServiceDefinition(name="audit", area="audit", build=_build, port_offset=5, hears=HEARS)
