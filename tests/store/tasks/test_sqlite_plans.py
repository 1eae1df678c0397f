"""That what is hot has an index on SQLite; `test_plans` asks PostgreSQL."""

from __future__ import annotations

from typing import Any

import apsw
import pytest

from taskman_sdk.proto.taskman.task.v1.task_pb import (
    GetTaskRequest,
    ImportTasksRequest,
    ImportTasksResponse,
    ListTasksRequest,
    ListTasksResponse,
    SearchTasksRequest,
    SearchTasksResponse,
    Task,
)
from taskman_server.kit.db.sqlite import SqliteDatabase
from tests.store.tasks.harness import House

pytestmark = pytest.mark.parametrize("databases", ["sqlite"], indirect=True)


class _Plans:
    """Notes what the service reads, to ask SQLite how it does it; `whole` has what reads tasks that a list found."""

    def __init__(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[tuple[str, Any]] = []
        self.whole: list[tuple[str, Any]] = []
        assert isinstance(house.db, SqliteDatabase)
        self._path = str(house.db.path)
        read = house.db._read

        async def noted(prepared: Any, params: Any, *, first: bool) -> Any:
            statement = prepared.bind(params)
            (self.whole if "tasks.seq IN (?" in statement[0] else self.read).append(statement)
            return await read(prepared, params, first=first)

        monkeypatch.setattr(house.db, "_read", noted)

    def steps(self) -> list[str]:
        """The steps of the last statement."""
        return self._steps(*self.read[-1])

    def steps_whole(self) -> list[str]:
        """The steps of the last one that reads tasks whole."""
        return self._steps(*self.whole[-1])

    def _steps(self, sql: str, values: Any) -> list[str]:
        connection = apsw.Connection(self._path)
        try:
            return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
        finally:
            connection.close()


@pytest.fixture
async def full(house: House) -> tuple[House, str]:
    """Some hundred tasks in two projects, and their owner."""
    ann = house.peers.user()
    for key in ("WEB", "OPS"):
        await house.project(ann, key)
        tasks = [Task(title=f"T{n}", labels=["fix"] if n % 9 == 0 else ["ui"]) for n in range(300)]
        await house.call(ann, "ImportTasks", ImportTasksRequest(project=key, tasks=tasks), ImportTasksResponse)
    return house, ann


async def test_a_task_is_read_by_one_indexed_statement(
    full: tuple[House, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hot path: task and project by key, nothing else."""
    house, ann = full
    (first, *_) = await house.pages(ann, 1000)
    plans = _Plans(house, monkeypatch)
    for count, name in enumerate(("WEB-7", first.id), 1):
        await house.call(ann, "GetTask", GetTaskRequest(task=name), Task)
        assert len(plans.read) == count
        steps = plans.steps()
        assert [step.partition(" USING INDEX ")[0] for step in steps] == ["SEARCH tasks", "SEARCH projects"]


@pytest.mark.parametrize(
    ("request_", "index"),
    [
        (ListTasksRequest(project="WEB"), "tasks_project_created"),
        (ListTasksRequest(project="WEB", order_by="create_time desc"), "tasks_project_created"),
        (ListTasksRequest(project="WEB", order_by="update_time desc"), "tasks_project_updated"),
        (ListTasksRequest(project="WEB", filter='state == "todo"'), "tasks_project_state"),
        (ListTasksRequest(project="WEB", filter='"fix" in labels'), "tasks_project_created"),
        (ListTasksRequest(), "tasks_created"),
        (ListTasksRequest(order_by="update_time desc"), "tasks_updated"),
    ],
)
async def test_lists_walk_an_index_in_their_order(
    full: tuple[House, str], monkeypatch: pytest.MonkeyPatch, request_: ListTasksRequest, index: str
) -> None:
    """TASK-6: newest and oldest, by state, by label: nothing is scanned, nothing is sorted; on later pages too."""
    house, ann = full
    values = {name: getattr(request_, name) for name in ("project", "filter", "order_by")}
    token = ""
    plans = _Plans(house, monkeypatch)
    for _ in range(2):
        asked = ListTasksRequest(page_size=10, page_token=token, **values)
        token = (await house.call(ann, "ListTasks", asked, ListTasksResponse)).next_page_token
        assert token
        steps = plans.steps()
        assert f"USING INDEX {index} " in steps[0], steps
        assert not any("TEMP B-TREE" in step or step.startswith("SCAN") for step in steps), steps


async def test_a_page_is_one_statement_and_one_for_what_is_not_known(
    full: tuple[House, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TASK-10: labels and assignees come with the rows, however many there are."""
    house, ann = full
    plans = _Plans(house, monkeypatch)
    for _ in range(2):
        await house.call(ann, "ListTasks", ListTasksRequest(page_size=300), ListTasksResponse)
    assert (len(plans.read), len(plans.whole)) == (2, 1)
    assert plans.steps_whole() == ["SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)"]
    request = SearchTasksRequest(query="t1", page_size=100)
    await house.call(ann, "SearchTasks", request, SearchTasksResponse)
    assert len(plans.read) == 4  # what is newest, and the page
    assert "VIRTUAL TABLE INDEX" in plans.steps()[0]


async def test_a_search_begins_in_its_index_whatever_else_is_asked(
    full: tuple[House, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TASK-6: one look into the index, then each match by its primary key."""
    house, ann = full
    plans = _Plans(house, monkeypatch)
    house.peers.policies["tasks.read"] = '"ui" in resource.labels || principal.id in resource.assignees'
    token = ""
    for _ in range(2):
        request = SearchTasksRequest(query="t1", page_size=5, filter='"ui" in labels && key != "X"', page_token=token)
        token = (await house.call(ann, "SearchTasks", request, SearchTasksResponse)).next_page_token
        steps = plans.steps()
        assert steps[0].startswith("SCAN task_search VIRTUAL TABLE INDEX"), steps
        assert steps[1].startswith("SEARCH tasks USING INTEGER PRIMARY KEY"), steps


@pytest.mark.parametrize("policy", ['resource.visibility == "organization"', 'resource.visibility != "private"'])
async def test_the_projects_that_a_policy_lets_in_are_looked_up_once(
    full: tuple[House, str], monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """TASK-6, AUTHZ-5: and neither the visibility nor the members of its project for each task that is looked at."""
    house, ann = full
    await house.project(ann, "ALL", visibility="organization")
    await house.task(ann, "For all", "ALL")
    plans = _Plans(house, monkeypatch)
    bob = house.peers.user()
    house.peers.policies["tasks.read"] = f"{policy} || principal.id in resource.members"
    for user, found in ((bob, 1), (ann, 601)):
        assert len(await house.pages(user, 1000)) == found
        steps = plans.steps()
        assert "USING INDEX tasks_created " in steps[0], steps
        assert not any("CORRELATED" in step or step.startswith("SCAN") for step in steps), steps
