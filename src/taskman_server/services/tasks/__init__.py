"""Projects and tasks: the Task service (TASK-1, TASK-2, TASK-3, TASK-6, TASK-9, TASK-10)."""

from __future__ import annotations

from typing import Final

from taskman_server.kit.rpc import Runtime, ServiceDefinition, ServiceParts
from taskman_server.services.tasks.handlers import TasksHandlers

__all__ = ["SERVICE"]


def _build(runtime: Runtime) -> ServiceParts:
    return ServiceParts(TasksHandlers(runtime))


SERVICE: Final = ServiceDefinition("tasks", "task", _build, port_offset=4)
