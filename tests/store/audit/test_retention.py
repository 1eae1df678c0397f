"""What is kept how long, and a chain that tells what is gone: the same on SQLite and PostgreSQL (AUDIT-2, AUDIT-6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from taskman_sdk.proto.taskman.audit.v1.audit_pb import VerifyEventsRequest, VerifyEventsResponse
from taskman_server.kit.clock import ManualClock
from taskman_server.kit.db import DatabaseError
from taskman_server.kit.events import Event
from taskman_server.kit.rpc import Runtime, ServiceParts
from taskman_server.services.audit import SERVICE, rules
from taskman_server.services.audit.keeper import Keeper
from taskman_server.services.audit.store import RECORDS, record_of
from tests.store.audit.house import ORGANIZATION, House, open_house
from tests.store.databases import Databases

NOW = datetime.now(UTC)
OLD = NOW - timedelta(days=410)
ANCIENT = NOW - timedelta(days=2600)


@pytest.fixture
async def house(databases: Databases) -> AsyncIterator[House]:
    """A service whose worker is this test."""
    async with open_house(SERVICE, databases, clock=ManualClock(NOW), build=_without_workers) as opened:
        yield opened


def _without_workers(runtime: Runtime) -> ServiceParts:
    parts = SERVICE.build(runtime)
    parts.workers = []
    return parts


def keeper(house: House) -> Keeper:
    (worker,) = SERVICE.build(house.runtime).workers
    assert isinstance(worker, Keeper)
    return worker


def an_event(house: House, name: str, time: datetime, **values: object) -> Event:
    return house.event(name, {}, time=time, **values)


async def verified(house: House, organization: str = ORGANIZATION) -> VerifyEventsResponse:
    caller = house.user(organization=organization)
    return await house.call("VerifyEvents", VerifyEventsRequest(), VerifyEventsResponse, caller=caller)


async def in_the_end(worker: Keeper) -> int:
    """Turns until one meets nobody; how many records that one removed."""
    while True:
        try:
            return await worker.turn()
        except DatabaseError:
            await asyncio.sleep(0)


async def mixed(house: House, organization: str = ORGANIZATION) -> None:
    """20 records, by their sequence: 1–6 ancient, 7–14 old, 15–20 new; every second one is of security."""
    times = [ANCIENT] * 6 + [OLD] * 8 + [NOW] * 6
    await house.publish(
        *(
            an_event(house, ("task.created", "auth.login.failed")[n % 2], time, organization=organization)
            for n, time in enumerate(times)
        )
    )


async def kept(house: House, organization: str = ORGANIZATION) -> list[int]:
    rows = await house.rows(
        f"SELECT sequence FROM records WHERE organization = '{organization}' AND type <> 'audit.expired'"
        " AND type <> 'audit.read' ORDER BY sequence"
    )
    return [row[0] for row in rows]


async def test_each_category_is_kept_for_its_time_and_the_chain_holds_across_the_gaps(house: House) -> None:
    """AUDIT-2, AUDIT-6: activity 400 days, security 7 years; what went is written down in the chain."""
    await mixed(house)
    before = await verified(house)
    await house.heard()
    assert await keeper(house).turn() == 10
    assert await kept(house) == [8, 10, 12, 14, 15, 16, 17, 18, 19, 20]
    found = await verified(house)
    assert (found.valid, found.problem) == (True, "")
    assert (before.verified_count, before.expired_count, found.expired_count) == (20, 0, 10)
    # 10 left, the read before, and what tells of the removal.
    rows = await house.rows("SELECT data FROM records WHERE type = 'audit.expired' ORDER BY sequence")
    assert found.verified_count == 11 + len(rows)
    assert any('"category":"security"' in row[0] for row in rows)
    assert any('"category":"activity"' in row[0] and '"spans":[{' in row[0] for row in rows)
    assert await keeper(house).turn() == 0
    await house.publish(an_event(house, "task.created", NOW))
    assert (await verified(house)).valid


async def test_what_is_not_written_down_is_a_deletion_still(house: House) -> None:
    """AUDIT-2: beside a gap that is allowed, one that is not is named."""
    await mixed(house)
    await keeper(house).turn()
    await house.tamper("DELETE FROM records WHERE sequence = 16")
    found = await verified(house)
    assert (found.valid, found.first_invalid_sequence) == (False, 16)
    assert "record 16 was deleted" in found.problem
    assert (found.verified_count, found.expired_count) == (5, 10)


async def test_a_record_of_a_removal_cannot_be_made_up_or_taken_away(house: House) -> None:
    """AUDIT-2: not by an event from outside, not by editing one, not by deleting it."""
    await mixed(house)
    forged = house.event("audit.expired", {"category": "activity", "spans": [{"first": "15", "last": "16"}]})
    await house.publish(forged)
    assert (await house.broker.stats())["audit.all"].dead == 1
    assert await house.rows("SELECT id FROM records WHERE type = 'audit.expired'") == []
    await keeper(house).turn()
    assert (await verified(house)).valid
    await house.heard()
    await house.tamper(
        'UPDATE records SET data = replace(data, \'"last":"13"\', \'"last":"14"\') WHERE type = \'audit.expired\''
    )
    await house.tamper("DELETE FROM records WHERE sequence = 14")
    found = await verified(house)
    assert not found.valid
    await house.tamper("DELETE FROM records WHERE type = 'audit.expired'")
    found = await verified(house)
    assert (found.valid, found.first_invalid_sequence) == (False, 1)


async def test_a_record_before_a_gap_cannot_be_made_anew(house: House) -> None:
    """AUDIT-2: the gap is bound to the hash before it, whoever stood there."""
    await mixed(house)
    await keeper(house).turn()
    row = await house.db.fetch_one(
        sa.select(RECORDS).where(RECORDS.c.sequence == 8, RECORDS.c.organization == ORGANIZATION)
    )
    assert row is not None
    record = record_of(row)
    await house.tamper("UPDATE records SET actor = 'user_evil' WHERE sequence = 8")
    changed = await house.db.fetch_one(sa.select(RECORDS).where(RECORDS.c.sequence == 8))
    assert changed is not None
    forged = rules.seal(record_of(changed), rules.Head(7, record.previous))
    await house.tamper(f"UPDATE records SET hash = '{forged.hash}' WHERE sequence = 8")
    found = await verified(house)
    assert (found.valid, found.first_invalid_sequence) == (False, 9)
    assert "made anew" in found.problem


@pytest.mark.parametrize(("hold", "left"), [("org_held", 20), ("*", 20), ("org_other", 10)])
async def test_a_legal_hold_wins(databases: Databases, hold: str, left: int) -> None:
    """AUDIT-6: nothing of a held organization goes; what others have in the same partitions does."""
    clock = ManualClock(NOW)
    async with open_house(SERVICE, databases, clock=clock, build=_without_workers, audit_legal_hold=hold) as house:
        for organization in ("org_held", ORGANIZATION):
            await mixed(house, organization)
        removed = await keeper(house).turn()
        assert len(await kept(house, "org_held")) == left
        assert len(await kept(house)) == (20 if hold == "*" else 10)
        assert removed == {"org_held": 10, "*": 0, "org_other": 20}[hold]
        for organization in ("org_held", ORGANIZATION):
            assert (await verified(house, organization)).valid


async def test_without_end_is_without_end(databases: Databases) -> None:
    """AUDIT-6: 0 days."""
    async with open_house(
        SERVICE, databases, clock=ManualClock(NOW), build=_without_workers,
        audit_retention_security_days=0, audit_retention_activity_days=0,
    ) as house:  # fmt: skip
        await mixed(house)
        assert await keeper(house).turn() == 0
        assert len(await kept(house)) == 20


async def test_a_walk_during_a_removal_sees_no_deletion(house: House) -> None:
    """AUDIT-2: what goes and what is written of it are one commit, and the walk looks again."""
    for _ in range(15):
        await mixed(house)
    walks = asyncio.gather(*(verified(house) for _ in range(5)))
    await keeper(house).turn()
    found = [*await walks, await verified(house)]
    assert [each.problem for each in found] == [""] * 6
    assert found[-1].expired_count == 150


async def test_processes_that_remove_and_append_at_once_get_one_chain(databases: Databases) -> None:
    """AUDIT-2, AUDIT-6: two keepers and four appenders on one database."""
    async with open_house(SERVICE, databases, clock=ManualClock(NOW), build=_without_workers) as house:
        for _ in range(5):
            await mixed(house)
        more = [an_event(house, "task.updated", NOW) for _ in range(40)]
        turns = asyncio.gather(in_the_end(keeper(house)), in_the_end(keeper(house)))
        await house.publish(*more)
        await turns
        found = await verified(house)
        assert (found.valid, found.problem, found.expired_count) == (True, "", 50)
