"""What exceptions say, beyond what their users test."""

from __future__ import annotations

import pytest

from spear import DeadlineExceeded
from spear._errors import Delivered


@pytest.mark.parametrize(
    ("seconds", "delivered", "said"),
    [
        (2, "maybe", "f took longer than 2 s"),
        (0.05, "yes", "f took longer than 0.05 s"),
        (8.9984999, "yes", "f took longer than 8.998 s"),
        (0.0004, "maybe", "f took longer than 0.0004 s"),
        (0.00005, "maybe", "f took longer than 0.00005 s"),
        (1e-9, "maybe", "f had less than a microsecond, and took longer"),
        (1e-9, "no", "f had less than a microsecond, and was not begun"),
        (10, "maybe", "f took longer than 10 s"),
        (86_400.25, "yes", "f took longer than 86400.25 s"),
        (2.5, "no", "f was not begun within 2.5 s"),
        (0, "no", "there was no time left to call f"),
        (-1.5, "no", "there was no time left to call f"),
    ],
)
def test_time_that_was_up_is_told(seconds: float, delivered: Delivered, said: str) -> None:
    error = DeadlineExceeded.of_call("f", seconds, delivered)
    assert (str(error), error.delivered) == (said, delivered)
