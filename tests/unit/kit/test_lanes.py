"""The order of handing out: kept per key, independent between keys (EVENT-2, EVENT-3)."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from taskman_server.kit.broker import Message
from taskman_server.kit.broker.lanes import Item, Lanes


def item(sequence: int, key: str, attempts: int = 0) -> Item:
    return Item(sequence, Message(f"e{sequence}", "task.created", key, ""), attempts, False)


def numbers(batch: list[Item]) -> list[int]:
    return [taken.sequence for taken in batch]


def test_while_a_lane_waits_the_others_flow() -> None:
    """EVENT-2: later messages of the key wait with the one that failed."""
    lanes = Lanes()
    lanes.add([item(1, "a"), item(2, "a"), item(3, "b"), item(4, "a")])
    assert numbers(lanes.take(2)) == [1, 2]
    lanes.put_back(1, wait=True)
    lanes.put_back(2, wait=False)
    assert numbers(lanes.take(9)) == [3]
    lanes.settle(3)
    assert lanes.take(9) == []
    lanes.resume("a")
    assert numbers(lanes.take(9)) == [1, 2, 4]


def test_a_settled_head_frees_its_lane() -> None:
    """EVENT-2: a dead-lettered head releases its key."""
    lanes = Lanes()
    lanes.add([item(1, "a"), item(2, "a"), item(3, "a")])
    assert numbers(lanes.take(1)) == [1]
    assert lanes.take(9) == []
    lanes.settle(1)
    assert numbers(lanes.take(9)) == [2, 3]


def test_what_was_delivered_before_comes_alone() -> None:
    """One that kills its consumer does not use up the attempts of its neighbours."""
    lanes = Lanes()
    lanes.add([item(1, "a"), item(2, "b", attempts=1), item(3, "c", attempts=1), item(4, "d"), item(5, "e")])
    assert [numbers(lanes.take(9)) for _ in range(5)] == [[1], [2], [3], [4, 5], []]


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens to batches, a lane's messages are done in their order and none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes()
        self.next = 0
        self.flying: list[Item] = []
        self.done: dict[str, list[int]] = {}
        self.waiting: set[str] = set()

    @rule(keys=st.lists(st.sampled_from("abc"), max_size=5))
    def arrive(self, keys: list[str]) -> None:
        items = [item(self.next + offset, key) for offset, key in enumerate(keys)]
        self.next += len(keys)
        self.lanes.add(items)

    @rule(limit=st.integers(1, 4))
    def take(self, limit: int) -> None:
        before = {taken.key for taken in self.flying}
        batch = self.lanes.take(limit)
        assert not before & {taken.key for taken in batch}, "a lane in two batches"
        assert not self.waiting & {taken.key for taken in batch}, "a lane that waits"
        self.flying.extend(batch)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), retry=st.booleans())
    def end(self, data: st.DataObject, retry: bool) -> None:
        # A consumer goes through a lane in order; after a failure it gives the rest of the lane back.
        key = data.draw(st.sampled_from(sorted({taken.key for taken in self.flying})))
        lane = [taken for taken in self.flying if taken.key == key]
        if not retry:
            self.lanes.settle(lane[0].sequence)
            self.flying.remove(lane[0])
            self.done.setdefault(key, []).append(lane[0].sequence)
            return
        lane[0].attempts += 1
        self.waiting.add(key)
        for index, taken in enumerate(lane):
            self.lanes.put_back(taken.sequence, wait=index == 0)
            self.flying.remove(taken)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting.discard(key)
        self.lanes.resume(key)

    @invariant()
    def lanes_are_done_in_order(self) -> None:
        for sequences in self.done.values():
            assert sequences == sorted(sequences)

    def teardown(self) -> None:
        for taken in self.flying:
            self.lanes.put_back(taken.sequence, wait=False)
        for key in self.waiting:
            self.lanes.resume(key)
        while batch := self.lanes.take(3):
            for taken in batch:
                self.lanes.settle(taken.sequence)
                self.done.setdefault(taken.key, []).append(taken.sequence)
        self.lanes_are_done_in_order()
        assert sorted(number for lane in self.done.values() for number in lane) == list(range(self.next))


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
