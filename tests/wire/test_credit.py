"""Windows: spent and returned credit; no credit is lost."""

from __future__ import annotations

from collections import deque

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from spear.wire import ITEM_OVERHEAD_BYTES, ReceiveWindow, SendWindow, Windows

COSTS = st.integers(ITEM_OVERHEAD_BYTES, 3000)


def test_an_item_costs_64_bytes_more_than_it_holds() -> None:
    assert ITEM_OVERHEAD_BYTES == 64


class TestSendWindow:
    """The credit with which this side may send."""

    def test_an_item_may_begin_while_any_credit_is_left_and_is_spent_whole(self) -> None:
        window = SendWindow(100)
        window.available -= 99
        assert window.available > 0
        window.available -= 5000
        assert window.available <= 0
        assert window.available == -4999

    def test_credit_opens_it_again(self) -> None:
        window = SendWindow(100)
        window.available -= 150
        assert window.grant(50)
        assert window.available <= 0
        assert window.grant(1)
        assert window.available > 0

    def test_more_than_was_spent_cannot_come_back(self) -> None:
        window = SendWindow(100)
        window.available -= 30
        assert window.grant(30)
        assert not window.grant(1)


class TestReceiveWindow:
    """The credit with which the peer may send."""

    def test_an_item_needs_credit_to_begin(self) -> None:
        window = ReceiveWindow(100)
        assert window.receive(99)
        assert window.receive(5000)
        assert not window.receive(1)

    def test_an_overdraft_lets_items_overtake_each_other(self) -> None:
        # The sender has started 90 and then 80, of 100; a third of 64 came first.
        window = ReceiveWindow(100, overdraft=80)
        assert window.receive(80)
        assert window.receive(90)
        assert not window.receive(64)

    def test_credit_goes_back_in_halves_of_the_window(self) -> None:
        window = ReceiveWindow(100)
        window.receive(100)
        assert window.consume(49) == 0
        assert window.consume(1) == 50
        assert window.consume(0) == 0
        assert window.consume(50) == 50
        assert window.available == 100


def test_windows_go_both_ways() -> None:
    windows = Windows(10, 20, 5)
    assert (windows.send.size, windows.receive.size) == (10, 20)
    assert windows.receive.overdraft == 5


class Conservation(RuleBasedStateMachine):
    """A sender, a receiver, and the wires between them."""

    SIZE = 4096

    def __init__(self) -> None:
        super().__init__()
        self.sender = SendWindow(self.SIZE)
        self.receiver = ReceiveWindow(self.SIZE)
        self.under_way: deque[int] = deque()
        self.unread: deque[int] = deque()
        self.returning: deque[int] = deque()

    # A rule without work does nothing. With preconditions Hypothesis would sometimes find too few rules
    # to choose from, and report a failure.

    @rule(cost=COSTS)
    def send(self, cost: int) -> None:
        if self.sender.available > 0:
            self.sender.available -= cost
            self.under_way.append(cost)

    @rule()
    def arrive(self) -> None:
        if self.under_way:
            cost = self.under_way.popleft()
            assert self.receiver.receive(cost)
            self.unread.append(cost)

    @rule()
    def consume(self) -> None:
        if self.unread:
            credit = self.receiver.consume(self.unread.popleft())
            self.returning.extend([credit] if credit else [])

    @rule()
    def grant(self) -> None:
        if self.returning:
            assert self.sender.grant(self.returning.popleft())

    @invariant()
    def nothing_is_lost(self) -> None:
        total = self.sender.available + sum(self.under_way) + sum(self.unread)
        assert total + self.receiver.consumed + sum(self.returning) == self.SIZE

    @invariant()
    def the_receiver_knows_what_it_lent(self) -> None:
        unread = sum(self.unread) + self.receiver.consumed
        assert self.receiver.available + unread == self.SIZE
        assert unread < self.SIZE + max(self.unread, default=0) + self.SIZE // 2

    @invariant()
    def nobody_is_stuck(self) -> None:
        """Assert that the sender may send, or that a pending event will allow it."""
        assert self.sender.available > 0 or self.under_way or self.unread or self.returning


@pytest.mark.slow
@pytest.mark.repetitive
def test_credit_is_conserved() -> None:
    run_state_machine_as_test(
        Conservation, settings=settings(max_examples=50, stateful_step_count=40)
    )


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 4096])
def test_a_window_of_any_size_passes_any_number_of_items(size: int) -> None:
    sender, receiver = SendWindow(size), ReceiveWindow(size)
    for n in range(500):
        assert sender.available > 0
        cost = ITEM_OVERHEAD_BYTES + n
        sender.available -= cost
        assert receiver.receive(cost)
        assert sender.grant(receiver.consume(cost))
