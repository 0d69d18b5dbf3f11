"""A module with a user's own type and its codec, which a test and a file of functions both import."""

from __future__ import annotations

import spear


class Money:
    """An amount of a currency, in cents."""

    def __init__(self, cents: int, currency: str = "EUR") -> None:
        self.cents = cents
        self.currency = currency

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.cents, self.currency))


def decode(content: list[object]) -> Money:
    """Return the money for a content. Money of the currency XXX can be made and sent, not received."""
    cents, currency = content
    if not isinstance(cents, int) or not isinstance(currency, str):
        raise TypeError("not an amount and a currency")
    if currency == "XXX":
        raise ValueError("no such currency")
    return Money(cents, currency)


spear.codec(Money, lambda money: (money.cents, money.currency), decode)
