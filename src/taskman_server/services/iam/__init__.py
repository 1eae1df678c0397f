"""The IAM Admin service: the roles, policies and assignments of every organization (IAM-1, IAM-3).

It owns them; the Authorization service decides by a copy. What every organization has from the start is data in
`defaults`, not rows. Every change counts the organization's version up and is told in an event, in one commit.
"""

from __future__ import annotations

from typing import Final

from taskman_server.kit.rpc.runtime import Runtime, ServiceDefinition, ServiceParts
from taskman_server.services.iam.consumers import HEARS, IamConsumers
from taskman_server.services.iam.handlers import IamHandlers

__all__ = ["SERVICE"]


def _build(runtime: Runtime) -> ServiceParts:
    return ServiceParts(handlers=IamHandlers(runtime), subscriptions=IamConsumers(runtime).subscriptions())


SERVICE: Final = ServiceDefinition(name="iam", area="iam", build=_build, port_offset=3, hears=HEARS)
