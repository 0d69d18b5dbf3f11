"""Checks of types with a codec (``spear._codecs``), tables and data frames among them."""

from __future__ import annotations

from spear._codecs import codec_of, is_frame
from spear._util import MissingPackage, text_of

from ._check import Check
from ._mismatch import Mismatch


def coded_check(cls: type, base: Check | None) -> Check | None:
    """Return the check for a class with a codec, whose values arrive as they are.

    Args:
        cls: the class.
        base: the check that the class would have without a codec. It is returned if there is none, and
            otherwise converts the values that do not come from the codec, such as a map for a data class.
    """
    if codec_of(cls) is None:
        return base
    if is_frame(cls):
        return _frame_check(cls)
    check = Check(cls.__name__, cls)

    def convert(value: object) -> object:
        if base is None or base.impossible is not None:
            raise check.mismatch(value)
        return base(value)

    check.complete(convert)
    return check


def _frame_check(cls: type) -> Check:
    """Return the check for a table or a data frame, which is also made of another kind, and of rows."""
    from spear._arrow import convert_frame, load_pyarrow

    check = Check(cls.__name__, cls)
    try:
        load_pyarrow()
    except MissingPackage:
        check.impossible = cls

    def convert(value: object) -> object:
        try:
            return convert_frame(value, cls)
        except Exception as error:  # of a library
            mismatch = check.mismatch(value)
            raise Mismatch(
                f"{mismatch}: {text_of(error)}", expected=mismatch.expected, got=mismatch.got
            ) from error

    check.complete(convert)
    return check
