"""`python -m tests.bench.growth`: what a call costs on a thousand tasks and on a million, on both databases (TASK-10).

The Task service is called in process, through its pipeline, on databases that `growth_data` fills. In each round every
size has its turn, with the service opened anew, so that nothing it asks for is in the service's memory already. A
figure is the median of the rounds; the ratios are taken within a round, and hold where the machine is noisy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, Final

import psutil

from taskman_sdk import codec
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    CreateTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    ListTasksResponse,
    SearchTasksRequest,
    SearchTasksResponse,
    Task,
)
from taskman_server.kit.db.migrate import upgrade
from taskman_server.kit.db.postgres import PostgresDatabase
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.kit.rpc import ServiceDefinition
from taskman_server.services import tasks
from tests.bench.growth_data import ADMIN, GUEST, MEMBER, ORGANIZATION, fill, lot, word
from tests.bench.growth_report import plot, table, write_between
from tests.parts.postgresql import PostgreSQL, private_postgresql
from tests.store.databases import KINDS
from tests.store.tasks.harness import House, Peers, open_house

_ROOT: Final = Path(__file__).resolve().parents[2]
_SIZES: Final = (1000, 10_000, 200_000, 1_000_000)
_PATIENCE: Final = 60.0  # seconds for a statement; the server gives it five
_SECONDS: Final = 1.0  # after which a case of a round ends, however few its calls were


@dataclass(frozen=True)
class Case:
    """Something that is asked, again and again with another `number`; `answers` is how many tasks it has to find."""

    name: str
    user: str
    operation: str
    request: Callable[[int], codec.Message[Any]]
    answer: type[codec.Message[Any]]
    calls: int
    answers: int = 1


def _list(name: str, user: str, answers: int, filter: str = "", **asked: Any) -> Case:
    def request(number: int) -> ListTasksRequest:
        text = filter.replace("LOT", lot(2 * number)).replace("USER", f"user_{2 * number}")
        return ListTasksRequest(filter=text, **asked)

    return Case(name, user, "ListTasks", request, ListTasksResponse, 10, answers)


def _search(name: str, user: str, answers: int, query: Callable[[int], str]) -> Case:
    def request(number: int) -> SearchTasksRequest:
        return SearchTasksRequest(query=query(number))

    return Case(name, user, "SearchTasks", request, SearchTasksResponse, 10, answers)


def _get(number: int) -> GetTaskRequest:
    return GetTaskRequest(task=f"BIG-{number + 1}")


def _create(number: int) -> CreateTaskRequest:
    made = Task(project="BIG", title=f"Paint it {number}", labels=["fix", "made"], assignees=[ADMIN])
    return CreateTaskRequest(task=made)


CASES: Final = (
    Case("get", MEMBER, "GetTask", _get, Task, 200),
    Case("create", MEMBER, "CreateTask", _create, Task, 50),
    _list("list: first page", ADMIN, 50),
    _list("list: a project's first page", MEMBER, 50, project="BIG"),
    _list("list: label", MEMBER, 20, '"LOT" in labels'),
    _list("list: assignee", MEMBER, 50, '"USER" in assignees'),
    _list("list: project and state", MEMBER, 20, 'state == "in_review"', project="BIG"),
    _list("list: urgent, by due time", MEMBER, 50, 'priority == "urgent"', order_by="due_time"),
    _list("list: by priority", ADMIN, 50, order_by="priority desc"),
    _list("list: member of the newest project alone", GUEST, 50),
    _search("search: word of 20 tasks", MEMBER, 20, lambda number: word(2 * number)),
    _search("search: word of half the tasks", MEMBER, 50, lambda number: "fix"),
)


@dataclass(frozen=True)
class Place:
    """A filled database. Implements `tests.store.databases.Databases`; can be handed to another process."""

    folder: Path
    kind_: str
    address: str
    tasks: int
    kind: ClassVar[str] = ""

    async def open(self, service: ServiceDefinition, **options: Any) -> SqliteDatabase | PostgresDatabase:
        """Opens it."""
        if self.kind_ == "sqlite":
            return SqliteDatabase(self.address, durability="normal", statement_timeout=_PATIENCE)
        return await PostgresDatabase.open(self.address, name=service.name, pool_size=5, statement_timeout=_PATIENCE)

    async def make(self) -> float:
        """Makes and fills it; how many seconds that took."""
        await asyncio.to_thread(
            upgrade, Path(self.address) if self.kind_ == "sqlite" else self.address, tasks.SERVICE.migrations
        )
        began = time.perf_counter()
        db = await self.open(tasks.SERVICE)
        await fill(db, self.tasks)
        await db.close()
        return time.perf_counter() - began

    async def bytes(self) -> int:
        """How much room it takes."""
        if self.kind_ == "sqlite":
            return os.stat(self.address).st_size
        db = await self.open(tasks.SERVICE)
        assert isinstance(db, PostgresDatabase)
        session = await db.pool.acquire()
        found = await session.driver.fetchval("SELECT pg_database_size(current_database())")
        db.pool.release(session)
        await db.close()
        return int(found)

    @asynccontextmanager
    async def house(self) -> AsyncIterator[House]:
        """The service on it, as if its process had just started."""
        known = {user: (ORGANIZATION, "admin" if user == ADMIN else "member", True) for user in (ADMIN, MEMBER, GUEST)}
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            broker = f"{Path(folder).name}/broker.db"
            async with open_house(self, peers=Peers(known), broker=broker) as house:
                yield house


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES, help="how many tasks, the smallest first")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--databases", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--folder", type=Path, help="where the databases are made; they are removed in the end")
    parser.add_argument("--output", type=Path, default=_ROOT / "build" / "growth.json")
    parser.add_argument("--page", type=Path, help="put the table into this page, and a plot beside it")
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing: take an earlier --output")
    given = parser.parse_args()
    found: dict[str, Any] = json.loads(given.read.read_text()) if given.read else _found(given)
    print(table(found))
    if given.page is not None:
        write_between(given.page, "growth", table(found))
        plot(found, given.page.with_suffix(".svg"))


def _found(given: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=given.folder)))
        for kind in given.databases:
            server = stack.enter_context(private_postgresql(folder)) if kind == "postgresql" else None
            found[kind] = asyncio.run(_measure(folder, kind, server, given.sizes, given.rounds))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(found, indent=1))
    return found


async def _measure(
    folder: Path, kind: str, server: PostgreSQL | None, sizes: Sequence[int], rounds: int
) -> dict[str, Any]:
    places = [
        Place(folder, kind, str(folder / f"{n}.db") if server is None else server.database(f"growth_{n}"), n)
        for n in sizes
    ]
    sizes_of: dict[str, dict[str, float]] = {}
    for place in places:
        seconds = await place.make()
        sizes_of[str(place.tasks)] = {
            "fill_seconds": round(seconds, 1), "bytes_per_task": round(await place.bytes() / place.tasks),
        }  # fmt: skip
        print(f"{kind}: {place.tasks} tasks in {seconds:.0f} s", flush=True)
    backends = partial(_backends, server._control.pid) if server is not None else tuple
    measured: list[Mapping[str, Mapping[str, Sequence[float]]]] = []
    for number in range(rounds):
        turn = places[number % len(places) :] + places[: number % len(places)]
        measured.append({str(place.tasks): await _round(place, number, backends) for place in turn})
        print(f"{kind}: round {number + 1} of {rounds}", flush=True)
    for place in places:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            sizes_of[str(place.tasks)]["rss_mib"] = round(pool.apply(_resident, (place,)), 1)
    least = str(sizes[0])
    cases = {
        case.name: {
            str(n): {
                "us": round(median(each[str(n)][case.name][0] for each in measured), 1),
                "cpu_us": round(median(each[str(n)][case.name][1] for each in measured), 1),
                "cpu_ratio": round(
                    median(each[str(n)][case.name][1] / each[least][case.name][1] for each in measured), 2
                ),
            }
            for n in sizes
        }
        for case in CASES
    }
    return {"sizes": sizes_of, "cases": cases, "rounds": measured}


async def _round(place: Place, number: int, backends: Callable[[], Sequence[int]]) -> dict[str, tuple[float, float]]:
    """Microseconds of time and of CPU (the database server's too) that a call of each case takes."""
    # The same numbers for all sizes of a round; all of them exist among 1,000 tasks.
    numbers = random.Random(number).sample(range(500), 500)
    found = {}
    async with place.house() as house:
        for case in CASES:
            await _ask(house, case, numbers[-1])
            calls, cpu = 0, _cpu(backends())
            began = time.perf_counter()
            while calls < case.calls and time.perf_counter() - began < _SECONDS:
                await _ask(house, case, numbers[calls])
                calls += 1
            took = time.perf_counter() - began
            found[case.name] = (1e6 * took / calls, (_cpu(backends()) - cpu) / 1000 / calls)
    return found


async def _ask(house: House, case: Case, number: int) -> None:
    if case.calls < 50:
        number %= 10  # of the users with 50 tasks there are 20 among 1,000 tasks, every other one in BIG
    answer: Any = await house.call(case.user, case.operation, case.request(number), case.answer)
    if case.answer is not Task:
        assert len(answer.tasks) == case.answers, (case.name, number, len(answer.tasks))


def _cpu(pids: Sequence[int]) -> int:
    """Nanoseconds of this process, and of those."""
    return time.process_time_ns() + sum(_on_cpu(pid) for pid in pids)


def _on_cpu(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    except FileNotFoundError:
        return 0


def _backends(postmaster: int) -> Sequence[int]:
    def client(process: psutil.Process) -> Iterator[int]:
        if "127.0.0.1(" in " ".join(process.cmdline()):
            yield process.pid

    return [pid for child in psutil.Process(postmaster).children() for pid in client(child)]


def _resident(place: Place) -> float:
    """MiB that a process takes which has answered each case once."""

    async def once() -> None:
        async with place.house() as house:
            for case in CASES:
                await _ask(house, case, 1)

    asyncio.run(once())
    return psutil.Process().memory_info().rss / 2**20


if __name__ == "__main__":
    main()
