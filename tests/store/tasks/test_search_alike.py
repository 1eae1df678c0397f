"""Both databases find the same tasks, and nearly in the same order (TASK-6)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from statistics import mean

from taskman_server.services.tasks.store.search import words
from tests.store.databases import PostgresDatabases, PostgresStock, SqliteDatabases
from tests.store.tasks.harness import open_house
from tests.store.tasks.test_search import _all, _fill


async def test_real_titles_are_ranked_alike(tmp_path: Path, postgres_stock: Callable[[], PostgresStock]) -> None:
    """TASK-6: of the ten best on one, most are among the ten best on the other; few pairs stand the other way round."""
    lent = PostgresDatabases(postgres_stock(), tmp_path)
    async with (
        open_house(SqliteDatabases(tmp_path)) as one,
        open_house(lent, broker="other.db") as other,
    ):
        people = []
        for house in (one, other):
            people.append(house.peers.user())
            await house.project(people[-1])
            tasks = await _fill(house, people[-1], 1000)
        pick = random.Random(5)
        queries = ["kanban", "fix kan", "migration bucket", "web-1", "list", "fix", "user", "readme", "docs", "task"]
        for task in pick.sample(tasks, 20):
            pieces = [piece for piece in task.title.split() if words(piece)]
            queries.append(" ".join(pick.sample(pieces, min(len(pieces), pick.randint(1, 2)))))
        best, pairs = [], []
        for query in queries:
            here = [task.key for task in await _all(one, people[0], query, 1000)]
            there = [task.key for task in await _all(other, people[1], query, 1000)]
            assert set(here) == set(there), query
            if len(here) > 10:
                best.append(len(set(here[:10]) & set(there[:10])))
                place = {key: n for n, key in enumerate(there)}
                chosen = list(itertools.combinations(pick.sample(range(len(here)), min(len(here), 60)), 2))
                pairs.append(mean((place[here[a]] < place[here[b]]) == (a < b) for a, b in chosen))
        assert len(best) >= 15
        assert mean(best) >= 7.5
        assert mean(pairs) >= 0.9
    await lent.close()


async def test_a_long_text_is_found_to_its_end(tmp_path: Path, postgres_stock: Callable[[], PostgresStock]) -> None:
    """TASK-6: PostgreSQL numbers 16,383 places: behind them single words are found, words in a row no longer."""
    lent = PostgresDatabases(postgres_stock(), tmp_path)
    async with open_house(SqliteDatabases(tmp_path)) as one, open_house(lent, broker="other.db") as other:
        for house in (one, other):
            ann = house.peers.user()
            await house.project(ann)
            text = "first-pair " + "of " * 17_000 + "last-pair " + "x" * 3000
            await house.task(ann, "Long", description=text)
            assert len(await _all(house, ann, "first-pair", 10)) == 1
            assert len(await _all(house, ann, "last pair", 10)) == 1
            assert len(await _all(house, ann, "pair-of", 10)) == 1
            assert len(await _all(house, ann, "of-first", 10)) == 0
            assert len(await _all(house, ann, "x" * 300, 10)) == 1
            assert len(await _all(house, ann, "last-pair", 10)) == (1 if house is one else 0)
    await lent.close()
