"""Findings of ``spear doctor``: what was checked, how it is, and what to do about it."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, final

import attrs

CheckStatus: TypeAlias = Literal["ok", "warn", "fail"]

RANKS: Final[dict[CheckStatus, int]] = {"ok": 0, "warn": 1, "fail": 2}


@final
@attrs.frozen
class Finding:
    """The result of one check.

    Attributes:
        check: name of the check.
        status: ``ok``; ``warn`` for a fault that some programs meet; ``fail`` if Spear cannot work.
        says: what was found.
        advice: what to do about it; empty if there is nothing to do.
    """

    check: str
    status: CheckStatus
    says: str
    advice: str = ""


def ok(check: str, says: str, advice: str = "") -> Finding:
    """Return the finding of a check that has passed."""
    return Finding(check, "ok", says, advice)


def warn(check: str, says: str, advice: str) -> Finding:
    """Return the finding of a fault that some programs meet."""
    return Finding(check, "warn", says, advice)


def fail(check: str, says: str, advice: str) -> Finding:
    """Return the finding of a fault with which Spear cannot work."""
    return Finding(check, "fail", says, advice)
