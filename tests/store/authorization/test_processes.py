"""Two processes of Authorization on one copy: each decides by what the other has taken over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from taskman_server.services.authorization.copy import Copy
from taskman_server.services.authorization.store import METADATA, AuthorizationStore
from tests.store.authorization.test_copy import apply, content, history, truth
from tests.store.databases import Databases
from tests.store.iam.harness import ORGANIZATION, House, open_house

pytestmark = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
Pair = tuple[House, House]


@pytest.fixture
async def pair(databases: Databases, house: House) -> AsyncIterator[Pair]:
    """Two processes of each service; the second leaves its events to the first."""
    async with open_house(databases, beside=house) as other:
        yield house, other


async def empty(house: House) -> None:
    """As before the first question."""
    async with house.runtimes["authorization"].db.transaction() as tx:
        for name in ("organizations", "roles", "policies", "assignments"):
            await tx.execute(sa.delete(METADATA.tables[name]))


@pytest.mark.parametrize("seed", range(3))
async def test_events_that_two_processes_take_over_at_once_come_to_the_same(pair: Pair, seed: int) -> None:
    """AUTHZ-4: shuffled, doubled, and each by another process."""
    events = await history(pair[0])
    doubled = events + random.Random(seed).sample(events, 5)
    random.Random(seed).shuffle(doubled)
    copies = [Copy(house.runtimes["authorization"]) for house in pair]
    await asyncio.gather(*(apply(copies[n % 2], pair[n % 2], event) for n, event in enumerate(doubled)))
    state = await AuthorizationStore(pair[0].runtimes["authorization"].db).state(ORGANIZATION)
    assert state is not None
    assert (state.version, state.ahead) == (max(int(event.data["version"]) for event in events), ())
    assert await content(pair[0]) == await truth(pair[0])


async def test_two_snapshots_at_once_come_to_the_same(pair: Pair) -> None:
    """AUTHZ-4: both processes are asked about an organization that neither knows, while events come in."""
    events = await history(pair[0])
    for turn in range(5):
        await empty(pair[0])
        copies = [Copy(house.runtimes["authorization"]) for house in pair]
        await asyncio.gather(
            *(copy.standing(ORGANIZATION, "user_x") for copy in copies),
            *(apply(copies[n % 2], pair[n % 2], event) for n, event in enumerate(events[turn:])),
        )
        assert await content(pair[0]) == await truth(pair[0])
        state = await AuthorizationStore(pair[0].runtimes["authorization"].db).state(ORGANIZATION)
        assert state is not None
        assert (state.loaded, state.ahead) == (True, ())


async def test_what_one_process_has_taken_over_the_other_decides_by_at_once(pair: Pair) -> None:
    """AUTHZ-4: rules and plans are kept by the state of the copy, and the state is read for each decision."""
    house, other = pair
    user = await house.user()
    await house.role("reader", "audit.read")
    await house.settle()
    assert not (await other.check(user, "audit.read")).allowed
    given = await house.assign(user, "reader")
    await house.settle()
    assert (await other.check(user, "audit.read")).allowed
    await house.policy("none", ["audit.read"], deny=True)
    await house.settle()
    assert not (await other.check(user, "audit.read")).allowed
    assert not (await house.check(user, "audit.read")).allowed
    assert given.principal == user


async def test_rules_are_never_of_two_states(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """AUTHZ-4: the other process changes roles and policies between the two reads of the rules."""
    house, other = pair
    await house.role("first", "tasks.read")
    await house.settle()
    copy = Copy(other.runtimes["authorization"])
    await copy.standing(ORGANIZATION, "user_x")
    await house.role("second", "tasks.read")
    await house.settle()
    read = AuthorizationStore.rulebook

    async def later(store: AuthorizationStore, organization: str) -> object:
        book = await read(store, organization)
        monkeypatch.setattr(AuthorizationStore, "rulebook", read)
        await house.role("third", "tasks.read")
        await house.settle()
        return book

    monkeypatch.setattr(AuthorizationStore, "rulebook", later)
    standing = await copy.standing(ORGANIZATION, "user_x")
    assert {"first", "second", "third"} <= set(standing.book.roles)
    state = await AuthorizationStore(house.runtimes["authorization"].db).state(ORGANIZATION)
    assert state is not None
    assert standing.key == (ORGANIZATION, state.generation)
