"""Lists are read from where the database says that they may be; everything else from the database itself (TASK-10)."""

from __future__ import annotations

from typing import Any

import pytest

from taskman_sdk import contract
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    ExportTasksRequest,
    GetTaskRequest,
    ListProjectsRequest,
    ListProjectsResponse,
    ListTasksRequest,
    ListTasksResponse,
    SearchTasksRequest,
    SearchTasksResponse,
    Task,
)
from tests.store.tasks.harness import House


class Replica:
    """The same database, noting that it was asked."""

    def __init__(self, house: House) -> None:
        self._db = house.db
        self.readers: list[str] = []
        self.reads = 0

    async def reader(self, key: str) -> Replica:
        """As `Database.reader`."""
        self.readers.append(key)
        return self

    async def fetch_one(self, statement: Any, /, **params: Any) -> Any:
        """A read."""
        self.reads += 1
        return await self._db.fetch_one(statement, **params)

    async def fetch_all(self, statement: Any, /, **params: Any) -> Any:
        """A read."""
        self.reads += 1
        return await self._db.fetch_all(statement, **params)


@pytest.fixture
def replica(house: House, monkeypatch: pytest.MonkeyPatch) -> Replica:
    """What the house's database names as its reader."""
    made = Replica(house)
    if hasattr(type(house.db), "__slots__"):
        monkeypatch.setattr(type(house.db), "reader", lambda _, key: made.reader(key))
    else:
        monkeypatch.setattr(house.db, "reader", made.reader)
    return made


async def test_lists_ask_for_a_reader_with_the_caller(house: House, replica: Replica) -> None:
    """TASK-10: tasks, their number, searches, exports and projects; a task by its key is read where it is written."""
    ann = house.peers.user()
    await house.project(ann)
    await house.task(ann)
    await house.call(ann, "GetTask", GetTaskRequest(task="WEB-1"), Task)
    assert replica.readers == []
    await house.call(ann, "ListTasks", ListTasksRequest(include_total_size=True), ListTasksResponse)
    assert (replica.readers, replica.reads) == ([ann], 3)
    await house.call(ann, "SearchTasks", SearchTasksRequest(query="paint"), SearchTasksResponse)
    assert (replica.readers, replica.reads) == ([ann] * 2, 5)
    await house.call(ann, "ListProjects", ListProjectsRequest(), ListProjectsResponse)
    assert (replica.readers, replica.reads) == ([ann] * 3, 6)
    method = contract.method("TaskService.ExportTasks")
    answers = [each async for each in house.pipeline.stream(method, ExportTasksRequest(), house.options(ann))]
    assert len(answers) == 1
    assert (replica.readers, replica.reads) == ([ann] * 4, 7)
