"""How PostgreSQL reads five thousand real tasks: by an index, whatever is asked (TASK-10)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
from pytest_asyncio import fixture

from taskman_sdk.proto.taskman.task.v1.task_pb import (
    GetTaskRequest,
    ImportTasksRequest,
    ImportTasksResponse,
    ListProjectsRequest,
    ListProjectsResponse,
    ListTasksRequest,
    ListTasksResponse,
    SearchTasksRequest,
    SearchTasksResponse,
    Task,
)
from taskman_server.kit.db.postgres import PostgresDatabase
from taskman_server.services import tasks
from tests.store.databases import PostgresDatabases, PostgresStock
from tests.store.tasks.harness import House, open_house, shared_rows

LISTS = [
    ListTasksRequest(),
    ListTasksRequest(order_by="create_time desc"),
    ListTasksRequest(order_by="update_time desc"),
    ListTasksRequest(order_by="due_time"),
    ListTasksRequest(filter='"migration" in labels'),
    ListTasksRequest(filter='"USER" in assignees'),
    ListTasksRequest(project="WEB"),
    ListTasksRequest(project="WEB", order_by="create_time desc"),
    ListTasksRequest(project="WEB", filter='state == "in_progress"'),
    ListTasksRequest(project="WEB", filter='"fix" in labels'),
]
SEARCHES = [
    SearchTasksRequest(query="kanban"),
    SearchTasksRequest(query="fix kan"),
    SearchTasksRequest(query="web-42"),
    SearchTasksRequest(query="bucket", filter='state == "done" && "fix" in labels'),
]


class Plans:
    """Notes the statements that the service runs, to ask PostgreSQL how it does it."""

    def __init__(self, house: House, url: str, users: tuple[str, str]) -> None:
        self.house = house
        self.admin, self.member = users
        self._url = url
        self._run: list[tuple[str, Any]] = []
        assert isinstance(house.db, PostgresDatabase)
        run = house.db._run

        async def noted(prepared: Any, method: str, sql: str, values: Any) -> Any:
            self._run.append((sql, values))
            return await run(prepared, method, sql, values)

        house.db._run = noted  # type: ignore[method-assign]

    @asynccontextmanager
    async def without_scans(self) -> AsyncIterator[None]:
        """What runs inside reads no table from end to end, planned for its values and for any."""
        self._run.clear()
        yield
        assert self._run
        assert isinstance(self.house.db, PostgresDatabase)
        connection = await asyncpg.connect(self._url, server_settings=self.house.db._settings)
        try:
            for sql, values in self._run:
                plan = [row[0] for row in await connection.fetch(f"EXPLAIN {sql}", *values)]
                assert not any("Seq Scan" in step for step in plan), "\n".join([sql, *plan])
                await connection.execute(f"SET plan_cache_mode = force_generic_plan; PREPARE asked AS {sql}")
                nothing = ", ".join(["NULL"] * len(set(re.findall(r"\$\d+", sql))))
                execute = f"EXPLAIN EXECUTE asked({nothing})" if nothing else f"EXPLAIN {sql}"
                plan = [row[0] for row in await connection.fetch(execute)]
                assert not any("Seq Scan" in step for step in plan), "\n".join([sql, *plan])
                await connection.execute("DEALLOCATE asked; RESET plan_cache_mode")
        finally:
            await connection.close()


@fixture(scope="module", loop_scope="module")
async def plans(
    tmp_path_factory: pytest.TempPathFactory, postgres_stock: Callable[[], PostgresStock]
) -> AsyncIterator[Plans]:
    """The real work items in one project, some hundred projects beside it, and what PostgreSQL knows of them."""
    folder: Path = tmp_path_factory.mktemp("plans")
    databases = PostgresDatabases(postgres_stock(), folder)
    async with open_house(databases) as house:
        ann, zoe, cem = house.peers.user("admin"), house.peers.user(), house.peers.user()
        await house.project(ann, editor=zoe, viewer=cem)
        for n in range(150):
            await house.project(ann, f"P{n}", visibility="organization" if n % 9 == 0 else "private")
        for n in range(0, 150, 10):
            await house.task(ann, f"Elsewhere {n}", f"P{n}")
        rows = [
            Task(
                title=row["title"],
                description=row["description"],
                labels=list(dict.fromkeys(label for label in row["labels"].split(";") if label)),
                state=row["status"],
                assignees=[zoe if n % 50 == 0 else cem],
            )
            for n, row in enumerate(shared_rows())
        ]
        for start in range(0, len(rows), 500):
            request = ImportTasksRequest(project="WEB", tasks=rows[start : start + 500])
            answer = await house.call(ann, "ImportTasks", request, ImportTasksResponse)
            assert all(result.created for result in answer.results)
        url = await databases.url(tasks.SERVICE)
        connection = await asyncpg.connect(url)
        await connection.execute(
            'INSERT INTO project_members (project, "user", organization, role)'
            " SELECT p.id, 'user_' || n, p.organization, 'viewer' FROM projects p, generate_series(1, 30) n"
        )
        await connection.execute("VACUUM ANALYZE")  # as the server does by itself, a minute later
        await connection.close()
        yield Plans(house, url, (ann, zoe))
    await databases.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_task_is_read_by_its_key_or_id(plans: Plans) -> None:
    """The hot path: one statement, two rows by an index each."""
    found = await plans.house.call(plans.admin, "GetTask", GetTaskRequest(task="WEB-7"), Task)
    for name in ("WEB-7", found.id):
        async with plans.without_scans():
            await plans.house.call(plans.member, "GetTask", GetTaskRequest(task=name), Task)


@pytest.mark.parametrize("who", ["admin", "member"])
@pytest.mark.parametrize("asked", LISTS, ids=lambda each: f"{each.project} {each.order_by} {each.filter}".strip())
async def test_lists_begin_at_their_place_in_an_index(plans: Plans, asked: ListTasksRequest, who: str) -> None:
    """TASK-6, TASK-10: the first page and the second, with every right and with a member's."""
    user: str = getattr(plans, who)
    token = ""
    for _ in range(2):
        request = ListTasksRequest(
            page_size=10,
            page_token=token,
            project=asked.project,
            order_by=asked.order_by,
            filter=asked.filter.replace("USER", plans.member),
        )
        async with plans.without_scans():
            token = (await plans.house.call(user, "ListTasks", request, ListTasksResponse)).next_page_token
        assert token


@pytest.mark.parametrize("who", ["admin", "member"])
@pytest.mark.parametrize("asked", SEARCHES, ids=lambda each: f"{each.query} {each.filter}".strip())
async def test_a_search_begins_in_its_index(plans: Plans, asked: SearchTasksRequest, who: str) -> None:
    """TASK-6, TASK-10."""
    token = ""
    for _ in range(2):
        request = SearchTasksRequest(page_size=3, page_token=token, query=asked.query, filter=asked.filter)
        async with plans.without_scans():
            answer = await plans.house.call(getattr(plans, who), "SearchTasks", request, SearchTasksResponse)
        token = answer.next_page_token
        assert answer.tasks
        assert token


async def test_projects_are_read_in_the_order_of_their_keys(plans: Plans) -> None:
    """TASK-6: a member's few too."""
    for user in (plans.admin, plans.member):
        async with plans.without_scans():
            await plans.house.call(user, "ListProjects", ListProjectsRequest(page_size=10), ListProjectsResponse)
