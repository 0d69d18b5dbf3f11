"""Values checked against annotations."""

from __future__ import annotations

import pytest

from spear.annotations import Mismatch, build_check, build_result_check


def converted(annotation: object, value: object) -> object:
    """Return a decoded value as a function with the annotation would get it."""
    check = build_check(annotation)
    assert check is not None
    return check(value)


def mismatch_of(annotation: object, value: object) -> Mismatch:
    """Return the error for a decoded value that does not fit an annotation."""
    with pytest.raises(Mismatch) as caught:
        converted(annotation, value)
    return caught.value


def fault_of(annotation: object, result: object) -> tuple[str, str]:
    """Return (path, message) of the error for a result; empty texts if it fits the annotation."""
    check = build_result_check(annotation)
    assert check is not None
    try:
        assert check(result) is result
    except Mismatch as mismatch:
        return mismatch.path, str(mismatch)
    return "", ""
