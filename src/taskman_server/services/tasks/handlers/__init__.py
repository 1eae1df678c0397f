"""One method per RPC: load, decide, store, answer."""

from __future__ import annotations

from taskman_server.services.tasks.handlers.imports import ImportHandlers
from taskman_server.services.tasks.handlers.lists import ListHandlers
from taskman_server.services.tasks.handlers.projects import ProjectHandlers

__all__ = ["TasksHandlers"]


class TasksHandlers(ProjectHandlers, ImportHandlers, ListHandlers):
    """All RPCs of `TaskService`."""
