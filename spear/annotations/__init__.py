"""Checks made from annotations, which validate a decoded value and convert it.

Names are loaded on first use: a function with plain annotations needs no check before its first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear._lazy import lazily

if TYPE_CHECKING:
    from ._as_written import annotations_of as annotations_of
    from ._as_written import signature_of as signature_of
    from ._build import build_check as build_check
    from ._check import Check as Check
    from ._expected import ExpectedType as ExpectedType
    from ._expected import build_expected_type as build_expected_type
    from ._hints import resolve_hints as resolve_hints
    from ._mismatch import Mismatch as Mismatch
    from ._results import build_result_check as build_result_check
    from ._texts import TypeTexts as TypeTexts

_HOMES = {
    "Check": "._check",
    "ExpectedType": "._expected",
    "Mismatch": "._mismatch",
    "TypeTexts": "._texts",
    "annotations_of": "._as_written",
    "build_check": "._build",
    "build_expected_type": "._expected",
    "build_result_check": "._results",
    "resolve_hints": "._hints",
    "signature_of": "._as_written",
}

__all__ = [*_HOMES]

__getattr__, __dir__ = lazily(__name__, _HOMES)
