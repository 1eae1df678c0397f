"""Tables and queries of projects and tasks; nothing else touches SQL."""

from __future__ import annotations

from taskman_server.services.tasks.store.lists import ORDERS, Found, Lists, PolicyUnplannable, Query
from taskman_server.services.tasks.store.projects import ProjectCache, ProjectStore
from taskman_server.services.tasks.store.reads import TaskReads
from taskman_server.services.tasks.store.search import FTS_DDL, Fts5, SearchIndex, phrases
from taskman_server.services.tasks.store.tables import METADATA
from taskman_server.services.tasks.store.tasks import TaskCache, TaskStore
from taskman_server.services.tasks.store.tsvector import TsVector

__all__ = [
    "FTS_DDL",
    "METADATA",
    "ORDERS",
    "Found",
    "Fts5",
    "Lists",
    "PolicyUnplannable",
    "ProjectCache",
    "ProjectStore",
    "Query",
    "SearchIndex",
    "TaskCache",
    "TaskReads",
    "TaskStore",
    "TsVector",
    "phrases",
]
